"""The few ASGI moves that the hot path makes by itself: reading a bounded body, noticing that the client left."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from backends.extract import NotText
from gateway.errors import BodyTooLong


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
