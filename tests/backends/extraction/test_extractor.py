"""Files that are more than text: what is read of them, and refusals that say how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.extract import NotText
from backends.extraction.extractor import Extractor, Kind, Unreadable
from backends.settings import Extraction
from tests.backends.extraction import pdfs

PAGE = """<html><head><title>T</title><style>p {}</style></head><body><h1>Lease of flat_1*</h1>
<p>The deposit is 2,400&nbsp;euros &amp; <a href="http://x">due</a> at once.</p><script>alert("x")</script>
<h2>Rent</h2><ul><li>1,200 euros</li><li>monthly</li></ul><table><tr><th>a</th></tr><tr><td>b</td></tr></table></body></html>"""


async def read(data: bytes, kind: Kind = Kind.PDF, **limits: int | float) -> str:
    return await Extractor(Extraction(**limits)).text(data, kind)  # type: ignore[arg-type]


async def test_a_pdfs_pages_come_in_their_order() -> None:
    found = await read(pdfs.text("Lease\nThe deposit is 2,400 euros.", "Rent\nIt is 1,200 euros [monthly]"))
    assert found == "Lease\nThe deposit is 2,400 euros.\n\nRent\nIt is 1,200 euros [monthly]\n\n"


async def test_html_becomes_markdown_without_what_no_reader_sees() -> None:
    found = await read(PAGE.encode(), Kind.HTML)
    assert found.strip() == (
        "# Lease of flat_1*\n\nThe deposit is 2,400\u00a0euros & due at once.\n\n## Rent\n\n* 1,200 euros\n* monthly\n\n"
        "| a |\n| --- |\n| b |"
    )


async def test_plain_text_needs_no_child(tmp_path: Path) -> None:
    assert await Extractor(Extraction(), child=tmp_path / "nowhere.py").text(b"# Lease", Kind.TEXT) == "# Lease"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("paper.PDF", pdfs.text("Words."), "Words."),
        ("page.htm", b"<p>Words.", "Words."),
        ("notes.md", b"<p>Words.", "<p>Words."),
    ],
)
async def test_a_files_name_says_what_it_is(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert (await Extractor(Extraction()).text_of_file(tmp_path / name)).strip() == words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pdfs.encrypted(), "is encrypted. Save it without a password"),
        (pdfs.scanned(), "holds pictures of pages only. Make a PDF with text of it (OCR)"),
        (pdfs.page(b""), "has no text"),
        (b"%PDF-1.7 \xff", "is no PDF that can be read"),
        (b"# Lease", "is no PDF that can be read"),
        (b"", "is no PDF that can be read"),
        (pdfs.text("Words.")[:200], "is no PDF that can be read"),
    ],
    ids=["encrypted", "scanned", "blank", "damaged", "text", "empty", "cut"],
)
async def test_a_pdf_without_text_to_be_had_is_refused_with_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(Unreadable) as caught:
        await read(data)
    assert words in str(caught.value)
    assert caught.value.param == "text"


async def test_html_has_to_be_text() -> None:
    with pytest.raises(NotText, match="is not UTF-8"):
        await read("<p>Über".encode("latin-1"), Kind.HTML)
    with pytest.raises(NotText, match="a gzip archive"):
        await read(b"\x1f\x8b\x08", Kind.HTML)


async def test_control_characters_in_a_pdf_are_no_text() -> None:
    found = await read(pdfs.page(rb"BT /F1 12 Tf 72 720 Td (a\001\033b) Tj ET"))
    assert not set(found) & {chr(number) for number in range(32) if chr(number) not in "\n\t"}
