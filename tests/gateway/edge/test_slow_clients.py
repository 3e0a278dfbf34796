"""Clients that take their time: with headers, with a body, between requests, and with reading."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from litestar import Litestar, asgi
from litestar.datastructures import State
from litestar.types import Receive, Scope, Send

from gateway import app as app_module
from gateway.edge import limits as edge
from gateway.edge.connection import Connection
from gateway.edge.limits import Limits
from gateway.server import LIMITS as LIMITS_AT
from tests.fakes.gateway import Gateway, eventually, serving
from tests.gateway.edge.conftest import Small
from tests.gateway.edge.wire import LARGE, exchange, small_app, wire

LIMITS = Limits(header_timeout_s=0.2, body_timeout_s=0.4, send_stall_s=0.3, idle_s=0.2, max_body_bytes=2**20, max_connections=4)
HEAD = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
GET = b"GET /scope HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[Any]]]:
    """What was logged: our own lines, and uvicorn's."""
    with structlog.testing.capture_logs() as ours:
        yield lambda: [*ours, *caplog.records]


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"POST /echo HTTP/1.1\r\nhost: x\r\n", HEAD[:-2]], ids=repr)
async def test_headers_that_do_not_arrive_are_408_and_the_connection_closes(small: Small, sent: bytes) -> None:
    (answer,) = await exchange(small.url, sent, within_s=2)
    assert answer.status == 408
    assert answer.error["code"] == "request_timeout"
    assert "`server.header_timeout_s`" in answer.error["message"]
    assert answer.headers["connection"] == "close"
    assert small.seen == []


async def test_what_follows_a_refusal_is_not_read(small: Small) -> None:
    async with wire(small.url) as late:
        await late.send(GET[:-2])
        assert (await late.answer()).status == 408
        await late.send(b"\r\n" + GET)
        assert await late.rest() == b""
        await exchange(small.url, GET)  # which comes after it
    assert small.seen == ["/scope"]


@pytest.mark.parametrize("head", [b"POST /echo HTTP/1.1\r\nhost: x\r\nx-long: ", HEAD, HEAD.replace(b"echo", b"raw ")], ids=repr)
async def test_a_byte_now_and_then_gains_no_time(small: Small, head: bytes) -> None:
    async with wire(small.url) as slow:
        started = time.monotonic()
        await slow.send(head)
        answering = asyncio.create_task(slow.answers(within_s=5))
        while not answering.done() and time.monotonic() - started < 5:
            await slow.send(b"a")
            await asyncio.sleep(0.05)
        (answer,) = await answering
    assert answer.status == 408
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("path", [b"echo", b"raw "])
async def test_a_body_that_does_not_arrive_is_408_and_the_application_is_not_left_waiting(
    small: Small, path: bytes, logged: Callable[[], list[Any]]
) -> None:
    head = HEAD.replace(b"echo", path)
    (answer,) = await exchange(small.url, head + b"12345")
    assert answer.status == 408
    assert "`server.body_timeout_s`" in answer.error["message"]
    assert small.seen == [f"/{path.decode().strip()}"]
    (answer,) = await exchange(small.url, head.replace(b"host: x", b"host: x\r\nconnection: close") + b"1234567890")
    assert answer.status == 200
    assert logged() == []


async def test_a_client_that_leaves_within_its_body_is_no_failure(small: Small, logged: Callable[[], list[Any]]) -> None:
    for path in (b"echo", b"raw "):
        async with wire(small.url) as leaving:
            await leaving.send(HEAD.replace(b"echo", path) + b"12345")
            await eventually(lambda: len(small.seen) == 1)
        small.seen.clear()
    await exchange(small.url, GET)
    assert logged() == []


async def test_the_second_request_of_a_connection_has_its_own_time(small: Small) -> None:
    async with wire(small.url) as kept:
        for _ in range(6):  # longer together than one may take
            await kept.send(GET[:20])
            await asyncio.sleep(0.06)
            await kept.send(GET[20:])
            assert (await kept.answer()).status == 200
        await kept.send(GET[:20])
        (answer,) = await kept.answers(within_s=2)
    assert answer.status == 408


async def test_an_idle_connection_closes_without_a_word(small: Small) -> None:
    async with wire(small.url) as idle:
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        assert await idle.rest(within_s=2) == b""


