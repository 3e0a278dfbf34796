"""What one tenant could learn of another's documents by the clock, on the real engine: 250 samples of each kind.

Each pair with the probability of such a difference where there is none; below 0.001 they differ. The last rows are controls, which must.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.bench import measure
from tests.engine import walls
from tests.engine.conftest import RealGateway
from tests.engine.walls import asked, cold, hit, shown

SAMPLES = 250


async def run() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        gateway = RealGateway(Path(folder), workers=1)
        await gateway.start()
        try:
            a = (await walls.two(gateway)).a
            theirs = await walls.version_of(gateway, "tenant-b", "rules-warm")
            ids = (await walls.prefix_of(gateway, theirs))[: gateway.config.engine.chunk_tokens]
            unknown = shown(gateway, "rules-worn", key=a, status=404)
            warm = asked(gateway, "rules-warm", key=a, status=404)
            for what, first, second in (
                ("ask: forbidden, unknown", warm, asked(gateway, "rules-worn", key=a, status=404)),
                ("show: forbidden, unknown", shown(gateway, "rules-warm", key=a, status=404), unknown),
                ("ask: another's warm, another's cold", warm, asked(gateway, "rules-cold", key=a, status=404)),
                ("the engine: what another has read, what nobody has", cold(gateway, ids), cold(gateway, ids[::-1])),
                ("control: show one's own, unknown", shown(gateway, "rules-mine", key=a, status=200), unknown),
                ("control: the engine, one's own, what nobody has", hit(gateway, ids, theirs.salt), cold(gateway, ids[::-1])),
            ):
                found = await walls.compared(first, second, SAMPLES)
                medians = [f"{1000 * statistics.median(each):.2f}" for each in (found.first, found.second)]
                rows.append([what, *medians, f"{found.p_value:.2g}"])
        finally:
            await gateway.stop()
    measure.show(f"{SAMPLES} samples each", ("", "first, p50, ms", "second, p50, ms", "p of no difference"), rows)
