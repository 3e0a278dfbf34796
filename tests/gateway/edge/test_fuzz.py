"""Ids, headers and bodies of any content, on every route that takes one: an answer each, and none that is the gateway's failure."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from litestar import Litestar

from tests.fakes.beside import running_beside
from tests.fakes.gateway import Gateway
from tests.gateway.edge.test_answers import routes
from tests.gateway.edge.wire import parsed

FUZZ = settings(derandomize=True, max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))

ids = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="./\\%~:;?#&=+ \t\r\n\x00\x7f\u202e\u200b\ufeff-_aA", max_size=40),
    st.sampled_from(
        ["..", "../../etc/passwd", "..%2f..%2fetc", "con", "a" * 4000, "lease\x00", "lease/..", "{id}", "%00", "\u2024\u2024"]
    ),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ids
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ids, inner, max_size=4), max_leaves=8)

CHAT = {
    "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "How much?"}]}],
    "document": "lease",
    "stream": False,
    "max_tokens": 5,
    "temperature": 0,
    "top_p": 1.0,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "n": 1,
    "seed": 1,
}
DOCUMENT = {
    "text": "# Other\n\nOf no use.",
    "id": "other",
    "title": "Other",
    "tags": ["a"],
    "questions": ["What?"],
    "aliases": ["b"],
    "summary": "",
    "ttl_s": 60,
    "shared": False,
}
QUESTION = {
    "question": "How much?",
    "earlier": ["Who?"],
    "second_look": True,
    "questions": [{"question": "a", "document": "lease"}],
}


class Beside(NamedTuple):
    """A gateway in a thread of its own. `written`: (listener, method, path) of the routes that may take a body."""

    gateway: Gateway
    written: list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    made = Gateway(tmp_path_factory.mktemp("fuzz"))

    async def fill(gateway: Gateway) -> None:
        await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")

    with running_beside(made, fill):
        listeners = ((made.url, made.apps.tenants), (made.admin_url, made.apps.operators))
        yield Beside(made, [(url, *route) for url, app in listeners for route in writing(app)])


def writing(app: Litestar) -> list[tuple[str, str]]:
    """But for Litestar's own, whose 404 is a page."""
    ours = [(method, path) for method, path in routes(app) if not path.startswith("/schema")]
    return [(method, path) for method, path in ours if method in ("POST", "PUT", "PATCH") or "lease" in path]


