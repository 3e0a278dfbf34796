"""What tenants asked, and what it took: the rows of it, added up and grouped.

Must not know where rows are kept (`backends/store`), nor when they are booked (`gateway/tenants/usage.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

BY = ("tenant", "key", "document", "day")
"""What a row is of, and what rows may be grouped by."""
COUNTS = ("questions", "parts", "refused", "prompt_tokens", "cached_tokens", "completion_tokens", "saved_s")


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What one key asked of one document on one day; "" for what rows were added up over.

    `key`: its public id. `document`: its name, "" also for questions to several and for those that were refused before one was
    found. `day`: of UTC, as 2026-11-24.
    """

    tenant: str = ""
    key: str = ""
    document: str = ""
    day: str = ""
    questions: int = 0
    """Each question of a client once, however it ended."""
    parts: int = 0
    """Parts of questions to several documents, each with its document; the question itself is with none."""
    refused: int = 0
    """Of the questions, those that were given no token, by an error and not because their client left."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that were not computed again."""
    completion_tokens: int = 0
    saved_s: float = 0.0
    """Seconds that a worker would have taken to compute the cached ones: these, divided by its speed (`gateway/tiers/speeds.py`)."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.tenant, self.key, self.document, self.day

    def plus(self, other: Used) -> Used:
        """Both counted together, in this one's place."""
        return Used(
            tenant=self.tenant,
            key=self.key,
            document=self.document,
            day=self.day,
            questions=self.questions + other.questions,
            parts=self.parts + other.parts,
            refused=self.refused + other.refused,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            saved_s=self.saved_s + other.saved_s,
        )


def grouped(rows: Iterable[Used], by: Sequence[str]) -> list[Used]:
    """Added up over all that is not in `by` (some of `BY`), in the order of what they are grouped by."""
    found: dict[tuple[str, ...], Used] = {}
    for row in rows:
        place = tuple(getattr(row, name) for name in by)
        found[place] = found.get(place, Used(**dict(zip(by, place, strict=True)))).plus(row)
    return [found[place] for place in sorted(found)]
