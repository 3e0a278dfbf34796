"""PDF and HTML as documents: over HTTP, from a catalog file and from the shell; and files that mean harm."""

from __future__ import annotations

import asyncio
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from backends.settings import Extraction
from tests.backends.extraction import pdfs
from tests.backends.extraction.test_bombs import SPINS, children
from tests.fakes.gateway import Gateway, eventually
from tests.gateway.catalog import Catalog, until, until_problem, until_ready

LEASE = pdfs.text("Lease\nThe deposit is 2,400 euros.", "The rent is 1,200 euros.")
PAGE = b"<title>x</title><h1>Expenses</h1><p>Taxis need a receipt."


async def post(gateway: Gateway, data: bytes, kind: str, status: int, *, key: str | None = None, **query: str) -> Any:
    return await gateway.json(
        "POST", "/v1/documents", data=io.BytesIO(data), headers={"content-type": kind}, params=query, status=status, key=key
    )


async def test_a_pdf_and_a_page_become_documents_that_answer(gateway: Gateway) -> None:
    for data, kind, name, title in (
        (LEASE, "application/pdf", "lease", "Lease"),
        (PAGE, "text/html; charset=utf-8", "expenses", "Expenses"),
    ):
        added = await post(gateway, data, kind, 202, id=name)
        assert added["title"] == title
        assert await gateway.finished(added["job"]["id"]) == "ready"
        assert (await gateway.ask("What?", document=name))["headers"]["x-document-id"] == name
    assert (await gateway.ask("How much is the rent?"))["headers"]["x-document-id"] == "lease"
    assert (await post(gateway, LEASE, "application/pdf", 200, id="lease", title="Lease"))["job"] is None
    assert (await post(gateway, LEASE, "application/pdf", 202, title="The flat"))["id"] == "the-flat"


async def test_a_pdf_sent_as_text_is_told_how_to_send_it(gateway: Gateway) -> None:
    error = (await post(gateway, LEASE, "text/plain", 415))["error"]
    assert "`content-type: application/pdf`" in error["message"]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (pdfs.encrypted(), "application/pdf", "is encrypted"),
        (pdfs.scanned(), "application/pdf", "(OCR)"),
        (b"# Lease", "application/pdf", "is no PDF"),
        (pdfs.inflated(100_000_000), "application/pdf", "extraction.memory_mib"),
        (b"<div>" * 20_000, "text/html", "nested too deeply"),
    ],
    ids=["encrypted", "scanned", "text", "bomb", "deep"],
)
async def test_a_file_that_gives_no_text_is_422_and_says_what_to_do(tmp_path: Path, data: bytes, kind: str, words: str) -> None:
    async with Gateway(tmp_path, extraction=Extraction(memory_mib=192)).running() as gateway:
        error = (await post(gateway, data, kind, 422, id="lease"))["error"]
        assert (error["code"], error["type"], error["param"]) == ("document_unreadable", "invalid_request_error", "text")
        assert words in error["message"]
        assert (await gateway.json("GET", "/v1/documents"))["data"] == []


async def test_questions_are_answered_while_a_file_keeps_its_reader_busy(tmp_path: Path) -> None:
    async with Gateway(tmp_path, extraction=Extraction(time_s=2)).running() as gateway:
        await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        posting = asyncio.create_task(post(gateway, SPINS, "text/html", 422, id="spins"))
        await eventually(lambda: children())
        assert (await gateway.ask("What is the deposit?", document="lease"))["choices"]
        assert not posting.done()
        assert "took longer than 2 s" in (await posting)["error"]["message"]
        assert children() == []


async def test_a_key_that_may_not_add_documents_has_no_file_read(gateway: Gateway) -> None:
    """Refused before the body is looked at: an encrypted one would be a 422."""
    key = await gateway.new_key("tenant-a", ("ask",))
    await post(gateway, pdfs.encrypted(), "application/pdf", 403, key=key)
    key = await gateway.new_key("tenant-a", ("ask", "write"))
    await post(gateway, pdfs.encrypted(), "application/pdf", 403, key=key, shared="true")


async def test_files_of_a_catalog_may_be_pdf_or_html(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    (catalog.folder / "flat.pdf").write_bytes(LEASE)
    (catalog.folder / "rules.html").write_bytes(PAGE)
    (catalog.folder / "secret.pdf").write_bytes(pdfs.encrypted())
    catalog.write("documents:\n- {id: flat, file: flat.pdf}\n- {id: rules, file: rules.html}\n")
    async with catalog.gateway().running() as gateway:
        await until(gateway, {"flat", "rules"})
        for name in ("flat", "rules"):
            await until_ready(gateway, name)
        assert (await gateway.json("GET", "/v1/documents/flat"))["title"] == "Lease"
        catalog.write("documents:\n- {id: flat, file: flat.pdf}\n- {id: secret, file: secret.pdf}\n")
        await until_problem(gateway, "secret.pdf is encrypted. Save it without a password")
        await until(gateway, {"flat", "rules"})


@pytest.mark.parametrize("encoding", ["gzip", "GZIP, identity", "br", "deflate", "x-what"])
@pytest.mark.parametrize("path", ["/v1/documents", "/v1/chat/completions", "/v1/route"])
async def test_a_compressed_body_is_415_and_never_unpacked(gateway: Gateway, path: str, encoding: str) -> None:
    body = gzip.compress(b'{"text": "words", "messages": [], "question": "why?"}')
    error = (await gateway.json("POST", path, data=body, headers={"content-encoding": encoding}, status=415))["error"]
    assert "does not unpack: send it plain" in error["message"]
    assert (error["code"], error["type"]) == ("unsupported_document", "invalid_request_error")


async def test_a_body_that_says_that_it_is_plain_is_taken(gateway: Gateway) -> None:
    await post(gateway, b"# Lease\n\nWords.", "text/plain", 202, id="lease")
    async with gateway.request("GET", "/v1/documents", headers={"content-encoding": "identity"}) as response:
        assert response.status == 200
