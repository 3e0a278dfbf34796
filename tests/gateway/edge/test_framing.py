"""Requests that can be read in two ways, or not at all: one answer each, and no second request hidden in a first."""

from __future__ import annotations

import pytest

from gateway.edge.limits import HEAD_BYTES, HEADERS, PIPELINED, URL_BYTES, Limits
from tests.gateway.edge.conftest import Small
from tests.gateway.edge.wire import exchange, wire

MAX_BODY = 2**18
LIMITS = Limits(header_timeout_s=2, body_timeout_s=0.5, idle_s=0.3, max_body_bytes=MAX_BODY)
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


def post(headers: bytes, body: bytes, *, path: bytes = b"/echo", host: bytes = b"host: x\r\n") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + host + headers + b"\r\n" + body


DOUBTFUL = {
    "length and chunks": post(b"content-length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + HIDDEN),
    "chunks and length": post(CHUNKED + b"content-length: 5\r\n", b"0\r\n\r\n" + HIDDEN),
    "two lengths": post(b"content-length: 0\r\ncontent-length: 33\r\n", HIDDEN),
    "two equal lengths": post(b"content-length: 5\r\ncontent-length: 5\r\n", b"12345"),
    "a list of lengths": post(b"content-length: 5, 5\r\n", b"12345"),
    "a negative length": post(b"content-length: -5\r\n", HIDDEN),
    "a length with a plus": post(b"content-length: +5\r\n", b"12345"),
    "a length in hex": post(b"content-length: 0x5\r\n", b"12345"),
    "an empty length": post(b"content-length: \r\n", HIDDEN),
    "a length with a space inside": post(b"content-length: 1 0\r\n", HIDDEN),
    "a space before the colon": post(b"content-length : 5\r\n", b"12345"),
    "a tab before the colon": post(b"transfer-encoding\t: chunked\r\n", b"0\r\n\r\n"),
    "a header on two lines": post(b"x-a: 1\r\n content-length: 33\r\n", HIDDEN),
    "an encoding on two lines": post(b"transfer-encoding:\r\n chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "a space before the first header": post(b"content-length: 5\r\n", b"12345", host=b" host: x\r\n"),
    "a bare LF after a header": post(b"content-length: 5\n", b"12345"),
    "a bare LF after the headers": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 33\r\n\n" + HIDDEN,
    "only bare LFs": b"GET /scope HTTP/1.1\nhost: x\n\n",
    "a bare CR in a header": post(b"x-a: 1\rcontent-length: 33\r\n", HIDDEN),
    "a NUL in a header": post(b"x-a: 1\x002\r\n", b""),
    "a NUL in a name": post(b"x\x00a: 1\r\n", b""),
    "a header without a colon": post(b"nothing\r\n", b""),
    "an empty name": post(b": 1\r\n", b""),
    "an unknown encoding": post(b"transfer-encoding: gzip\r\n", HIDDEN),
    "chunks within another encoding": post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "chunks, and then another encoding": post(b"transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n" + HIDDEN),
    "chunks twice": post(CHUNKED + CHUNKED, b"0\r\n\r\n" + HIDDEN),
    "almost chunks": post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "quoted chunks": post(b'transfer-encoding: "chunked"\r\n', b"0\r\n\r\n" + HIDDEN),
    "chunks in HTTP/1.0": b"POST /echo HTTP/1.0\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size that is none": post(CHUNKED, b"zz\r\n12345\r\n0\r\n\r\n"),
    "a negative chunk size": post(CHUNKED, b"-5\r\n12345\r\n0\r\n\r\n"),
    "a chunk size with 0x": post(CHUNKED, b"0x5\r\n12345\r\n0\r\n\r\n"),
    "a huge chunk size": post(CHUNKED, b"ffffffffffffffffff\r\n12345\r\n0\r\n\r\n"),
    "a chunk longer than its size": post(CHUNKED, b"3\r\n12345\r\n0\r\n\r\n" + HIDDEN),
    "chunks that end in bare LF": post(CHUNKED, b"5\n12345\n0\n\n" + HIDDEN),
    "a chunk size that ends in a bare CR": post(CHUNKED, b"5\rX12345\r\n0\r\n\r\n"),
    "no host": b"GET /scope HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /scope HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "another's URL": b"GET http://other.example/scope HTTP/1.1\r\nhost: x\r\n\r\n",
    "one's own URL": b"GET http://x/scope HTTP/1.1\r\nhost: x\r\n\r\n",
    "no path": b"GET ?a=1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a relative path": b"GET scope HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path of stars": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    "a tunnel": b"CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n",
    "a NUL in the path": b"GET /sc\x00ope HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space in the path": b"GET /sc ope HTTP/1.1\r\nhost: x\r\n\r\n",
    "a tab in the path": b"GET /sc\tope HTTP/1.1\r\nhost: x\r\n\r\n",
    "a byte beyond ASCII in the path": b"GET /sc\xffope HTTP/1.1\r\nhost: x\r\n\r\n",
    "no version": b"GET /scope\r\nhost: x\r\n\r\n",
    "another version": b"GET /scope HTTP/9.1\r\nhost: x\r\n\r\n",
    "the opening of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160),
    "an unknown method": b"GRAB /scope HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method in small letters": b"get /scope HTTP/1.1\r\nhost: x\r\n\r\n",
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("data", DOUBTFUL.values(), ids=DOUBTFUL.keys())
async def test_what_is_no_clear_request_is_400_once_and_closes(small: Small, data: bytes) -> None:
    (answer,) = await exchange(small.url, data)
    assert answer.status == 400
    assert answer.error["code"] == "malformed_request"
    assert answer.headers["connection"] == "close"
    assert "/hidden" not in small.seen


CLEAR = {
    "chunks": (post(CHUNKED, b"5\r\n12345\r\n0\r\n\r\n"), 200),
    "chunks in capitals": (post(b"Transfer-Encoding: Chunked\r\n", b"5\r\n12345\r\n0\r\n\r\n"), 200),
    "a chunk's extension": (post(CHUNKED, b"5;name=value\r\n12345\r\n0\r\n\r\n"), 200),
    "the host in HTTP/1.0 left out": (b"GET /scope HTTP/1.0\r\n\r\n", 200),
    "a method that no path has": (b"TRACE /scope HTTP/1.1\r\nhost: x\r\n\r\n", 405),
    "a wish for another protocol": (b"GET /scope HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 200),
    "a wish for HTTP/2": (
        b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\n12345" + HIDDEN,
        200,
    ),
    "two slashes": (b"GET //scope HTTP/1.1\r\nhost: x\r\n\r\n", None),
    "a path that climbs": (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "an encoded path that climbs": (b"GET /scope/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "an encoded NUL": (b"GET /sc%00ope HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "an encoded line end": (b"GET /sc%0d%0aope HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "an encoding that is none": (b"GET /sc%zzope%ff HTTP/1.1\r\nhost: x\r\n\r\n", 404),
}


@pytest.mark.parametrize(("data", "status"), CLEAR.values(), ids=CLEAR.keys())
async def test_what_is_unusual_and_clear_is_answered_once(small: Small, data: bytes, status: int | None) -> None:
    (answer,) = await exchange(small.url, data)
    assert answer.status == status or (status is None and answer.status in (200, 404))
    assert "/hidden" not in small.seen


async def test_requests_sent_at_once_are_answered_in_their_order(small: Small) -> None:
    several = b"".join(post(b"content-length: 1\r\n", str(number).encode()) for number in range(PIPELINED))
    answers = await exchange(small.url, several)
    assert [answer.body for answer in answers] == [str(number).encode() for number in range(PIPELINED)]


async def test_more_requests_at_once_than_wait_are_not_kept(small: Small) -> None:
    answers = await exchange(small.url, b"GET /scope HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
    assert [answer.status for answer in answers] == [200] * (PIPELINED + 1)
    assert len(small.seen) == PIPELINED + 1


async def test_what_is_malformed_behind_a_request_takes_nothing_from_its_answer(small: Small) -> None:
    answers = await exchange(small.url, post(b"content-length: 3\r\n", b"one") + DOUBTFUL["length and chunks"])
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"one")]
    assert small.seen == ["/echo"]


async def test_a_trailer_is_no_header(small: Small) -> None:
    """Else whoever goes by a request's headers could be told others than a proxy before it saw."""
    request = b"GET /scope HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\nauthorization: Bearer k\r\n\r\n"
    (answer,) = await exchange(small.url, request)
    assert answer.status == 200
    assert b"authorization" not in answer.body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * URL_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 2 * HEAD_BYTES, 431),
        (b"GET /scope HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * HEAD_BYTES, 431),
        (b"GET /scope HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /scope HTTP/1.1\r\nhost: x\r\n" + b"x-many: 1\r\n" * HEADERS + b"\r\n", 431),
        (b"GET /scope HTTP/1.1\r\nhost: x\r\n" + b"x-many: 1\r\n" * (HEADERS - 1) + b"\r\n", 200),
    ],
    ids=["a long URL", "an endless URL", "an endless header", "a long header", "many headers", "as many as may be"],
)
async def test_long_urls_and_headers_are_refused(small: Small, data: bytes, status: int) -> None:
    async with wire(small.url) as sent:
        await sent.send(data)
        (answer,) = await sent.answers()
    assert answer.status == status
    assert small.seen == (["/scope"] if status == 200 else [])


async def test_a_refusal_is_read_also_by_who_is_still_sending(small: Small) -> None:
    async with wire(small.url) as sent:
        for _ in range(64):
            await sent.send(b"GET /scope HTTP/1.1\r\nx-long: " + b"a" * HEAD_BYTES)
        (answer,) = await sent.answers()
    assert answer.status == 431


@pytest.mark.parametrize("path", [b"/echo", b"/deaf", b"/raw", b"/nowhere"])
@pytest.mark.parametrize("length", [MAX_BODY + 1, 10**12, 10**18])
async def test_a_body_that_says_it_is_too_long_is_refused_unread_on_every_path(small: Small, path: bytes, length: int) -> None:
    async with wire(small.url) as sent:
        await sent.send(post(b"expect: 100-continue\r\ncontent-length: %d\r\n" % length, b"", path=path))
        received = await sent.rest()
    assert received.startswith(b"HTTP/1.1 413 ")  # and no 100 Continue
    assert small.seen == []


@pytest.mark.parametrize("path", [b"/echo", b"/raw"])
async def test_a_body_that_turns_out_too_long_is_refused_while_it_comes(small: Small, path: bytes) -> None:
    async with wire(small.url) as sent:
        await sent.send(post(CHUNKED, b"", path=path))
        for _ in range(MAX_BODY // 2**14 + 2):
            await sent.send(b"4000\r\n" + b"a" * 2**14 + b"\r\n")
        (answer,) = await sent.answers()
    assert (answer.status, answer.error["code"], answer.error["limit"]) == (413, "body_too_large", MAX_BODY)


async def test_a_body_of_the_limit_is_taken(small: Small) -> None:
    (answer,) = await exchange(small.url, post(b"content-length: %d\r\n" % MAX_BODY, b"a" * MAX_BODY))
    assert (answer.status, len(answer.body)) == (200, MAX_BODY)


@pytest.mark.parametrize("frames", [b"1;", b"0\r\nx-trailer: "], ids=["an extension", "a trailer"])
async def test_what_comes_beside_a_bodys_content_is_limited_too(small: Small, frames: bytes) -> None:
    async with wire(small.url) as sent:
        await sent.send(post(CHUNKED, frames))
        for _ in range(32):
            await sent.send(b"a" * 2**14)
        (answer,) = await sent.answers()
    assert answer.status == 400


async def test_an_answer_that_did_not_wait_for_the_body_is_the_only_one(small: Small) -> None:
    async with wire(small.url) as sent:
        await sent.send(post(CHUNKED, b"", path=b"/deaf"))
        assert (await sent.answer()).body == b"not read"
        for _ in range(MAX_BODY // 2**14 + 2):
            await sent.send(b"4000\r\n" + b"a" * 2**14 + b"\r\n")
        assert await sent.rest() == b""
