"""Bytes of plain text into a document's text; what is something else is refused by what it is.

Files that are more than text are `backends/extraction/`'s.
"""

from __future__ import annotations

from router.errors import KvshelfError

_MAGIC = (
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)
_TAR_AT, _TAR_MARK = 257, b"ustar"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class NotText(KvshelfError):
    """The bytes are no text that kvshelf reads."""

    code = "unsupported_document"


def text_of(data: bytes, *, name: str = "The document") -> str:
    """The text in UTF-8 `data`. Raises NotText that says what the bytes are instead and how to mend it."""
    if data.startswith(b"%PDF-"):
        raise NotText(
            f"{name} is a PDF, and was sent or named as text. Send it with `content-type: application/pdf`; a file's name ends in .pdf.",
            param="text",
        )
    what = next((what for magic, what in _MAGIC if data.startswith(magic)), None)
    if what is None and data.startswith(_TAR_MARK, _TAR_AT):
        what = "a tar archive"
    if what is None and b"\0" in data and not data.startswith(_UTF16):
        what = "binary data"
    if what is not None:
        raise NotText(
            f"{name} is {what}; kvshelf reads plain text and Markdown in UTF-8, HTML, and PDF. Convert it to text first.",
            param="text",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if data.startswith(_UTF16) else "LATIN1"
        raise NotText(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. "
            f"Convert it first, e.g. with: iconv -f {guess} -t UTF-8 FILE",
            param="text",
        ) from error
