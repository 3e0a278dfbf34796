"""A vLLM worker over HTTP: one question in, a stream of deltas out.

Owns the wire format of vLLM's completions and the border at which its failures become ours. Chooses nothing and
retries nothing: that is the caller's, who knows whether a token has been sent on already.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import Payload

from backends.base import Delta, Load, TokenLogprobs, Usage
from router.errors import EngineFailed, EngineUnavailable

CONNECT_TIMEOUT_S = 2.0
CHECK_TIMEOUT_S = 2.0
MAX_EVENT_BYTES = 2**18
MAX_REFUSAL_BYTES = 2**16
"""One event's size: a token's text and twenty alternatives take about 4 kB."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None


class _Error(msgspec.Struct):
    """Its message stays where it is: it may repeat the prompt, and is the worker's own log's business."""

    type: str | None = None

    @property
    def kind(self) -> str:
        return self.type if self.type is not None and _KIND.fullmatch(self.type) else "no known reason"


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Refusal(msgspec.Struct):
    error: _Error


_KIND = re.compile(r"[A-Za-z][A-Za-z_]{0,59}")
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode

_LOAD_LINE = re.compile(rb"\nvllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{[^\n]*\})? (\S+)")
"""A sample of one of the gauges, its labels passed over. The other lines, histograms of hundreds, are never taken apart."""


class VllmWorker:
    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        *,
        stall_timeout_s: float = 120.0,
        check_timeout_s: float = CHECK_TIMEOUT_S,
    ) -> None:
        """`session` is shared and stays the caller's. `stall_timeout_s`: the longest silence within an answer."""
        self.name = name
        self._url = url.rstrip("/")
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=stall_timeout_s)
        self._check_timeout = aiohttp.ClientTimeout(total=check_timeout_s)

    def __repr__(self) -> str:
        return f"<VllmWorker {self.name} {self._url}>"

    @asynccontextmanager
    async def complete(self, body: Sequence[bytes]) -> AsyncIterator[AsyncIterator[Delta]]:
        try:
            response = await self._session.post(f"{self._url}/v1/completions", data=_Spliced(body), timeout=self._timeout)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"Worker {self.name} can't be reached ({_words(error)}).") from error
        try:
            if response.status != 200:
                raise await self._refusal(response)
            yield self._deltas(response)
        finally:
            # Not `release`: an unread rest means that vLLM is still generating, and closing is how it learns.
            response.close()

    async def _deltas(self, response: aiohttp.ClientResponse) -> AsyncIterator[Delta]:
        started = done = False
        try:
            async for data in _events(response.content):
                if data == b"[DONE]":
                    done = True
                    break
                delta = self._delta(data, started=started)
                started = started or bool(delta.text)
                yield delta
        except (TimeoutError, aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise EngineFailed(f"Worker {self.name} broke off ({_words(error)}).", started=started) from error
        if not done:
            raise EngineFailed(f"Worker {self.name} ended its answer early.", started=started)

    def _delta(self, data: bytes, *, started: bool) -> Delta:
        try:
            chunk = _decode_chunk(data)
        except msgspec.MsgspecError as error:
            raise EngineFailed(f"Worker {self.name} sent something unreadable ({error}).", started=started) from error
        if chunk.error is not None:
            raise EngineFailed(f"Worker {self.name} failed ({chunk.error.kind}); its log says why.", started=started)
        usage = None
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            cached = (details.cached_tokens or 0) if details else 0
            usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens or 0, cached)
        if not chunk.choices:
            return Delta(usage=usage)
        choice = chunk.choices[0]
        return Delta(choice.text, choice.finish_reason, choice.logprobs, usage)

    async def _refusal(self, response: aiohttp.ClientResponse) -> EngineUnavailable | EngineFailed:
        try:
            refusal = _decode_refusal(await response.content.read(MAX_REFUSAL_BYTES)).error
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError):
            refusal = _Error()
        if response.status in (429, 502, 503, 504):
            return EngineUnavailable(f"Worker {self.name} refuses work now ({response.status}, {refusal.kind}).")
        return EngineFailed(f"Worker {self.name} answered {response.status} ({refusal.kind}); its log says why.")

    async def check(self) -> str | None:
        try:
            async with self._session.get(f"{self._url}/health", timeout=self._check_timeout) as response:
                return None if response.status == 200 else f"its /health answers {response.status}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return f"can't be reached at {self._url} ({_words(error)})"

    async def load(self) -> Load | None:
        plain = {"Accept-Encoding": "identity"}
        try:
            async with self._session.get(f"{self._url}/metrics", timeout=self._check_timeout, headers=plain) as response:
                return _load(await response.read()) if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, HttpProcessingError, OSError):
            return None


class _Spliced(Payload):
    """A JSON body in parts, written one after another: a stored prefix is never copied."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(parts, content_type="application/json")
        self._parts = parts
        self._size = sum(map(len, parts))

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._parts:
            await writer.write(part)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._parts).decode(encoding, errors)


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event. Split here: a worker sends several at once, and a read a line costs more than they do.

    Raises ValueError for a line that is longer than any event of vLLM's.
    """
    rest = b""
    async for received in stream.iter_any():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of over {MAX_EVENT_BYTES} bytes")


def _load(metrics: bytes) -> Load | None:
    """The gauges' sums over their label sets, of the share of KV the fullest: a worker may be several engines. None if one is missing."""
    found: dict[bytes, list[float]] = {}
    try:
        for name, value in _LOAD_LINE.findall(b"\n" + metrics):
            found.setdefault(name, []).append(float(value))
        running, waiting = (int(sum(found[name])) for name in (b"num_requests_running", b"num_requests_waiting"))
        return Load(running, waiting, max(found[b"kv_cache_usage_perc"]))
    except (KeyError, ValueError, OverflowError):  # a gauge that is missing, no number, NaN or infinite
        return None


def _words(error: BaseException) -> str:
    """Of what fails in the midst of an answer only the kind: aiohttp shows the bytes that it could not read."""
    quotes = isinstance(error, HttpProcessingError | aiohttp.ClientPayloadError | aiohttp.ClientResponseError)
    return type(error).__name__ if quotes else str(error) or type(error).__name__
