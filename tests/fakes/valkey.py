"""A Valkey that lives in a thread of this process, on a socket as a real one; and the real one, where a server is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakeredis import TcpFakeServer

from tests.fakes.ports import free_port

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")


class _Server(TcpFakeServer):
    request_queue_size = 128  # dozens connect at once


@contextmanager
def fake() -> Iterator[str]:
    """Its URL."""
    server = _Server(("127.0.0.1", 0), server_type="valkey")
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"valkey://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def real(folder: Path) -> Iterator[str]:
    """The URL of a server of its own, that keeps nothing."""
    assert SERVER is not None
    port = free_port()
    process = subprocess.Popen(
        [SERVER, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