def send(beside: Beside, url: str, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> int:
    """The status, which must not be a failure of the gateway's; its body must be JSON, or events."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    try:
        connection.request(method, path, body, {"authorization": f"Bearer {beside.gateway.key}", "content-type": kind})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    assert answer.status < 500, text
    if answer.status >= 400:
        assert set(json.loads(text)["error"]) >= {"message", "type", "param", "code"}
    return answer.status


@FUZZ
@given(name=ids, data=st.data())
def test_an_id_of_any_kind_in_a_path(beside: Beside, name: str, data: st.DataObject) -> None:
    url, method, path = data.draw(st.sampled_from([route for route in beside.written if "/lease" in route[2]]))
    if method != "DELETE" or name != "lease":
        send(
            beside,
            url,
            method,
            path.replace("lease", quote(name, safe="", errors="surrogatepass"), 1),
            b"{}" if method != "GET" else None,
        )


@FUZZ
@given(name=ids)
def test_an_id_of_any_kind_in_a_body_and_a_query(beside: Beside, name: str) -> None:
    send(beside, beside.gateway.url, "POST", "/v1/documents", json.dumps({**DOCUMENT, "id": name}).encode())
    path = f"/v1/documents?id={quote(name, safe='', errors='surrogatepass')}"
    send(beside, beside.gateway.url, "POST", path, b"# A text\n\nOf some use.", "text/plain")
    for body in ({**CHAT, "document": name}, {"messages": CHAT["messages"], "documents": [name, "lease"]}):
        send(beside, beside.gateway.url, "POST", "/v1/chat/completions", json.dumps(body).encode())


@FUZZ
@given(
    headers=st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=60)), max_size=4),
    named=st.sampled_from(
        [b"", b"host", b"content-length", b"content-type", b"authorization", b"cache-control", b"cookie", b"accept", b"range"]
    ),
    value=st.binary(max_size=40) | ids.map(lambda text: text.encode("utf-8", "surrogatepass")),
    path=st.sampled_from([b"/v1/chat/completions", b"/v1/documents", b"/v1/documents/lease", b"/health/ready", b"/schema"]),
    method=st.sampled_from([b"GET", b"POST", b"OPTIONS", b"HEAD"]),
)
@example(headers=[], named=b"content-type", value=b"\xff\xfe; charset=\xff", path=b"/v1/documents", method=b"POST")
@example(headers=[], named=b"content-type", value=b"text/plain; charset=utf-7", path=b"/v1/documents", method=b"POST")
@example(headers=[], named=b"authorization", value=b"Bearer \xff\xff", path=b"/v1/documents", method=b"POST")
@example(headers=[], named=b"cookie", value=b"\x01=;=;;\xff", path=b"/v1/documents", method=b"GET")
def test_headers_of_any_bytes(
    beside: Beside, headers: list[tuple[bytes, bytes]], named: bytes, value: bytes, path: bytes, method: bytes
) -> None:
    for url in (beside.gateway.url, beside.gateway.admin_url):
        head = method + b" " + path + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        key = b"authorization: Bearer " + beside.gateway.key.encode() + b"\r\n" if named != b"authorization" else b""
        fields = b"".join(name + b": " + content + b"\r\n" for name, content in (*headers, *([(named, value)] if named else [])))
        with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=20) as sock:  # type: ignore[arg-type]
            sock.sendall(head + key + fields + b"\r\n")
            sock.shutdown(socket.SHUT_WR) if named == b"content-length" else None
            received = b""
            while data := sock.recv(2**16):
                received += data
        if method == b"HEAD":
            assert len(re.findall(rb"HTTP/1\.1 \d", received)) <= 1
            received = b""
        answers = parsed(received)
        assert len(answers) <= 1
        assert all(answer.status < 500 for answer in answers), received


@FUZZ
@given(
    body=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", "text/plain", "", "a/b"]),
    data=st.data(),
)
@example(body=b"\xff", kind="application/json", data=None)
@example(body=b"[" * 100_000, kind="application/json", data=None)
@example(body=b'{"messages": ' + b"[" * 100_000, kind="application/json", data=None)
@example(body=b"1e400", kind="application/json", data=None)
@example(body=b"9" * 100_000, kind="application/json", data=None)
@example(body=b'"\\ud800"', kind="application/json", data=None)
@example(body=b'{"text": "\\ud800"}', kind="application/json", data=None)
@example(body=b'{"text": "\\u0000 a"}', kind="application/json", data=None)
@example(body=b'{"question": "\\ud800"}', kind="application/json", data=None)
@example(body=b'{"messages": [{"role": "user", "content": "\\ud800"}], "document": "lease"}', kind="application/json", data=None)
@example(body=b'{"messages": [{"role": "user", "content": ""}]}', kind="application/json", data=None)
def test_a_body_of_any_bytes(beside: Beside, body: bytes, kind: str, data: st.DataObject | None) -> None:
    among = [route for route in beside.written if route[1] in ("POST", "PUT", "PATCH")]
    for url, method, path in among if data is None else [data.draw(st.sampled_from(among))]:
        send(beside, url, method, path, body, kind)


@FUZZ
@given(data=st.data(), value=values)
def test_a_body_near_a_good_one(beside: Beside, data: st.DataObject, value: Any) -> None:
    among = [route for route in beside.written if route[1] in ("POST", "PUT", "PATCH")]
    url, method, path = data.draw(st.sampled_from(among))
    good = CHAT if "chat" in path else QUESTION if "route" in path else DOCUMENT
    known = {"warm": ["tier", "worker", "host"], "evict": ["tier"]}.get(path.rpartition("/")[2], list(good))
    names = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    base = {name: good[name] for name in good if data.draw(st.booleans())} if known == list(good) else {}
    send(beside, url, method, path, json.dumps({**base, **dict.fromkeys(names, value)}).encode())
