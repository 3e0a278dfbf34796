"""A gateway that is killed, and what its engine's processes do then."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from backends.local import commands
from backends.local.errors import LocalEngineError
from tests.backends.local.lab import Lab
from tests.backends.local.machine import alive, wait_until_gone

GATEWAY = """
import asyncio, sys
import msgspec
from pathlib import Path
from backends.local.stack import LocalStack, Timing
from backends.settings import LocalEngine, Model
from tests.backends.local.lab import CHECK, QUICK

async def main():
    settings = msgspec.json.decode(sys.argv[1], type=LocalEngine, dec_hook=lambda kind, value: kind(value))
    model = msgspec.json.decode(sys.argv[2], type=Model, dec_hook=lambda kind, value: kind(value))
    stack = LocalStack(settings, model, chunk_tokens=256, data_path=Path(sys.argv[3]), timing=QUICK, check=CHECK)
    await stack.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def run_gateway(lab: Lab) -> asyncio.subprocess.Process:
    """A process with a started stack of its own."""
    arguments = [msgspec.json.encode(part, enc_hook=str).decode() for part in (lab.machine.settings, lab.machine.model)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, *arguments, str(lab.data_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
    return process


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()))


async def test_a_killed_gateway_leaves_nothing(lab: Lab) -> None:
    port = lab.machine.settings.worker_port
    lab.machine.behave(families=[port], stubborn=[port + 1])
    gateway = await run_gateway(lab)
    guards = children(gateway.pid)
    assert len(lab.machine.pids()) == 4
    gateway.kill()
    await gateway.wait()
    await asyncio.to_thread(wait_until_gone, guards)
    assert [pid for pid in lab.machine.pids() if alive(pid)] == []
    assert not commands.shared_memory_file(lab.machine.settings).exists()


async def test_what_outlives_its_guard_is_ended_at_the_next_start(lab: Lab) -> None:
    """The gateway and its guards are killed at once, and a worker ignores the signal that their death sends it."""
    stubborn = lab.machine.settings.worker_port
    lab.machine.behave(stubborn=[stubborn])
    gateway = await run_gateway(lab)
    guards = children(gateway.pid)
    assert len(guards) == 3
    for pid in (gateway.pid, *guards):
        os.kill(pid, signal.SIGKILL)
    await gateway.wait()
    pids = {name: int(pid) for name, pid in lab.machine.journal()}
    survivor = pids.pop(f"port-{stubborn}")
    await asyncio.to_thread(wait_until_gone, pids.values())
    assert alive(survivor)

    lab.machine.behave()
    await lab.stack().start()
    assert lab.events.lines[0] == "ended what an earlier run had left behind: worker-1"
    assert not alive(survivor)


async def test_one_engine_a_data_folder(lab: Lab) -> None:
    await lab.stack(workers=1).start()
    with pytest.raises(LocalEngineError, match=f"Another kvshelf \\(process {os.getpid()}\\)"):
        await lab.stack(workers=1).start()
