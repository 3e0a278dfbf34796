"""Bytes of a file into a document's text. Text and Markdown; what is something else is refused by what it is."""

from __future__ import annotations

from router.errors import KvshelfError

_MAGIC = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class NotText(KvshelfError):
    """The bytes are no text that kvshelf reads."""

    code = "unsupported_document"


def text_of(data: bytes, *, name: str = "The document") -> str:
    """The text in UTF-8 `data`. Raises NotText that says what the bytes are instead and how to mend it."""
    what = next((what for magic, what in _MAGIC if data.startswith(magic)), None)
    if what is None and b"\0" in data[:65536] and not data.startswith(_UTF16):
        what = "binary data"
    if what is not None:
        raise NotText(f"{name} is {what}; kvshelf reads plain text and Markdown in UTF-8. Convert it to text first.", param="text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if data.startswith(_UTF16) else "LATIN1"
        raise NotText(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. "
            f"Convert it first, e.g. with: iconv -f {guess} -t UTF-8 FILE",
            param="text",
        ) from error
