"""A gateway in a thread with a loop of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from tests.fakes.gateway import Gateway


@contextmanager
def running_beside(gateway: Gateway, prepare: Callable[[Gateway], Awaitable[object]]) -> Iterator[None]:
    """The gateway answers in a thread of its own, once it was prepared there."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    async def run() -> None:
        async with gateway.running():
            await prepare(gateway)
            ready.set()
            await stop.wait()

    def serve() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(30)
    try:
        if not failed:
            yield
    finally:
        if not failed:
            loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    assert not failed, failed