async def test_blank_lines_keep_no_connection_open(small: Small) -> None:
    async with wire(small.url) as idle:
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        started = time.monotonic()
        ending = asyncio.create_task(idle.answers(within_s=5))
        while not ending.done() and time.monotonic() - started < 5:
            await idle.send(b"\r\n")
            await asyncio.sleep(0.05)
        assert [answer.status for answer in await ending] == [408]


async def test_beyond_the_limit_a_connection_is_503_at_once_and_there_is_room_again(small: Small) -> None:
    async with wire(small.url) as a, wire(small.url) as b, wire(small.url) as c, wire(small.url) as d:
        for one in (a, b, c, d):
            await one.send(GET)
            assert (await one.answer()).status == 200
        started = time.monotonic()
        (refused,) = await exchange(small.url, b"")
        assert time.monotonic() - started < LIMITS.header_timeout_s
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "too_many_connections", "1")
        await a.send(GET)
        assert (await a.answer()).status == 200

    async def admitted() -> bool:
        async with wire(small.url) as again:
            await again.send(GET)
            return (await again.answer()).status == 200

    await eventually(admitted)


@pytest.mark.parametrize("path", ["/large", "/endless"])
async def test_a_client_that_stops_reading_is_let_go_with_little_buffered(
    small: Small, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffered: list[int] = []
    original = Connection.pause_writing

    def pause(self: Connection) -> None:
        buffered.append(self.transport.get_write_buffer_size())
        original(self)

    monkeypatch.setattr(Connection, "pause_writing", pause)
    async with wire(small.url, receive_bytes=4096) as stopped:
        await stopped.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await eventually(lambda: bool(buffered))
        await asyncio.sleep(3 * LIMITS.send_stall_s)
        received = await stopped.rest()
    assert 0 < len(received) < 16 * 2**20  # what the kernel had taken
    assert max(buffered) <= 2 * edge.PIECE_BYTES + 1024 < 256 * 1024
    if path == "/endless":
        await eventually(lambda: small.seen[-1] == "ended")


async def test_a_client_that_reads_late_gets_all_of_it() -> None:
    app, _ = small_app(Limits())
    async with serving(app) as url, wire(url, receive_bytes=2**16) as late:
        await late.send(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await asyncio.sleep(0.2)
        (answer,) = await late.answers(within_s=20)
    assert (answer.status, len(answer.body)) == (200, LARGE)


async def test_what_is_left_of_an_answer_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is less than makes the server wait, so that no time runs while it is sent; but the connection is to close."""
    connections: list[Connection] = []
    original = Connection.connection_made

    def made(self: Connection, transport: asyncio.Transport) -> None:
        connections.append(self)
        original(self, transport)

    @asgi("/left", copy_scope=False)
    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        while not connections[0].transport.get_write_buffer_size():  # the kernel takes some megabytes
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    monkeypatch.setattr(Connection, "connection_made", made)
    app = Litestar([leave], state=State({LIMITS_AT: LIMITS}), logging_config=None, openapi_config=None)
    async with serving(app) as url, wire(url, receive_bytes=4096) as stopped:
        await stopped.send(b"GET /left HTTP/1.1\r\nhost: x\r\n\r\n")
        await eventually(lambda: bool(connections) and connections[0].transport.is_closing())
        assert connections[0].transport.get_write_buffer_size()
        await eventually(lambda: not connections[0].connections, within_s=2)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_stops_reading_its_answer_stops_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    monkeypatch.setattr(app_module, "Limits", partial(Limits, send_stall_s=0.3))
    async with Gateway(tmp_path).running() as gateway:
        await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        (worker,) = gateway.workers
        worker.words = ["x" * 100_000] * 200
        aborted = worker.aborted
        body = json.dumps({"messages": [{"role": "user", "content": "why?"}], "document": "lease", "stream": stream}).encode()
        key = f"authorization: Bearer {gateway.key}\r\ncontent-length: {len(body)}\r\n".encode()
        async with wire(gateway.url, receive_bytes=4096) as stopped:
            await stopped.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + key + b"\r\n" + body)
            await eventually(lambda: worker.open)
            await eventually(lambda: not worker.open)
            await eventually(lambda: "client_gone" in str([s.attributes for s in gateway.spans.get_finished_spans()]) or not stream)
        assert worker.aborted - aborted == stream  # the whole of the other answer was there before it was sent
        assert (await gateway.ask("why?", document="lease"))["choices"]
