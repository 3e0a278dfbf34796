"""A question as a client asks it, and as it is laid out behind its document's prefix."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.shelf.prefixes import PreparedPrefix
from router.documents import Document, Salt, Version
from router.prompts import Message
from router.upstream import Sampling, body


class Question(msgspec.Struct, frozen=True):
    """What a client asks. `bypass`: past all KV, and nothing of it is kept.

    `answer_tokens` is how long the answer may be, and refused where the context leaves less; at `at_most` it is cut in any case.
    """

    turns: Sequence[Message]
    system: str
    answer_tokens: int | None
    sampling: Sampling
    bypass: bool = False
    at_most: int | None = None


class LaidOut(msgspec.Struct, frozen=True):
    """A question as it stands behind its document's prefix. `document`: None for a text that is none."""

    document: Document | None
    version: Version
    prefix: PreparedPrefix
    suffix: list[int]
    max_tokens: int
    sampling: Sampling
    salt: Salt
    bypass: bool

    @property
    def prompt_tokens(self) -> int:
        return self.version.prefix_tokens + len(self.suffix)

    def body(self, keep_tokens: int) -> tuple[bytes, bytes]:
        return body(
            self.prefix.opening,
            self.suffix,
            salt=self.salt,
            keep_tokens=keep_tokens,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
        )
