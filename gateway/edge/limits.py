"""What a listener bears from its clients."""

from __future__ import annotations

import msgspec

from gateway.edge.hosts import Hosts

MIB = 2**20
HEAD_BYTES = 32 * 1024
"""Request line and headers together."""
URL_BYTES = 8 * 1024
HEADERS = 100
PIPELINED = 8
"""Requests that wait on one connection for the answers before them."""
SEND_STALL_S = 60.0
"""A client that does not take what is buffered for it within this time (more than 1 KiB a second) is let go."""
PIECE_BYTES = 64 * 1024
"""Answers go out in pieces of this size at most. What is buffered for a client that does not read is a piece more than the
transport's own limit (64 KiB), whatever the answer's size."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    header_timeout_s: float = 10.0
    """A request's headers are here this long after its first byte (the first request's: after the connection), or it is closed."""
    body_timeout_s: float = 30.0
    """The same for its body, after the headers."""
    send_stall_s: float = SEND_STALL_S
    idle_s: float = 5.0
    """How long a connection is kept without a request."""
    max_body_bytes: int = 16 * MIB
    max_connections: int = 1000
    hosts: Hosts = Hosts(["*"])
    hosts_setting: str = "server.allowed_hosts"
    """Where the configuration says it, for whoever is refused."""
