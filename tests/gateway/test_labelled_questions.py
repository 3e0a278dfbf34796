"""The project's own labelled questions: well-formed, each once, about documents that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.evaluation import questions

ROOT = Path(__file__).parents[2]
SETS = ROOT / "tests" / "bench" / "routing"
LICENCES = {
    "Apache-2.0",
    "Artistic",
    "BSD",
    "CC0-1.0",
    "GFDL-1.2",
    "GFDL-1.3",
    "GPL-1",
    "GPL-2",
    "GPL-3",
    "LGPL-2",
    "LGPL-2.1",
    "LGPL-3",
    "MPL-1.1",
    "MPL-2.0",
}
DOCUMENTS = {
    "samples": {path.stem for path in (ROOT / "configs" / "demo" / "documents").iterdir()},
    "licences": LICENCES,
    "manpages": set((SETS / "manpages.txt").read_text("utf-8").split()),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_set_is_well_formed(name: str) -> None:
    labelled = questions.read(SETS / f"{name}.jsonl")
    asked = {one.document for one in labelled if one.document is not None}
    assert asked <= DOCUMENTS[name]
    assert len({one.question.lower() for one in labelled}) == len(labelled) > 100
    assert all(one.kind for one in labelled)
    foreign = sum(one.document is None for one in labelled)
    assert 0.1 < foreign / len(labelled) < 0.5
