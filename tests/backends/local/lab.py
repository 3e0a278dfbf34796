"""A stack on the made-up machine, quick enough for tests, and what it says."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec

from backends.local import commands, preflight
from backends.local.stack import LocalStack, Timing
from tests.backends.local.machine import Machine, alive

QUICK = Timing(
    poll_s=0.02, lmcache_start_s=20, worker_start_s=20, first_backoff_s=0.05, longest_backoff_s=0.2, grace_s=2, missed_after_s=0.1
)
CHECK = partial(preflight.check, memory_bytes=1024**4)


class Events:
    """What the stack says, to be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._said = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._said.set()

    async def until(self, words: str, *, count: int = 1) -> str:
        """The `count`-th line with these words, once it was said."""
        while True:
            found = [line for line in self.lines if words in line]
            if len(found) >= count:
                return found[count - 1]
            self._said.clear()
            await asyncio.wait_for(self._said.wait(), 20)


class Lab:
    """One machine's stack, and what it said."""

    def __init__(self, machine: Machine, data_path: Path) -> None:
        self.machine = machine
        self.data_path = data_path
        self.events = Events()
        self.stacks: list[LocalStack] = []

    def stack(self, *, timing: Timing = QUICK, **changes: object) -> LocalStack:
        settings = msgspec.structs.replace(self.machine.settings, **changes)
        stack = LocalStack(
            settings,
            self.machine.model,
            chunk_tokens=256,
            data_path=self.data_path,
            on_event=self.events,
            timing=timing,
            check=CHECK,
        )
        self.stacks.append(stack)
        return stack

    def assert_nothing_is_left(self) -> None:
        assert [pid for pid in self.machine.pids() if alive(pid)] == []
        assert not commands.shared_memory_file(self.machine.settings).exists()
        assert not (self.data_path / "engine.json").exists()
