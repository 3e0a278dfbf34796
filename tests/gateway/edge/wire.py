"""Bytes on a socket, and what comes back: a client that need not keep to the rules; and a small application to send them to."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from litestar import Litestar, Request, asgi, get, post
from litestar.datastructures import State
from litestar.response import Stream
from litestar.types import Receive, Scope, Send

from gateway.edge.limits import Limits
from gateway.errors import HANDLERS
from gateway.server import LIMITS

LARGE = 32 * 2**20


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        return json.loads(self.body)["error"]


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Returns also where the other side takes no more."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            pass

    async def rest(self, *, within_s: float = 5.0) -> bytes:
        """Everything until the server closes."""
        received = bytearray()
        try:
            async with asyncio.timeout(within_s):
                while data := await self._reader.read(2**16):
                    received += data
        except ConnectionError:
            pass
        return bytes(received)

    async def answers(self, *, within_s: float = 5.0) -> list[Answer]:
        """All of them, once the server has closed."""
        return parsed(await self.rest(within_s=within_s))

    async def answer(self, *, within_s: float = 5.0) -> Answer:
        """The next, which has a content-length; the connection stays as it is."""
        async with asyncio.timeout(within_s):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            (answer,) = parsed(head + await self._reader.readexactly(length))
            return answer


@asynccontextmanager
async def wire(url: str, *, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
    """A connection of one's own. `receive_bytes`: how much the kernel takes for a client that does not read."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**14)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def exchange(url: str, data: bytes, *, within_s: float = 5.0) -> list[Answer]:
    """What is answered to these bytes, once the server has closed."""
    async with wire(url) as sent:
        await sent.send(data)
        return await sent.answers(within_s=within_s)


def parsed(data: bytes) -> list[Answer]:
    """The answers in these bytes; fails where something is left over that is none."""
    found = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"no whole head: {head!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status.startswith("1"):
            continue
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size, _, data = data.partition(b"\r\n")
                length = int(size, 16)
                body, data = body + data[:length], data[length + 2 :]
                if not length:
                    break
        elif "content-length" in headers:
            length = int(headers["content-length"])
            assert len(data) >= length, "the body is cut"
            body, data = data[:length], data[length:]
        found.append(Answer(int(status), headers, body))
    return found


def small_app(limits: Limits) -> tuple[Litestar, list[str]]:
    """An application with these limits, and the paths of the requests that came to it, whole or not."""
    seen: list[str] = []

    @get("/scope")
    async def show(request: Request[Any, Any, Any]) -> dict[str, Any]:
        seen.append(request.url.path)
        client = request.client.host if request.client else None
        return {
            "client": client,
            "scheme": request.scope["scheme"],
            "path": request.url.path,
            "headers": sorted({name.lower() for name in request.headers}),
        }

    @post("/echo", status_code=200)
    async def echo(request: Request[Any, Any, Any]) -> bytes:
        seen.append(request.url.path)
        return await request.body()

    @post("/deaf", status_code=200)
    async def deaf(request: Request[Any, Any, Any]) -> str:
        seen.append(request.url.path)
        return "not read"

    @get("/large")
    async def large() -> bytes:
        seen.append("/large")
        return b"x" * LARGE

    @get("/endless")
    async def endless() -> Stream:
        async def pieces() -> AsyncIterator[bytes]:
            seen.append("/endless")
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)
            finally:
                seen.append("ended")

        return Stream(pieces())

    @asgi("/raw", copy_scope=False)
    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append("/raw")
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"raw", "more_body": False})

    state = State({LIMITS: limits})
    app = Litestar(
        [show, echo, deaf, large, endless, raw],
        state=state,
        exception_handlers=HANDLERS,
        logging_config=None,
        openapi_config=None,
        request_max_body_size=None,
    )
    return app, seen
