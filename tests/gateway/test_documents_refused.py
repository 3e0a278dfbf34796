"""Documents that are refused: the status, OpenAI's envelope, words that say how to mend it, and nothing is changed."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.sections import Server
from tests.fakes.gateway import CONTEXT, RESERVE, Gateway

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
JSON = "application/json"


@pytest.fixture(scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway that holds one document and takes bodies of 1 MiB at most. Nothing here may change it."""
    async with Gateway(tmp_path_factory.mktemp("standing"), server=Server(max_body_mib=1)).running() as running:
        await running.add(LEASE, id="lease")
        yield running


async def refused(gateway: Gateway, body: Any, content_type: str, status: int, **query: str) -> Any:
    """The error of a post, after its envelope was looked at and that the catalog is as before."""
    catalog, bodies = await gateway.json("GET", "/v1/documents"), len(gateway.workers[0].bodies)
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    headers = {"content-type": content_type}
    answer = await gateway.json("POST", "/v1/documents", params=query, data=data, headers=headers, status=status)
    assert answer.keys() == {"error"}
    assert answer["error"].keys() >= {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert await gateway.json("GET", "/v1/documents") == catalog
    assert len(gateway.workers[0].bodies) == bodies
    return answer["error"]


@pytest.mark.parametrize("text", ["", " \n\t\r\n ", "\ufeff\n"], ids=["empty", "whitespace", "only a byte-order mark"])
async def test_a_document_without_text_is_400(standing: Gateway, text: str) -> None:
    for body, content_type in (({"id": "lease", "text": text}, JSON), (text.encode(), "text/plain")):
        error = await refused(standing, body, content_type, 400)
        assert (error["code"], error["param"]) == ("invalid_request", "text")
        assert "empty" in error["message"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00[Content_Types].xml", "a zip archive or an Office document"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"\x1f\x8b\x08\0\0\0", "a gzip archive"),
        (b"lease.md" + b"\0" * 249 + b"ustar  \0", "a tar archive"),
        (b"words and a \0 among them", "binary data"),
        (b"words " * 20_000 + b"\0", "binary data"),
    ],
    ids=["zip", "picture", "gzip", "tar", "NUL", "NUL far down"],
)
async def test_what_is_not_text_is_415_and_named(standing: Gateway, data: bytes, what: str) -> None:
    error = await refused(standing, data, "text/plain", 415, id="lease")
    assert (error["code"], error["param"]) == ("unsupported_document", "text")
    assert what in error["message"]
    assert "plain text and Markdown in UTF-8, HTML, and PDF. Convert it" in error["message"]


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Über alles".encode("latin-1"), "LATIN1"),
        ("Über alles".encode("utf-16"), "UTF-16"),
        ("Über alles".encode("utf-16-be"), None),
        (b"cut in the middle of a letter: \xe2\x82", "LATIN1"),
    ],
    ids=["latin-1", "utf-16 with its mark", "utf-16 without", "cut"],
)
async def test_text_in_another_encoding_is_415_with_the_command_that_converts_it(
    standing: Gateway, data: bytes, encoding: str | None
) -> None:
    error = await refused(standing, data, "text/markdown", 415, id="lease")
    assert error["code"] == "unsupported_document"
    if encoding is not None:
        assert "is not UTF-8: byte" in error["message"]
        assert f"iconv -f {encoding} -t UTF-8" in error["message"]


async def test_a_form_is_415_and_says_how_to_send_a_file(standing: Gateway) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="lease.md"\r\n\r\n# Lease\r\n--x--\r\n'
    error = await refused(standing, form, "multipart/form-data; boundary=x", 415, id="lease")
    assert error["code"] == "unsupported_document"
    assert "--data-binary @FILE" in error["message"]


async def test_a_document_longer_than_the_context_says_both_numbers(standing: Gateway) -> None:
    limit = CONTEXT - RESERVE
    error = await refused(standing, {"id": "lease", "text": "word " * limit}, JSON, 400)
    assert (error["code"], error["param"], error["limit"]) == ("context_length_exceeded", "text", limit)
    assert error["tokens"] > limit * 5
    assert str(error["tokens"]) in error["message"]
    assert str(limit) in error["message"]
    assert "Split it" in error["message"]


