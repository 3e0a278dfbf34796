"""The process that reads one untrusted file: its bytes on stdin, its text on stdout, a refusal as exit status. Run as a script.

usage: child.py pdf|html MEMORY_BYTES CPU_S MAX_TEXT_BYTES MAX_PAGES
Whoever gets hold of it has a bounded amount of memory and time, no environment, and not one more file, socket or process:
once the libraries are loaded no descriptor can be opened. Imports nothing of kvshelf; `extractor.py` starts it.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from enum import IntEnum


class Refusal(IntEnum):
    """Why there is no text, as the exit status."""

    DAMAGED = 10
    ENCRYPTED = 11
    NO_TEXT = 12
    PAGES = 13
    LENGTH = 14
    MEMORY = 15
    NESTED = 16


class Refused(Exception):
    def __init__(self, why: Refusal) -> None:
        self.why = why


# PDFium writes U+0002 or U+FFFE where it joined a word that a hyphen divided; other controls are nothing to read.
_UNREAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
ELSEWHERE = ("script", "style", "template", "noscript", "head", "title", "svg")
"""Elements that hold nothing that a reader of the page sees."""


def pdf(data: bytes, max_pages: int) -> Iterator[str]:
    """The text of each page."""
    import pypdfium2
    import pypdfium2.raw

    lock()
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        is_locked = error.err_code in (pypdfium2.raw.FPDF_ERR_PASSWORD, pypdfium2.raw.FPDF_ERR_SECURITY)
        raise Refused(Refusal.ENCRYPTED if is_locked else Refusal.DAMAGED) from error
    if len(document) > max_pages:
        raise Refused(Refusal.PAGES)
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_range()
        except pypdfium2.PdfiumError as error:
            raise Refused(Refusal.DAMAGED) from error
        page.close()
        yield text.strip() + "\n\n"


def html(data: bytes, _: int) -> Iterator[str]:
    """The page, in UTF-8, as Markdown: its headings are where a long document is split."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    lock()
    soup = BeautifulSoup(data.decode("utf-8"), "html.parser")
    for element in soup(ELSEWHERE):
        element.decompose()
    converter = MarkdownConverter(
        heading_style="ATX", strip=["a", "img"], escape_asterisks=False, escape_underscores=False, escape_misc=False
    )
    yield re.sub(r"\n\s*\n", "\n\n", converter.convert_soup(soup))


READERS = {"pdf": pdf, "html": html}


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Nothing that is loaded or read from here on takes more than this."""
    os.nice(10)
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def lock() -> None:
    """From here on nothing can be opened, connected to or started."""
    b"x\0".decode("utf-16-le")  # a codec is a file that is loaded when it is first used
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def main(kind: str, memory_bytes: int, cpu_s: int, max_text_bytes: int, max_pages: int) -> int:
    limit(memory_bytes, cpu_s)
    size, has_text = 0, False
    try:
        for text in READERS[kind](sys.stdin.buffer.read(), max_pages):
            written = _UNREAD.sub("", text.replace("\r\n", "\n")).encode("utf-8", "replace")
            size, has_text = size + len(written), has_text or bool(written.strip())
            if size > max_text_bytes:
                return Refusal.LENGTH
            sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
    except Refused as refused:
        return refused.why
    except MemoryError:
        return Refusal.MEMORY
    except RecursionError:
        return Refusal.NESTED
    return 0 if has_text else Refusal.NO_TEXT


if __name__ == "__main__":
    code = main(sys.argv[1], *map(int, sys.argv[2:]))
    os._exit(code)  # the libraries' own way out takes as long as the reading, and is no use any more
