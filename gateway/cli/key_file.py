"""The file that holds an API key, for its owner alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import aiofiles
import aiofiles.os


async def read(path: Path) -> str:
    """Without the space around it. Raises OSError."""
    async with aiofiles.open(path, encoding="utf-8") as file:
        return (await file.read()).strip()


async def write(path: Path, key: str) -> None:
    """In the place of whatever is there. Raises OSError."""
    await aiofiles.os.makedirs(path.parent, exist_ok=True)
    with suppress(FileNotFoundError):
        await aiofiles.os.remove(path)
    async with aiofiles.open(path, "x", encoding="utf-8", opener=_open_private) as file:
        await file.write(key)


def _open_private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
