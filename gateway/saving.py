"""What is kept in memory and written now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def regularly(save: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Save every so many seconds, until cancelled, and then once more."""
    try:
        while True:
            await asyncio.sleep(every_s)
            await save()
    finally:
        await save()
