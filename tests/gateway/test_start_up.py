"""What the gateway refuses to start with: listeners that others reach without having been told, and keys that others can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import config
from gateway.config import Config
from gateway.parts import open_parts
from gateway.strict_yaml import ConfigError
from tests.gateway.test_config import MINIMAL, MODEL, load, problems

BEYOND = ["0.0.0.0", "10.0.0.5", "192.168.1.7", "gateway.internal", "*"]  # noqa: S104
LOOPBACK = ["127.0.0.1", "127.0.0.2", "localhost"]
ENGINES = MINIMAL.removesuffix("\n")


@pytest.mark.parametrize("host", [*BEYOND[:-1], "::", "fd00::1"])
def test_operators_are_served_beyond_loopback_only_where_that_was_told(tmp_path: Path, host: str) -> None:
    [problem] = problems(tmp_path, f"{MINIMAL}admin: {{host: '{host}'}}\n")
    assert problem.startswith(f"`admin`: `host` is {host}")
    assert "`admin.allow_beyond_loopback: true`" in problem
    assert load(tmp_path, f"{MINIMAL}admin: {{host: '{host}', allow_beyond_loopback: true}}\n").admin.host == host


@pytest.mark.parametrize("host", [*LOOPBACK, "::1"])
def test_on_loopback_they_are_served_as_it_is(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, f"{MINIMAL}admin: {{host: '{host}'}}\n").admin.host == host


@pytest.mark.parametrize("host", BEYOND)
@pytest.mark.parametrize(("setting", "address"), [("kv_events", "tcp://{}:5557"), ("kv_server_events", "{}:5558")])
def test_engines_events_are_heard_beyond_loopback_only_where_that_was_told(
    tmp_path: Path, setting: str, address: str, host: str
) -> None:
    told = f"{ENGINES}\n  {setting}: '{address.format(host)}'\n"
    [problem] = problems(tmp_path, told)
    assert problem.startswith(f"`engine`: `{setting}` is {address.format(host)}")
    assert "`engine.allow_beyond_loopback: true`" in problem
    assert load(tmp_path, f"{told}  allow_beyond_loopback: true\n").engine.workers


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize(("setting", "address"), [("kv_events", "tcp://{}:5557"), ("kv_server_events", "{}:5558")])
def test_on_loopback_they_are_heard_as_it_is(tmp_path: Path, setting: str, address: str, host: str) -> None:
    assert load(tmp_path, f"{ENGINES}\n  {setting}: '{address.format(host)}'\n").engine.workers


def test_events_come_over_a_socket_in_a_folder_too(tmp_path: Path) -> None:
    assert load(tmp_path, f"{ENGINES}\n  kv_events: ipc:///run/kvshelf/events\n").engine.kv_events is not None


@pytest.mark.parametrize("flag", ["--host", "--host=0.0.0.0", "--hos", "--ho=::"])
def test_the_local_engine_can_not_be_moved_off_loopback_by_a_flag(tmp_path: Path, flag: str) -> None:
    local = f"engine: {{local: {{python: p, disk_path: kv, worker_args: ['{flag}', '0.0.0.0']}}}}\n"
    [problem] = problems(tmp_path, f"data_path: data\n{MODEL}{local}")
    assert problem.startswith(f"`engine.local`: `worker_args` has {flag}")
    assert "engine.workers" in problem


def test_other_flags_of_the_worker_stay_allowed(tmp_path: Path) -> None:
    local = "engine: {local: {python: p, disk_path: kv, worker_args: ['--seed', '7', '--hf-overrides={}']}}\n"
    assert load(tmp_path, f"data_path: data\n{MODEL}{local}").engine.local is not None


@pytest.fixture
def with_key(tmp_path: Path) -> Config:
    (tmp_path / "kv.key").write_bytes(b"k" * 32)
    servers = "  kv_servers: [{url: 'http://127.0.0.1:8180', disk_path: kv, key_path: kv.key, name: far}]\n"
    return load(tmp_path, f"{ENGINES}\n{servers}")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
async def test_it_does_not_start_with_a_disk_tiers_key_that_others_can_read(with_key: Config, tmp_path: Path, mode: int) -> None:
    (tmp_path / "kv.key").chmod(mode)
    with pytest.raises(ConfigError, match=f"KV server far; mend it with: chmod 600 {tmp_path / 'kv.key'}"):
        async with open_parts(with_key):
            pass


def test_a_key_of_ones_own_is_no_problem_and_neither_is_one_that_is_not_there_yet(with_key: Config, tmp_path: Path) -> None:
    (tmp_path / "kv.key").chmod(0o600)
    assert config.key_file_problems(with_key) == []
    (tmp_path / "kv.key").unlink()
    assert config.key_file_problems(with_key) == []
