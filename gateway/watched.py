"""Files that are looked at as long as the gateway runs: who reads them says how they were, and is told when they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from watchfiles import awatch

LOOK_EVERY_MS = 500
"""The system tells of changes at once; they are looked for this often besides, as network file systems tell nothing."""

Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What changes whenever the file does."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


async def changes(seen: Callable[[], Mapping[Path, Stamp]]) -> AsyncIterator[list[str]]:
    """The names of the files that are not any more as they were `seen`, whenever there are some. Never ends.

    What is seen is asked for anew each time. A file whose stamp is None is never as it was.
    """
    while True:
        # Folders, not files: editors replace a file, and the new one would go unwatched.
        folders = await asyncio.to_thread(_folders, seen())
        async for _ in awatch(*folders, recursive=False, rust_timeout=LOOK_EVERY_MS, yield_on_timeout=True):
            if changed := await asyncio.to_thread(_changed, seen()):
                yield changed
            if await asyncio.to_thread(_folders, seen()) != folders:
                break


def _changed(seen: Mapping[Path, Stamp]) -> list[str]:
    return sorted(path.name for path, before in seen.items() if stamp(path) != before)


def _folders(paths: Iterable[Path]) -> set[Path]:
    """Both where a file is named and where it is: Kubernetes swaps the link, an editor the file behind it."""
    folders = {folder for path in paths for folder in (path.absolute().parent, path.resolve().parent)}
    return {folder for folder in folders if folder.is_dir()}