@pytest.mark.parametrize(
    "name",
    ["", "Lease", "a b", "a/b", "..", "../../etc/passwd", ".hidden", "-x", "a" * 101, "ü", "lease\n", "lease\0", "a%2fb"],
)
async def test_a_bad_id_is_400_and_says_what_an_id_may_be(standing: Gateway, name: str) -> None:
    error = await refused(standing, {"id": name, "text": LEASE}, JSON, 400)
    assert (error["code"], error["param"]) == ("invalid_request", "id")
    assert repr(name[:20])[:-1] in error["message"]
    assert "1 to 100 of a-z, 0-9, '.', '_' and '-'" in error["message"]
    error = await refused(standing, LEASE.encode(), "text/plain", 400, id=name)
    assert error["param"] == "id"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": LEASE, "txet": 1}, "txet"),
        ({"text": LEASE, "tenant": "tenant-b"}, "tenant"),
        ({"id": "lease"}, "text"),
        ({"text": 5}, "$.text"),
        ({"text": LEASE, "title": ""}, "$.title"),
        ({"text": LEASE, "title": "x" * 301}, "$.title"),
        ({"text": LEASE, "title": "a\0b"}, "`title` holds U+0000 (character 2)"),
        ({"text": LEASE, "summary": "x" * 4001}, "$.summary"),
        ({"text": LEASE, "tags": ["x"] * 51}, "$.tags"),
        ({"text": LEASE, "questions": ["x", ""]}, "$.questions"),
        ({"text": LEASE, "questions": "one"}, "$.questions"),
        ({"text": LEASE, "shared": "yes"}, "$.shared"),
        ([LEASE], "object"),
        (b'{"text": "# Lease', "truncated"),
        (b"", "truncated"),
        (b"# Lease", "malformed"),
        (b'{"text": "\xff"}', "utf-8"),
        (b'{"text": "\\ud800"}', ""),
    ],
)
async def test_json_that_is_no_document_is_400_and_says_where(standing: Gateway, body: Any, words: str) -> None:
    error = await refused(standing, body, JSON, 400)
    assert error["code"] == "invalid_request"
    assert words in error["message"]


async def test_a_nul_in_json_is_415_as_in_a_file(standing: Gateway) -> None:
    error = await refused(standing, {"id": "lease", "text": "words\0words"}, JSON, 415)
    assert (error["code"], error["param"]) == ("unsupported_document", "text")


@pytest.mark.parametrize("query", [{"title": "x" * 301}, {"title": "a\0b"}, {"shared": "perhaps"}])
async def test_a_bad_query_is_400_and_says_which_part(standing: Gateway, query: dict[str, str]) -> None:
    error = await refused(standing, LEASE.encode(), "text/plain", 400, **query)
    assert error["code"] == "invalid_request"
    assert next(iter(query)) in error["message"]


@pytest.mark.parametrize("content_type", [JSON, "text/plain"])
async def test_a_body_over_the_limit_is_413(standing: Gateway, content_type: str) -> None:
    error = await refused(standing, b"x" * (2**20 + 1), content_type, 413)
    assert error["code"] == "body_too_large"
    assert error["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "other"}, "text"),
        ({"id": "other"}, "id"),
        ({"pinned": "yes"}, "$.pinned"),
        ({"title": ""}, "$.title"),
        ({"title": None}, "$.title"),
        ({"tags": ["x" * 501]}, "$.tags"),
        ([], "object"),
    ],
)
async def test_a_change_that_is_not_possible_is_400(standing: Gateway, changes: Any, words: str) -> None:
    before = await standing.json("GET", "/v1/documents/lease")
    error = (await standing.json("PATCH", "/v1/documents/lease", json=changes, status=400))["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert words in error["message"]
    assert await standing.json("GET", "/v1/documents/lease") == before


async def test_what_is_refused_leaves_the_version_that_answers(standing: Gateway) -> None:
    assert (await standing.ask("What is the deposit?", document="lease"))["choices"]
