"""Questions asked of a plain folder of documents, as the gateway would route them: without an engine, a database, or a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from backends.base import Embedder, Vectors
from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from backends.words import content_words
from gateway.shelf.index import Index, features
from router.defaults import MATCHING
from router.descriptors import guess_title, routing_texts
from router.documents import Descriptor, Document, DocumentId, Owner
from router.errors import KvshelfError
from router.evaluation import Judged, Labelled, judge
from router.matching import Thresholds, decide
from router.prompts import clean_text

log = structlog.get_logger("evaluation")

ALONE = Owner("evaluation")


async def index(folder: Path, embedder: Embedder | None, *, on_document: Callable[[int, int], None] = lambda *_: None) -> Index:
    """The folder's text files; a document's id is its file's stem, its title guessed. `on_document`: how many are done, of how many.

    Files that are no text are left out and said. Raises KvshelfError where nothing is left, or two have one id.
    """
    texts = await _texts(folder)
    documents, found = [], []
    for number, (document_id, text) in enumerate(texts.items()):
        descriptor = Descriptor(guess_title(text, document_id))
        about = routing_texts(descriptor, text)
        vectors = await embedder.embed(about) if embedder is not None else None
        documents.append(Document(owner=ALONE, id=DocumentId(document_id), descriptor=descriptor))
        found.append(features(descriptor, text, vectors))
        on_document(number + 1, len(texts))
    return Index(documents, found)


async def ask(
    index: Index, embedder: Embedder | None, questions: Sequence[Labelled], thresholds: Thresholds
) -> tuple[list[Judged], list[float]]:
    """What became of each, one after the other, and how long each took in seconds, its embedding included."""
    judged, seconds = [], []
    for one in questions:
        started = time.perf_counter()
        asked: Vectors | None = await embedder.embed((one.question,)) if embedder is not None else None
        words = content_words(one.question)
        evidence = index.evidence(index.lexical(words), asked[0] if asked is not None else None, MATCHING)
        named = index.named(one.question)
        decision = decide(index.documents, evidence, len(words), MATCHING, thresholds, named=named)
        seconds.append(time.perf_counter() - started)
        judged.append(judge(one, decision))
    return judged, seconds


async def _texts(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    extractor = Extractor(Extraction())
    for path in await asyncio.to_thread(_files, folder):
        try:
            text = clean_text(await extractor.text_of_file(path))
        except KvshelfError as error:
            log.warning("left_out", file=path.name, error=str(error))
            continue
        if path.stem in found:
            raise KvshelfError(f"{folder} holds two files whose stem is {path.stem!r}: a document's id is its file's stem.")
        if text.strip():
            found[path.stem] = text
    if not found:
        raise KvshelfError(f"{folder} holds no text file.")
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
