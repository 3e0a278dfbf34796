from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.settings import LocalEngine, Model
from tests.backends.local.lab import Lab
from tests.backends.local.machine import FAKE, Machine, alive
from tests.fakes.ports import free_ports


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
    worker, lmcache, http, events = free_ports(2), free_ports(1), free_ports(1), free_ports(2)
    settings = LocalEngine(
        python=python,
        disk_path=folder / "kv",
        workers=2,
        worker_port=worker,
        lmcache_port=lmcache,
        lmcache_http_port=http,
        kv_events_port=events,
        kv_server_events_port=events + 1,
        kv_space_gib=0.01,
        ram_gib=0.01,
    )
    result = Machine(folder, settings, Model(name="small", path=model, context_tokens=8192, dtype="float32"))
    result.behave()
    return result


@pytest.fixture
async def lab(machine: Machine, tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(machine, tmp_path / "data")
    yield lab
    for stack in lab.stacks:
        await stack.stop()
    for pid in machine.pids():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
