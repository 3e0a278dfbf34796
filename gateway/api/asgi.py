"""The few ASGI moves that the hot path makes by itself: reading a bounded body, noticing that the client left, sending in time.

And the one middleware around all of them: a request id.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from backends.extract import NotText
from gateway.errors import BodyTooLong

SEND_STALL_S = 60.0
"""A client that takes nothing for this long is let go."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises BodyTooLong for one over `limit` bytes, before it is all here."""
    body = bytearray()
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLong(limit)
        if not message.get("more_body"):
            return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Return once the client is gone. Only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_in_time(send: Send, message: Any) -> None:
    """Send one message. A client that has stopped reading is as good as gone: CancelledError."""
    try:
        async with asyncio.timeout(SEND_STALL_S):
            await send(message)
    except TimeoutError:
        raise asyncio.CancelledError from None


def no_cache(scope: Scope) -> bool:
    """Whether the request asks for an answer with no KV reused."""
    return any(name == b"cache-control" and b"no-cache" in value for name, value in scope["headers"])


def uncompressed(app: ASGIApp) -> ASGIApp:
    """Refuses bodies that say they are compressed: nothing here unpacks one, so none can become a thousand times its size."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        for name, value in scope.get("headers", ()):
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise NotText(
                    f"The body is compressed (`content-encoding: {value[:40].decode('latin-1')}`), which kvshelf does not unpack: send it plain."
                )
        await app(scope, receive, send)

    return middleware


def entity(media_type: str, length: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", media_type.encode()), (b"content-length", str(length).encode())]


def request_id(app: ASGIApp) -> ASGIApp:
    """Gives every request an id: in its log lines and in `x-request-id` on the response."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        made = secrets.token_hex(16)
        structlog.contextvars.bind_contextvars(request_id=made)

        async def with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", made.encode())]
            await send(message)

        try:
            await app(scope, receive, with_id)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")

    return middleware
