"""Takes each guard of `tests/guards/` out by itself, in a copy of the project, and shows the test that caught it.

A guard whose tests still pass without it guards nothing, or isn't tested: the last line counts those. No engine runs; it takes a
few seconds a guard, on every core.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.guards import Guard, guards

ROOT = Path(__file__).parents[2]
LINKED = (".venv", ".venv-worker", ".kvshelf/models")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


async def run() -> None:
    rows: list[tuple[Guard, str | None]] = []
    waiting = guards()
    with tempfile.TemporaryDirectory() as made:
        await asyncio.gather(*(_work(Path(made) / str(number), waiting, rows) for number in range(os.cpu_count() or 1)))
    print("| guard | stands in | caught by |\n| --- | --- | --- |")
    for guard, caught in sorted(rows, key=lambda row: (row[0].path, row[0].name)):
        print(f"| {guard.name} | {guard.path} | {caught or 'NOTHING'} |")
    missed = sum(caught is None for _, caught in rows)
    print(f"\n{len(rows)} guards, {len(rows) - missed} of them caught when gone, {missed} not.")


async def _work(copy: Path, waiting: list[Guard], rows: list[tuple[Guard, str | None]]) -> None:
    """Take guards that wait, one after the other, until there are no more."""
    await asyncio.to_thread(_copied, copy)
    while waiting:
        guard = waiting.pop()
        rows.append((guard, await asyncio.to_thread(_caught, copy, guard)))


def _copied(into: Path) -> None:
    """What git knows of, and what it doesn't ignore; environments and models by links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)
    for name in LINKED:
        if (ROOT / name).exists():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).symlink_to((ROOT / name).resolve())


def _caught(copy: Path, guard: Guard) -> str | None:
    """The first test that fails without the guard; None where none does."""
    path = copy / guard.path
    whole = path.read_text("utf-8")
    path.write_text(guard.without(whole), "utf-8")
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--timeout", "120", "-p", "no:cacheprovider", *guard.tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(whole, "utf-8")
    found = _FAILED.search(ran.stdout)
    return found[1] if ran.returncode == 1 and found else None
