"""The benchmarks: `make bench`, or one of them: make bench ARGS=own."""

from __future__ import annotations

import asyncio
import sys

from tests.bench import damage, engine_time, own_time, tiers_time

ALL = {"own": own_time.run, "engine": engine_time.run, "tiers": tiers_time.run, "damage": damage.run}


def main() -> None:
    wanted = sys.argv[1:] or list(ALL)
    unknown = set(wanted) - set(ALL)
    if unknown:
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}.")
    for name in wanted:
        asyncio.run(ALL[name]())


if __name__ == "__main__":
    main()
