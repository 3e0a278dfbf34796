"""One client's connection: what uvicorn's protocol leaves open. Time and size limits, framing in doubt, clients that don't read.

Rules:
1. What can be read in two ways is refused (400), and nothing after it is read: no second request hides in a first one.
2. A refusal is an answer where that can still be one. While an earlier request is being answered it is none: the answer
   goes on to its end, and the connection closes with it.
3. Limits count before anything is kept: a body that says it is too long is refused unread, one that turns out to be while
   it comes. The application never sees either.

What every answer carries is `gateway/edge/door.py`'s.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.edge.door import HEADERS as SAFE_HEADERS
from gateway.edge.limits import HEAD_BYTES, HEADERS, PIPELINED, URL_BYTES, Limits
from gateway.errors import (
    BodyTooLong,
    HeadersTooLong,
    Malformed,
    TooManyConnections,
    TooSlow,
    UrlTooLong,
    encoded,
    headers,
    status_of,
)
from router.errors import KvshelfError

LINGER_S = 2.0
"""After a refusal the client may finish sending for this long: were it cut off at once, it might never see the answer."""


class Part(Enum):
    """What the client is to send next."""

    NOTHING = "nothing"
    HEAD = "the headers"
    BODY = "the body"


class Connection(HttpToolsProtocol):
    def __init__(self, *arguments: Any, limits: Limits, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._limits = limits
        self._part = Part.NOTHING
        self._deaf = False
        """Whatever else comes is not read."""
        self._refusal: KvshelfError | None = None
        """Why the parser was stopped from within."""
        self._message = 0
        self._waited_for = (Part.NOTHING, 0)
        """The part and the message that the client's time runs for."""
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._packet = 0
        self._head_bytes = 0
        self._framing_bytes = 0
        """Of a body: what came beside its content."""
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(TooManyConnections("The gateway has as many connections as it takes. Try again in a moment."))
            transport.close()  # at once: to linger would be one more connection
            return
        self._part = Part.HEAD
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._waiting, self._stalled, self._lingering):
            if timer is not None:
                timer.cancel()

    # What comes

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._deaf or self.parser is None:
            return
        self._packet = len(data)
        if self._part is Part.BODY:
            self._framing_bytes += len(data)
        else:
            self._part = Part.HEAD
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
            self._check_sizes()
        except httptools.HttpParserUpgrade:
            # Answered as if nothing else were asked for; what follows would be in no protocol that is spoken here.
            self._deaf, self.cycle.keep_alive = True, False
        except httptools.HttpParserError:
            self._refuse(self._refusal or Malformed("This is not a well-formed HTTP/1.1 request."))
        except KvshelfError as error:
            self._refuse(error)
        if (self._part, self._message) != self._waited_for:
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._framing_bytes, self._body_bytes = self._packet, 0, 0
        self._part = Part.HEAD
        self._message += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part is Part.BODY:  # a trailer: what comes after the body is no header, whatever it is called
            return
        if len(self.headers) == HEADERS:
            self._stop(HeadersTooLong(f"There are more than {HEADERS} headers. Send fewer."))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        self._part = Part.BODY

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        if self._body_bytes > self._limits.max_body_bytes:
            self._stop(BodyTooLong(self._limits.max_body_bytes))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part = Part.NOTHING
        super().on_message_complete()

    def _check_head(self) -> None:
        """Before the application hears of the request."""
        if len(self.url) > URL_BYTES:
            self._stop(UrlTooLong(f"The URL is over {URL_BYTES} bytes. Send what is long in the body."))
        if self._head_bytes > HEAD_BYTES and _size(self.url, self.headers) > HEAD_BYTES:
            self._stop(HeadersTooLong(f"The headers are over {HEAD_BYTES} bytes together. Send less."))
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._stop(Malformed("Only HTTP/1.1 is spoken here."))
        if not self.url.startswith(b"/"):
            self._stop(Malformed("The request line must name a path, as `GET /health/live`; this is no proxy."))
        hosts = lengths = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths += 1
                # More digits than that would take Python a while to read, and are over any limit.
                if not value.isdigit() or len(value) > 18 or int(value) > self._limits.max_body_bytes:
                    self._stop(BodyTooLong(self._limits.max_body_bytes) if value.isdigit() else _malformed("Content-Length"))
            elif name == b"transfer-encoding":
                lengths += 1
                if value.lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                    self._stop(_malformed("Transfer-Encoding"))
        if lengths > 1:
            self._stop(Malformed("The body's length is said more than once: send one Content-Length, or one Transfer-Encoding."))
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            self._stop(_malformed("Host"))
        if len(self.pipeline) >= PIPELINED:
            self._stop(Malformed("Too many requests wait on this connection for the answers before them."))

    def _check_sizes(self) -> None:
        """After each packet: of what the parser keeps and has told nobody of yet."""
        if self._part is Part.HEAD and self._head_bytes > HEAD_BYTES:
            raise HeadersTooLong(f"The headers are over {HEAD_BYTES} bytes together. Send less.")
        # A chunk's size and extensions, and trailers, are no content; of the latter the parser keeps one whole.
        if self._part is Part.BODY and self._framing_bytes > HEAD_BYTES + 8 * self._body_bytes:
            raise Malformed("The body is hardly more than the frames around its chunks. Send larger chunks.")

    def _stop(self, error: KvshelfError) -> None:
        """Out of a callback of the parser's, which only knows that there was an error."""
        self._refusal = error
        raise error

    # What takes too long

    def _wait(self) -> None:
        """From now on the client's time runs for what it is to send, and for nothing else."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._waited_for = self._part, self._message
        if self._part is not Part.NOTHING:
            self._waiting = self.loop.call_later(self._limit_s, self._too_slow)

    @property
    def _limit_s(self) -> float:
        return self._limits.header_timeout_s if self._part is Part.HEAD else self._limits.body_timeout_s

    def _too_slow(self) -> None:
        # While nothing is read here, nothing could have come; and a request behind another has time until that is answered.
        if self.flow.read_paused or (self._part is Part.HEAD and self._answering):
            self._waiting = self.loop.call_later(self._limit_s, self._too_slow)
            return
        setting = "server.header_timeout_s" if self._part is Part.HEAD else "server.body_timeout_s"
        self._refuse(TooSlow(f"{self._part.value.capitalize()} did not arrive within {self._limit_s:g} s (`{setting}`)."))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._see_it_close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._see_it_close()

    def _see_it_close(self) -> None:
        """A transport that closes first sends what is left: for ever, to a client that takes nothing."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size() and self._stalled is None:
            self._stall()

    def _stall(self) -> None:
        self._stalled = self.loop.call_later(self._limits.send_stall_s, self.transport.abort)

    # What is refused

    @property
    def _answering(self) -> bool:
        """An answer is under way, or waits for its turn."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _refuse(self, error: KvshelfError) -> None:
        """Answer with this error, where there can be an answer, and close."""
        self._deaf = True
        own, answering = self._part is Part.BODY, self._answering
        self._part = Part.NOTHING
        self._unset_keepalive_if_required()
        if answering and not own:
            self.cycle.keep_alive = False
            return
        if answering and (self.pipeline or self.cycle.response_started):
            self.transport.abort()
            return
        if answering:  # its application sees the client leave
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing():
            return
        if answering or not own:
            self.transport.write(_answer(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._lingering = self.loop.call_later(LINGER_S, self.transport.abort)


def _size(url: bytes, fields: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in fields)


def _malformed(header: str) -> Malformed:
    return Malformed(f"The header {header} is missing, stands twice, or has a value that is not supported here.")


def _answer(error: KvshelfError) -> bytes:
    body = encoded(error)
    fields = {
        b"content-type": b"application/json",
        b"content-length": str(len(body)).encode(),
        b"connection": b"close",
        **{name.encode(): value.encode() for name, value in headers(error).items()},
        **dict(SAFE_HEADERS),
    }
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields.items())
    return STATUS_LINE[status_of(error)[0]] + lines + b"\r\n" + body
