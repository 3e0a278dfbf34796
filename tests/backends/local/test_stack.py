"""The stack with processes that behave like vLLM and LMCache: started in order, brought back, ended without remains."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from backends.lmcache.keys import file_name, partial_name
from backends.local import commands
from backends.local.errors import LocalEngineError
from backends.local.process import LOG_LIMIT_BYTES
from router.chunk_tier import ChunkKey
from router.documents import Salt
from tests.backends.local.lab import QUICK, Lab
from tests.backends.local.machine import alive


async def test_start_and_stop(lab: Lab) -> None:
    stack = lab.stack()
    port = lab.machine.settings.worker_port
    assert stack.workers == (("worker-1", f"http://127.0.0.1:{port}"), ("worker-2", f"http://127.0.0.1:{port + 1}"))
    assert stack.lmcache_url.endswith(str(lab.machine.settings.lmcache_http_port))
    assert stack.pid("lmcache") is None
    await stack.start()

    names = [entry[0] for entry in lab.machine.journal()]
    assert names[0] == "lmcache"
    assert sorted(names[1:]) == [f"port-{port}", f"port-{port + 1}"]
    assert stack.pid("lmcache") == lab.machine.pids()[0]
    assert str(stack.pid("worker-1")) in repr(stack)
    assert stack.versions() == {"vllm": "0.32.0", "lmcache": "0.5.6"}
    assert lab.events.lines[0] == "starting lmcache"
    assert "the engine is ready" in lab.events.lines[-1]
    assert stack.disk_path.is_dir()
    key = stack.key_path.read_bytes()
    assert len(key) == 32
    assert stat.S_IMODE(stack.key_path.stat().st_mode) == 0o600
    assert "=== " in stack.log_path("worker-2").read_text("utf-8")

    await stack.stop()
    lab.assert_nothing_is_left()
    await stack.stop()  # again is nothing

    again = lab.stack()
    await again.start()
    assert again.key_path.read_bytes() == key
    with pytest.raises(RuntimeError):
        await again.start()


async def test_what_a_killed_server_left_half_written_is_gone_before_the_next_one_starts(lab: Lab) -> None:
    stack = lab.stack()
    model = commands.absolute(lab.machine.model.path)
    stack.disk_path.mkdir(parents=True)
    half = stack.disk_path / partial_name(model, ChunkKey(bytes(32)), Salt("5a17"))
    whole = stack.disk_path / file_name(model, ChunkKey(bytes(32)), Salt("5a17"))
    half.write_bytes(b"begun")
    whole.write_bytes(b"done")
    await stack.start()
    assert not half.exists()
    assert whole.exists()
    assert f"removed 1 half-written chunks from {stack.disk_path}" in lab.events.lines


async def test_every_problem_is_said_before_anything_starts(lab: Lab) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", lab.machine.settings.lmcache_port))
        other.listen()
        (lab.machine.model.path / "tokenizer.json").unlink()
        with pytest.raises(LocalEngineError) as caught:
            await lab.stack().start()
    assert len(caught.value.problems) == 2
    assert caught.value.code == "local_engine"
    assert lab.machine.journal() == []


async def test_a_disk_tier_that_is_stored_plain_is_warned_of(lab: Lab) -> None:
    await lab.stack(workers=1).start()
    assert not [line for line in lab.events.lines if "stored plain" in line]
    await lab.stacks[0].stop()
    await lab.stack(workers=1, encrypted=False).start()
    assert len([line for line in lab.events.lines if "stored plain" in line]) == 1


async def test_a_worker_that_dies_comes_back(lab: Lab) -> None:
    stack = lab.stack(workers=1)
    await stack.start()
    first = stack.pid("worker-1")
    assert first is not None
    for trial, backoff in enumerate(("0.05", "0.1", "0.2", "0.2"), 1):
        pid = stack.pid("worker-1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        line = await lab.events.until("worker-1 was ended by SIGKILL", count=trial)
        assert f"again in {backoff} s" in line
        await lab.events.until("worker-1 is back", count=trial)
    assert stack.pid("worker-1") not in (None, first)
    assert stack.pid("lmcache") == lab.machine.pids()[0]


async def test_health_resets_the_backoff(lab: Lab) -> None:
    stack = lab.stack(workers=1, timing=msgspec.structs.replace(QUICK, healthy_after_s=0))
    await stack.start()
    for trial in (1, 2):
        pid = stack.pid("worker-1")
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        assert "worker-1 ended with status 0" in await lab.events.until("again in 0.05 s", count=trial)
        await lab.events.until("worker-1 is back", count=trial)


async def test_lmcache_stays_away_long_enough_to_be_missed(lab: Lab) -> None:
    stack = lab.stack(workers=1)
    await stack.start()
    pid = stack.pid("lmcache")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await lab.events.until("lmcache was ended by SIGKILL")
    assert "again in 0.1 s" in lab.events.lines[-1]
    await lab.events.until("lmcache is back")
    worker = stack.pid("worker-1")
    await stack.restart("lmcache")
    assert stack.pid("worker-1") == worker
    assert [name for name, *_ in lab.machine.journal()].count("lmcache") == 3


async def test_a_restart_that_fails_is_tried_again(lab: Lab) -> None:
    stack = lab.stack(workers=1)
    await stack.start()
    lab.machine.behave(broken=[lab.machine.settings.worker_port])
    pid = stack.pid("worker-1")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "again in 0.1 s" in await lab.events.until("ended with status 3 before it was ready")
    lab.machine.behave()
    await lab.events.until("worker-1 is back")


async def test_restart_of_one(lab: Lab) -> None:
    stack = lab.stack()
    await stack.start()
    before = stack.pid("worker-1"), stack.pid("worker-2")
    await stack.restart("worker-1")
    assert stack.pid("worker-1") not in (None, before[0])
    assert stack.pid("worker-2") == before[1]
    assert not [line for line in lab.events.lines if "again in" in line]
    with pytest.raises(KeyError):
        await stack.restart("worker-9")


async def test_a_failed_start_shows_the_log_and_leaves_nothing(lab: Lab) -> None:
    broken = lab.machine.settings.worker_port + 1
    lab.machine.behave(broken=[broken], families=[broken - 1])
    stack = lab.stack()
    with pytest.raises(LocalEngineError) as caught:
        await stack.start()
    text = str(caught.value)
    assert "worker-2 ended with status 3 before it was ready" in text
    assert text.endswith("first line\nCUDA is not what it was")
    assert str(stack.log_path("worker-2")) in text
    lab.assert_nothing_is_left()
    lab.machine.behave()
    await lab.stack().start()


async def test_a_start_that_takes_too_long(lab: Lab) -> None:
    lab.machine.behave(silent=[lab.machine.settings.lmcache_http_port])
    with pytest.raises(LocalEngineError, match=r"lmcache was not ready within 0\.5 s"):
        await lab.stack(timing=msgspec.structs.replace(QUICK, lmcache_start_s=0.5)).start()
    lab.assert_nothing_is_left()


async def test_a_cancelled_start_leaves_nothing(lab: Lab) -> None:
    lab.machine.behave(silent=[lab.machine.settings.worker_port])
    start = asyncio.create_task(lab.stack().start())
    await lab.events.until("worker-2 is ready")
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    lab.assert_nothing_is_left()


async def test_stop_ends_grandchildren_that_hide(lab: Lab) -> None:
    """They ignore SIGTERM, have a session of their own, and their parent ignores SIGTERM too."""
    port = lab.machine.settings.worker_port
    lab.machine.behave(families=[port, port + 1], stubborn=[port])
    stack = lab.stack(timing=msgspec.structs.replace(QUICK, grace_s=0.3))
    await stack.start()
    assert len(lab.machine.pids()) == 5
    await stack.stop()
    lab.assert_nothing_is_left()


async def test_a_crash_takes_the_grandchildren_along(lab: Lab) -> None:
    lab.machine.behave(families=[lab.machine.settings.worker_port])
    stack = lab.stack(workers=1, timing=msgspec.structs.replace(QUICK, grace_s=0.3))
    await stack.start()
    pid, child = lab.machine.pids()[1:]
    assert stack.pid("worker-1") == pid
    os.kill(pid, signal.SIGKILL)
    await lab.events.until("worker-1 is back")
    assert not alive(child)


async def test_a_data_folder_that_can_not_be_made(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(LocalEngineError, match="can't be written to"):
        await lab.stack().start()


async def test_a_key_that_others_can_read_is_refused(lab: Lab) -> None:
    stack = lab.stack()
    stack.key_path.parent.mkdir(parents=True)
    stack.key_path.write_bytes(bytes(32))
    stack.key_path.chmod(0o640)
    with pytest.raises(LocalEngineError, match="chmod 600"):
        await stack.start()


async def test_a_folder_that_fills_up_does_not_keep_a_worker_away(lab: Lab) -> None:
    """What is running can't be noted any more: a folder stands in the note's place."""
    stack = lab.stack(workers=1)
    await stack.start()
    (lab.data_path / "engine.json").unlink()
    (lab.data_path / "engine.json").mkdir()
    pid = stack.pid("worker-1")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await lab.events.until("can't be noted")
    await lab.events.until("worker-1 is back")
    (lab.data_path / "engine.json").rmdir()


async def test_an_interpreter_that_is_gone_is_said(lab: Lab) -> None:
    """Between the check and the start, which only a test can time."""
    stack = lab.stack(workers=1)
    await stack.start()
    lab.machine.settings.python.rename(lab.machine.folder / "moved")
    with pytest.raises(LocalEngineError, match=r"worker-1 can't be run: FileNotFoundError"):
        await stack.restart("worker-1")


async def test_a_long_log_is_put_aside(lab: Lab) -> None:
    stack = lab.stack(workers=1)
    log = stack.log_path("lmcache")
    log.parent.mkdir(parents=True)
    log.touch()
    os.truncate(log, LOG_LIMIT_BYTES + 1)
    await stack.start()
    assert log.stat().st_size < 10_000
    assert log.with_name("lmcache.log.1").stat().st_size == LOG_LIMIT_BYTES + 1
