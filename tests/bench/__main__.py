"""The benchmarks: `make bench`, or one of them: make bench ARGS=own. Those that take an hour are run by name only."""

from __future__ import annotations

import asyncio
import sys

from tests.bench import (
    damage,
    engine_time,
    fairness,
    flood,
    guards,
    kills,
    own_time,
    routing_fit,
    routing_quality,
    routing_speed,
    tiers_time,
    walls,
)

USUAL = {"own": own_time.run, "engine": engine_time.run, "tiers": tiers_time.run}
ALL = {
    **USUAL,
    "damage": damage.run,
    "guards": guards.run,
    "fairness": fairness.run,
    "flood": flood.run,
    "kills": kills.run,
    "routing": routing_quality.run,
    "routing-fit": routing_fit.run,
    "routing-speed": routing_speed.run,
    "walls": walls.run,
}


def main() -> None:
    wanted = sys.argv[1:] or list(USUAL)
    unknown = set(wanted) - set(ALL)
    if unknown:
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}.")
    for name in wanted:
        asyncio.run(ALL[name]())


if __name__ == "__main__":
    main()
