"""The engine's commands: the flags without which it misbehaves, and nothing secret in its environment."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from backends.local import commands
from backends.settings import LocalEngine, Model

SETTINGS = LocalEngine(python=Path("/env/bin/python"), disk_path=Path("/data/../data/kv"), workers=2, worker_args=("--seed", "7"))
MODEL = Model(name="small", path=Path("/models/x/../small"), context_tokens=4096, dtype="float32")
ENVIRONMENT = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "KVSHELF_SECRET": "s3cret",
    "OPENAI_API_KEY": "sk-1",
    "LMCACHE_CONFIG_FILE": "/elsewhere",
    "VLLM_API_KEY": "k",
    "PYTHONPATH": "/evil",
    "DATABASE_PASSWORD": "p",
}


def server(settings: LocalEngine = SETTINGS) -> commands.Command:
    return commands.lmcache_server(settings, chunk_tokens=256, key_path=Path("/data/kv.key"), environment=ENVIRONMENT)


def worker(number: int = 1, settings: LocalEngine = SETTINGS, cores: tuple[int, ...] = (0, 1)) -> commands.Command:
    return commands.worker(settings, MODEL, number, cores=cores, environment=ENVIRONMENT)


def value(command: commands.Command, flag: str) -> str:
    assert command.argv.count(flag) == 1, flag
    return command.argv[command.argv.index(flag) + 1]


def test_lmcache_server() -> None:
    command = server()
    assert command.argv[0] == "/env/bin/python"
    assert command.argv[1].endswith("backends/local/kv_server.py")
    assert Path(command.argv[1]).is_file()
    assert command.argv[2] == "server"
    assert value(command, "--host") == value(command, "--http-host") == "127.0.0.1"
    assert value(command, "--supported-transfer-mode") == "auto"
    assert value(command, "--chunk-size") == "256"
    assert value(command, "--eviction-policy") == "LRU"
    assert value(command, "--l2-prefetch-policy") == "retain"
    assert "--no-l1-use-lazy" in command.argv
    disk = json.loads(value(command, "--l2-adapter"))
    assert disk == {
        "type": "fs",
        "base_path": "/data/kv",
        "serde": {"type": "aesgcm-named", "master_key_path": "/data/kv.key"},
    }
    assert command.ready_url == "http://127.0.0.1:8180/healthcheck"
    assert command.first_question is None


def test_lmcache_reports_to_the_gateway_what_its_ram_holds() -> None:
    command = server()
    assert value(command, "--coordinator-url") == "http://127.0.0.1:5558"
    assert value(command, "--coordinator-advertise-ip") == "127.0.0.1"
    assert value(command, "--instance-id") == command.name
    assert "--coordinator-event-reporting" in command.argv
    assert float(value(command, "--coordinator-event-flush-interval")) < 1
    assert float(value(command, "--coordinator-heartbeat-interval")) > 0


def test_a_disk_tier_may_be_stored_plain() -> None:
    disk = json.loads(value(server(msgspec.structs.replace(SETTINGS, encrypted=False)), "--l2-adapter"))
    assert disk == {"type": "fs", "base_path": "/data/kv"}


def test_worker() -> None:
    command = worker(2)
    assert command.name == "worker-2"
    assert command.url == "http://127.0.0.1:8102"
    assert command.argv[:3] == ("/env/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert value(command, "--model") == "/models/small"
    assert value(command, "--served-model-name") == "small"
    assert value(command, "--dtype") == "float32"
    assert value(command, "--host") == "127.0.0.1"
    assert value(command, "--max-model-len") == "4096"
    assert value(command, "--kv-cache-memory-bytes") == str(2 * 1024**3)
    assert "--enable-prompt-tokens-details" in command.argv
    assert command.argv[-2:] == ("--seed", "7")
    events = json.loads(value(command, "--kv-events-config"))
    assert events["endpoint"] == "tcp://127.0.0.1:5557"  # no `*`: the worker connects, the gateway binds
    assert (events["topic"], events["publisher"], events["enable_kv_cache_events"]) == ("worker-2", "zmq", True)
    transfer = json.loads(value(command, "--kv-transfer-config"))
    assert transfer["kv_connector"] == "LMCacheMPConnector"
    assert transfer["kv_load_failure_policy"] == "recompute"
    assert transfer["kv_connector_extra_config"]["lmcache.mp.port"] == 5555
    assert command.first_question == {"model": "small", "prompt": [1], "max_tokens": 1}


def test_a_worker_misses_lmcache_before_a_store_can_time_out() -> None:
    """The heartbeat must tell first, and LMCache must stay away long enough to be missed: otherwise the worker dies."""
    extra = json.loads(value(worker(), "--kv-transfer-config"))["kv_connector_extra_config"]
    assert 2 * extra["lmcache.mp.heartbeat_interval"] < extra["lmcache.mp.mq_timeout"]
    assert 2 * extra["lmcache.mp.heartbeat_interval"] < commands.MISSED_AFTER_S


@pytest.mark.parametrize("command", [server(), worker()], ids=["lmcache", "worker"])
def test_the_environment_holds_nothing_that_is_not_listed(command: commands.Command) -> None:
    allowed = {*commands.INHERITED, *commands.INHERITED_GPU, *commands.OFFLINE, "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"}
    assert set(command.environment) <= allowed
    assert command.environment["PATH"] == "/bin"
    assert command.environment["HF_HUB_OFFLINE"] == "1"
    told = " ".join((*command.argv, *command.environment.values()))
    assert not [secret for secret in ("s3cret", "sk-1", "/evil", "/elsewhere") if secret in told]


def test_the_segment_is_named_after_the_ports() -> None:
    other = msgspec.structs.replace(SETTINGS, lmcache_port=6000)
    assert commands.shared_memory_file(SETTINGS) != commands.shared_memory_file(other)
    assert commands.shared_memory_file(SETTINGS).name.endswith(value(server(), "--shm-name"))


def test_an_absolute_path_keeps_its_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert commands.absolute(tmp_path / "real" / ".." / "link") == str(tmp_path / "link")


def test_ports_are_named_after_their_settings() -> None:
    assert commands.ports(SETTINGS) == {
        "lmcache_port": 5555,
        "lmcache_http_port": 8180,
        "worker_port (worker-1)": 8101,
        "worker_port (worker-2)": 8102,
    }
    assert commands.gateway_ports(SETTINGS) == {"kv_events_port": 5557, "kv_server_events_port": 5558}


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (1, (0, 1), [{}]),
        (2, (0, 1), [{"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"VLLM_CPU_OMP_THREADS_BIND": "1"}]),
        (2, (0, 2, 4, 6, 8), [{"VLLM_CPU_OMP_THREADS_BIND": "0,2"}, {"VLLM_CPU_OMP_THREADS_BIND": "4,6"}]),
        (2, (0, 1, 2, 3, 4, 5), [{"VLLM_CPU_OMP_THREADS_BIND": "0,1"}, {"VLLM_CPU_OMP_THREADS_BIND": "3,4"}]),
        (3, (0, 1), [{"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}] * 3),
    ],
)
def test_workers_share_the_cores(workers: int, cores: tuple[int, ...], expected: list[dict[str, str]]) -> None:
    assert [commands.threads(number, workers, cores) for number in range(1, workers + 1)] == expected
