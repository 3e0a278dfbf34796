"""Stored chunks are damaged in every way: no answer is wrong for it, and the files are written anew. On the real engine.

`make bench ARGS=damage` does the same a hundred times each.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from tests.engine import counters, damage
from tests.engine.conftest import RealGateway
from tests.engine.test_tiers import text

TRIALS = 2


@pytest.fixture(scope="module")
async def subjects(small: RealGateway) -> AsyncIterator[list[damage.Subject]]:
    yield [await damage.subject(small, name, text(name, 36)) for name in ("apples", "pears")]
    for name in ("apples", "pears"):
        await small.remove(name)


@pytest.mark.parametrize("kind", damage.KINDS)
async def test_a_damaged_chunk_gives_no_wrong_answer_and_is_written_anew(
    small: RealGateway, subjects: list[damage.Subject], kind: str
) -> None:
    for seed in range(TRIALS):
        chance = random.Random(f"{kind} {seed}")  # noqa: S311 - where the damage is
        done = await damage.trial(small, kind, subjects, chance)
        assert done.right, done
        assert done.counted == (0 if kind == "deleted" else done.harmed), done
        assert done.mended, done
    await counters.agree(small)
