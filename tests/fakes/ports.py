"""Ports for what has to be told its port before it listens, or must find nobody there."""

from __future__ import annotations

import itertools
import os
import socket

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Which of the processes that share the tests this is: one that looks for a free port does not see what another will take."""
CANDIDATES = itertools.count(20000 + WORKER % 3 * 4000 + os.getpid() % 3000)
"""Below the ports that the system gives to clients and to who names none. Each is handed out once."""


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    row: list[int] = []
    while len(row) < count:
        port = next(CANDIDATES)
        row = [*row, port] if _is_free(port) else []
    return row[0]


def free_port() -> int:
    return free_ports(1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
