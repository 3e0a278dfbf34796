"""The body sent to a worker: its fields, all of them, and the splice of a question onto a stored prefix.

A client's JSON never passes: what is not in `Sampling` can't reach the engine. The prefix is encoded once per
version (`opening`) and only joined afterwards, so a request costs in proportion to its question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from router.documents import Salt


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client may say about how the answer is drawn. Absent ones are the engine's defaults."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    """How many alternatives a token (0 to 20), none for no log-probabilities at all."""


class _Transfer(msgspec.Struct, frozen=True, rename={"max_offload_tokens": "lmcache.max_offload_tokens"}):
    max_offload_tokens: int


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = True


class _Tail(msgspec.Struct, frozen=True):
    """Everything after the prompt, apart from the sampling."""

    max_tokens: int
    cache_salt: Salt
    kv_transfer_params: _Transfer
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()


def opening(model: str, prefix_ids: Iterable[int]) -> bytes:
    """The beginning of every body of a version: `{"model":…,"prompt":[` and its ids, the list left open."""
    return b'{"model":' + msgspec.json.encode(model) + b',"prompt":[' + ",".join(map(str, prefix_ids)).encode()


def body(
    opening: bytes, suffix_ids: Sequence[int], *, salt: Salt, keep_tokens: int, max_tokens: int, sampling: Sampling | None = None
) -> tuple[bytes, bytes]:
    """The body in two parts, the first of them `opening` itself.

    `keep_tokens`: how much of the prompt may be stored beyond the worker (the document, never the question).
    """
    tail = msgspec.json.encode(_Tail(max_tokens, salt, _Transfer(keep_tokens)))
    drawn = msgspec.json.encode(sampling) if sampling is not None else b"{}"
    joined = tail if drawn == b"{}" else tail[:-1] + b"," + drawn[1:]
    ids = ",".join(map(str, suffix_ids)).encode()
    return opening, (b"," + ids if ids else b"") + b"]," + joined[1:]
