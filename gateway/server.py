"""The process around the app: its socket, and uvicorn. `gateway/edge/` is what stands between them; `gateway/logs.py` has its lines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from litestar import Litestar

from gateway.edge.connection import Connection
from gateway.edge.door import door
from gateway.edge.limits import Limits
from router.errors import KvshelfError

CLOSE_STREAMS = "close_streams"
"""Where the application's state has a function that ends the streams which would not end by themselves."""
LIMITS = "limits"
"""Where it has what its listener bears from clients (`gateway/edge/limits.py`)."""
GRACE_S = 25
"""Answers under way at the end may take this long to finish."""


def listen(host: str, port: int, *, setting: str = "server.port") -> socket.socket:
    """Bound before anything else starts: a port in use must not cost a minute of waiting for the engine."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as error:
        raise KvshelfError(f"The gateway can't listen on {host}:{port} ({error.strerror}); set another `{setting}`.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an event may wait 40 ms for an acknowledgement
    return listener


class GatewayServer(uvicorn.Server):
    """uvicorn, with an event for having started, and with signals left to us."""

    def __init__(self, app: Litestar, *, grace_s: int = GRACE_S) -> None:
        limits: Limits = app.state.get(LIMITS, Limits())
        super().__init__(
            uvicorn.Config(
                cast(Any, door(app, limits)),
                http=cast(type[asyncio.Protocol], partial(Connection, limits=limits)),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=cast(int, limits.idle_s),
                timeout_graceful_shutdown=grace_s,
            )
        )
        self.ready = asyncio.Event()
        self._close_streams: Callable[[], None] = app.state.get(CLOSE_STREAMS, lambda: None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close_streams()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
