"""Answers under way of keys that end: whoever streams is told within seconds that its key is good no longer.

One look a second at the keys that have a stream under way, however many chunks these send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from gateway.errors import Unauthorized
from gateway.tenants.authenticator import Authenticator, Principal

log = structlog.get_logger("streams")

LOOK_EVERY_S = 1.0


class Streams:
    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._open: dict[asyncio.Future[None], Principal] = {}

    def __repr__(self) -> str:
        return f"<Streams: {len(self._open)} under way>"

    @contextmanager
    def watched(self, principal: Principal) -> Iterator[asyncio.Future[None]]:
        """A future that is done once the key is revoked or has expired, or its secret was replaced."""
        ended = asyncio.get_running_loop().create_future()
        self._open[ended] = principal
        try:
            yield ended
        finally:
            del self._open[ended]
            ended.cancel()

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """End the streams of keys that are good no longer."""
        streaming = {(principal.key_id, principal.proof): principal for principal in self._open.values()}
        good = await asyncio.gather(*(self._authenticator.still_good(principal) for principal in streaming.values()))
        over = {key for key, is_good in zip(streaming, good, strict=True) if not is_good}
        for ended, principal in self._open.items():
            if (principal.key_id, principal.proof) in over and not ended.done():
                ended.set_result(None)
                log.info("stream_ended", key=principal.key_id, reason="its key was revoked or has expired")


def key_ended() -> Unauthorized:
    """What a stream ends with then."""
    return Unauthorized("This API key was revoked or has expired meanwhile.")
