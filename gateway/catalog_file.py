"""catalog.yaml: documents declared by the operator, applied at start and whenever the file or a document changes.

A bad file changes nothing: the last good state stays, and `problems` says what is wrong. A document that is
declared no more is removed; documents added over HTTP are left alone.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from watchfiles import awatch

from backends.extract import text_of
from gateway import strict_yaml
from gateway.documents import Shelf
from gateway.strict_yaml import ConfigError
from router.descriptors import guess_title
from router.documents import SHARED, Descriptor, DocumentId, Owner, check_id
from router.errors import KvshelfError
from router.prompts import clean_text

log = structlog.get_logger("catalog")

SOURCE = "catalog"


class Entry(msgspec.Struct, frozen=True):
    """One declared document. Without `tenant` it is shared by all."""

    id: str
    file: Path
    title: str | None = None
    summary: str = ""
    tags: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    tenant: str | None = None

    def __post_init__(self) -> None:
        try:
            check_id(self.id)
            check_id(self.tenant or "x", what="tenant")
        except KvshelfError as error:
            raise ValueError(str(error)) from error


class CatalogFile(msgspec.Struct, frozen=True):
    documents: tuple[Entry, ...]


class Declared(msgspec.Struct, frozen=True):
    owner: Owner
    id: DocumentId
    text: str
    descriptor: Descriptor


def load(path: Path) -> list[Declared]:
    """The file's documents with their texts. Raises ConfigError with everything that is wrong."""
    entries = strict_yaml.read(path, CatalogFile).documents
    declared: dict[tuple[str, str], Declared] = {}
    problems = []
    for number, entry in enumerate(entries):
        at = f"{path}: `documents[{number}]` ({entry.id})"
        owner = Owner(entry.tenant) if entry.tenant else SHARED
        try:
            text = clean_text(text_of(entry.file.read_bytes(), name=str(entry.file)))
        except OSError as error:
            problems.append(f"{at}: {entry.file} can't be read: {error.strerror}")
            continue
        except KvshelfError as error:
            problems.append(f"{at}: {error}")
            continue
        if not text:
            problems.append(f"{at}: {entry.file} is empty")
        if (owner, entry.id) in declared:
            problems.append(f"{at}: declared twice")
        descriptor = Descriptor(entry.title or guess_title(text, entry.id), entry.summary, entry.tags, entry.questions)
        declared[owner, entry.id] = Declared(owner, DocumentId(entry.id), text, descriptor)
    if problems:
        raise ConfigError(problems)
    return list(declared.values())


class CatalogWatcher:
    def __init__(self, path: Path | None, shelf: Shelf) -> None:
        """`path`: the catalog file, None where there is none."""
        self.problems: list[str] = []
        self._path = path
        self._shelf = shelf

    async def apply(self) -> None:
        """Bring the shelf to what the file declares now. Never raises for what is in the file: `problems` says it."""
        if self._path is None:
            return
        try:
            declared = await asyncio.to_thread(load, self._path)
        except ConfigError as error:
            self._say(error.problems)
            return
        problems = []
        for entry in declared:
            try:
                await self._shelf.put(entry.owner, entry.id, entry.text, entry.descriptor, source=SOURCE)
            except KvshelfError as error:
                problems.append(f"{self._path}: {entry.id}: {error}")
        wanted = {(entry.owner, entry.id) for entry in declared}
        for document in self._shelf.catalog:
            if document.source == SOURCE and (document.owner, document.id) not in wanted:
                await self._shelf.remove(document.owner, document.id)
        self._say(problems)

    async def watch(self) -> None:
        """Apply again at every change of the file or of a declared document, until cancelled."""
        if self._path is None:
            return
        while True:
            # Folders, not files: editors replace a file, and the new one would go unwatched.
            folders = await asyncio.to_thread(self._folders)
            async for changes in awatch(*folders, recursive=False):
                log.info("catalog_changed", files=sorted({Path(name).name for _, name in changes}))
                await self.apply()
                if await asyncio.to_thread(self._folders) != folders:
                    break

    def _folders(self) -> set[Path]:
        assert self._path is not None  # noqa: S101 - `watch` has looked
        folders = {self._path.resolve().parent}
        with suppress(ConfigError):  # `apply` says it
            folders |= {entry.file.resolve().parent for entry in strict_yaml.read(self._path, CatalogFile).documents}
        return {folder for folder in folders if folder.is_dir()}

    def _say(self, problems: list[str]) -> None:
        if problems and problems != self.problems:
            log.error("catalog_problems", problems=problems, consequence="the last good state stays")
        self.problems = problems
