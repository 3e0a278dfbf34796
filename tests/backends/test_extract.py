"""Bytes into text, and refusals that say what the bytes are."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.extract import NotText, text_of


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return file.getvalue()


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_text_in_utf_8_comes_back_as_it_was(text: str) -> None:
    assert text_of(text.encode()) == text


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (zipped(), "a zip archive or an Office document"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"\xff\xd8\xff\xe0", "a picture"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\x7fELF\x02", "a program"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document"),
        (b"text\0more", "binary data"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(data: bytes, what: str) -> None:
    with pytest.raises(NotText, match=f"^lease.bin is {what}; ") as caught:
        text_of(data, name="lease.bin")
    assert caught.value.param == "text"


@pytest.mark.parametrize(("encoding", "iconv"), [("latin-1", "LATIN1"), ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16")])
def test_text_in_another_encoding_is_told_how_to_convert_it(encoding: str, iconv: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    with pytest.raises(NotText, match=f"The document is not UTF-8: byte .* iconv -f {iconv} -t UTF-8"):
        text_of((mark + "Über alles").encode(encoding))


def test_the_byte_that_is_wrong_is_named() -> None:
    with pytest.raises(NotText, match="byte 3 is 0xe9"):
        text_of(b"caf\xe9")


def test_utf_16_without_a_mark_is_binary_data() -> None:
    with pytest.raises(NotText, match="binary data"):
        text_of("plain".encode("utf-16-le"))
