"""The bytes of a file into a document's text: plain text here, what has to be taken apart in a child process.

A file that is too much for the child's limits, breaks it or holds no text is refused with a sentence; nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import structlog

from backends.extract import text_of
from backends.extraction.child import Refusal
from backends.settings import Extraction
from router.errors import KvshelfError

log = structlog.get_logger("extraction")

CHILD = Path(__file__).with_name("child.py")
MAX_WAITING = 16
"""Files that wait for their turn; each is in memory meanwhile."""
READ_BYTES = 2**16


class Kind(StrEnum):
    TEXT = "text"
    PDF = "pdf"
    HTML = "html"


MEDIA_TYPES = {"application/pdf": Kind.PDF, "text/html": Kind.HTML}
"""Whatever else a request says its body is, it has to be text."""
SUFFIXES = {".pdf": Kind.PDF, ".html": Kind.HTML, ".htm": Kind.HTML}


class Unreadable(KvshelfError):
    """A file of a kind that kvshelf reads, of which it could not or would not."""

    code = "document_unreadable"


class ExtractionBusy(KvshelfError):
    """So many files wait to be read that another is refused at once."""

    code = "extraction_busy"
    retry_after_s = 10


class Extractor:
    """Reads files, `at_once` of them; others wait. Its children take what `settings` allow and no more."""

    def __init__(self, settings: Extraction, *, child: Path = CHILD) -> None:
        """`child`: the script that reads a file."""
        self._settings = settings
        self._child = child
        self._turn = asyncio.Semaphore(settings.at_once)
        self._waiting = 0

    async def text(self, data: bytes, kind: Kind, *, name: str = "The document") -> str:
        """The text in `data`. Raises NotText, Unreadable or ExtractionBusy."""
        if kind is not Kind.PDF:
            text = text_of(data, name=name)  # a page has to be UTF-8, too
            if kind is Kind.TEXT:
                return text
        if self._waiting >= MAX_WAITING:
            raise ExtractionBusy(f"{self._waiting} files wait to be read already; send this one again later.", param="text")
        self._waiting += 1
        try:
            async with self._turn:
                status, written = await self._read(data, kind)
        finally:
            self._waiting -= 1
        if status != 0:
            log.info("file_refused", kind=kind.value, size_bytes=len(data), status=status)
            raise Unreadable(f"{name} {self._words(status, kind)}", param="text")
        return written.decode("utf-8", "replace")

    async def text_of_file(self, path: Path) -> str:
        """The same of a file; what it is its name says. Raises OSError too."""
        data = await asyncio.to_thread(path.read_bytes)
        return await self.text(data, SUFFIXES.get(path.suffix.lower(), Kind.TEXT), name=str(path))

    async def _read(self, data: bytes, kind: Kind) -> tuple[int, bytes]:
        """The child's exit status (minus the signal that ended it) and what it wrote."""
        limits = self._settings
        max_text_bytes = limits.max_text_mib * 2**20
        numbers = (limits.memory_mib * 2**20, math.ceil(limits.time_s), max_text_bytes, limits.max_pages)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(self._child), kind.value, *map(str, numbers)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        feeding = asyncio.ensure_future(_feed(child, data))
        try:
            async with asyncio.timeout(limits.time_s):
                text = await _bounded(child, max_text_bytes)
                return (await child.wait(), text) if text is not None else (Refusal.LENGTH, b"")
        except TimeoutError:
            return -signal.SIGXCPU, b""
        finally:
            feeding.cancel()
            with suppress(ProcessLookupError):  # also after its end: it may have left others behind
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.gather(feeding, return_exceptions=True)
            await child.wait()

    def _words(self, status: int, kind: Kind) -> str:
        limits, what = self._settings, kind.value.upper()
        match status:
            case Refusal.ENCRYPTED:
                return "is encrypted. Save it without a password, and send that."
            case Refusal.NO_TEXT:
                return f"has no text: it is empty, or holds pictures of pages only. Make a {what} with text of it (OCR), or send its text."
            case Refusal.PAGES:
                return f"has over {limits.max_pages} pages. Send it in parts, or have the operator raise `extraction.max_pages`."
            case Refusal.LENGTH:
                return (
                    f"holds over {limits.max_text_mib} MiB of text. Send it in parts, or have the operator raise "
                    "`extraction.max_text_mib`."
                )
            case Refusal.DAMAGED:
                return f"is no {what} that can be read: it is damaged, or something else. Save it again, or send its text."
            case Refusal.NESTED:
                return "is nested too deeply to be read. Send its text."
            case _ if -status in (signal.SIGXCPU, signal.SIGKILL):
                return (
                    f"took longer than {limits.time_s:g} s to read. Send its text or a simpler file, or have the operator raise "
                    "`extraction.time_s`."
                )
        # PDFium ends itself where memory is refused, as it does for a fault of its own: the two look alike.
        return (
            f"could not be read within {limits.memory_mib} MiB of memory, or broke the reader. Send its text or a simpler file, "
            "or have the operator raise `extraction.memory_mib`."
        )


async def _feed(child: asyncio.subprocess.Process, data: bytes) -> None:
    """A child that has seen enough takes no more."""
    if child.stdin is None:
        return
    with suppress(ConnectionError):
        child.stdin.write(data)
        await child.stdin.drain()
    child.stdin.close()


async def _bounded(child: asyncio.subprocess.Process, limit: int) -> bytes | None:
    """All that it writes; None where that is over `limit`, of which the rest is left unread."""
    found = bytearray()
    while child.stdout is not None and (part := await child.stdout.read(READ_BYTES)):
        found += part
        if len(found) > limit:
            return None
    return bytes(found)
