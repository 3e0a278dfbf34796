"""A text costs in proportion to its length, whatever is in it: four times as much of it, far less than sixteen times the work.

The work is processor time, compared with itself, so a slow machine changes nothing; what never ends is ended by the kernel.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.router.linear import READERS, SHAPES, seconds

ROOT = Path(__file__).parents[2]
CHARACTERS = 100_000
CPU_S = 60
SLACK_S = 0.5
"""What a quadratic one is beyond by far at four times CHARACTERS."""


def test_every_reader_is_linear_in_every_shape_of_text() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.router.linear", str(CHARACTERS)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S)),
    )
    found = [json.loads(line) for line in result.stdout.splitlines()]
    last = found[-1][:2] if found else "the first"
    assert len(found) == len(READERS) * len(SHAPES), f"what comes after {last} did not end: {result.stderr[-500:]}"
    steep = [entry for entry in found if entry[3] > 8 * entry[2] + SLACK_S]
    assert steep == []


@pytest.mark.parametrize(("shape", "characters"), [("ideographs", 4_000_000), ("sections under a long heading", 500_000)])
def test_passages_are_not_made_by_copying_the_text_again_and_again(shape: str, characters: int) -> None:
    """Copying is quick, so it shows late: a copy of megabytes for each of ten thousand passages."""
    read, made = READERS["passages"], SHAPES[shape]
    assert seconds(read, made(4 * characters)) < 8 * seconds(read, made(characters)) + SLACK_S
