"""What can go wrong with the engine on this machine: one error that carries every problem. Nothing else lives here."""

from __future__ import annotations

from collections.abc import Sequence

from router.errors import KvshelfError


class LocalEngineError(KvshelfError):
    """The local engine can't start or run. `problems`: one sentence each, saying how to mend it."""

    code = "local_engine"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
