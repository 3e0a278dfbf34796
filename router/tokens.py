"""Where a question's tokens came from: the account of what the caches spared."""

from __future__ import annotations

import msgspec


class TokenSplit(msgspec.Struct, frozen=True):
    """A question's prompt, in tokens. The three add up to what was asked."""

    recomputed: int = 0
    """Prefilled by the model."""
    restored: int = 0
    """Brought from RAM or disk."""
    reused: int = 0
    """Found on the worker's GPU tier."""

    @property
    def asked(self) -> int:
        return self.recomputed + self.restored + self.reused

    def plus(self, other: TokenSplit) -> TokenSplit:
        return TokenSplit(self.recomputed + other.recomputed, self.restored + other.restored, self.reused + other.reused)


def split(*, prompt: int, cached: int, prefix: int, on_gpu: int) -> TokenSplit:
    """What the engine's usage means (all in tokens): `cached` of `prompt` were not computed.

    `on_gpu` of the document's `prefix` were on the worker's GPU tier when it was asked: the rest of the prefix that was
    cached must have been restored. What is cached behind the prefix, an earlier question's, is never stored elsewhere.
    """
    cached = min(cached, prompt)
    restored = max(min(cached, prefix) - on_gpu, 0)
    return TokenSplit(prompt - cached, restored, cached - restored)
