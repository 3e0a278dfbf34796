"""Stored chunks are damaged a hundred times in each way, on the real engine: wrong answers, what was found, what was mended.

python -m tests.bench damage; KVSHELF_DAMAGE_TRIALS says how often each.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from pathlib import Path

from gateway.sections import Disk, Ram
from tests.bench import measure
from tests.engine import damage
from tests.engine.conftest import RealGateway
from tests.engine.test_tiers import text

TRIALS = 100


async def run() -> None:
    trials = int(os.environ.get("KVSHELF_DAMAGE_TRIALS", TRIALS))
    with tempfile.TemporaryDirectory() as folder:
        gateway = RealGateway(
            Path(folder),
            workers=1,
            kv_space_gib=0.4,
            ram_gib=0.5,
            disk=Disk(scrub_mib_per_s=0),
            ram=Ram(policy="density"),
            may_reset=True,
        )
        await gateway.start()
        try:
            subjects = [await damage.subject(gateway, name, text(name, 30)) for name in ("apples", "pears")]
            chunks = len(subjects[0].paths)
            done: dict[str, list[damage.Trial]] = {kind: [] for kind in damage.KINDS}
            for seed in range(trials):
                for kind in damage.KINDS:
                    chance = random.Random(f"{kind} {seed}")  # noqa: S311 - where the damage is
                    done[kind].append(await damage.trial(gateway, kind, subjects, chance))
                    if not (done[kind][-1].right and done[kind][-1].mended):
                        measure.console.print(f"trial {seed}: {done[kind][-1]}")
        finally:
            await gateway.stop()
    measure.show(
        f"Damage to one stored chunk of {chunks} (swapped: two), then a question",
        ["", "trials", "wrong answers", "damaged chunks", "counted", "trials mended", "s a trial, p50"],
        [_row(kind, trials_done) for kind, trials_done in done.items()],
    )


def _row(kind: str, done: list[damage.Trial]) -> list[str]:
    return [
        kind,
        str(len(done)),
        str(sum(not one.right for one in done)),
        str(0 if kind == "deleted" else sum(one.harmed for one in done)),
        str(sum(one.counted for one in done)),
        str(sum(one.mended for one in done)),
        f"{statistics.median(one.seconds for one in done):.1f}",
    ]
