"""The exact commands of the local engine: argv and environment of the LMCache server and of each worker. Pure.

Every flag here has a reason, given beside it; `stack.py` runs them and `preflight.py` checks what they need. All of
it binds to loopback, since LMCache's ports have no authentication and vLLM's key guards only some of its routes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from backends.settings import SPARE, LocalEngine, Model

GIB = 1024**3
HOST = "127.0.0.1"
LMCACHE = "lmcache"
KV_SERVER = Path(__file__).with_name("kv_server.py")
"""LMCache's server, with the serde that names chunks in their seals."""
SERDE = "aesgcm-named"
MQ_TIMEOUT_S = 3
"""How long a worker waits for a dead LMCache server, once, before it goes on without it."""
HEARTBEAT_S = 1
"""How often a worker asks whether LMCache lives, and how long it waits for that answer.

Twice this must be less than MQ_TIMEOUT_S: a store that times out before the heartbeat has noticed ends the worker.
"""
EVENTS_FLUSH_S = 0.2
"""How long LMCache gathers its events. What comes last before a silence may still wait for its next tick, 1 s at most."""
MISSED_AFTER_S = 2 * HEARTBEAT_S + 1
"""LMCache must stay away this long at least. A worker that never missed it does not register with the new one, whose
refusal of its next store ends the worker."""

# What a process needs of the gateway's environment. Everything else stays out: LMCache's HTTP port shows its
# environment to whoever asks, and a worker is no place for a secret.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
INHERITED_GPU = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_HOME", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "LMCACHE_TRACK_USAGE": "false",
    "LMCACHE_DISABLE_BANNER": "1",
    "PYTHONSAFEPATH": "1",  # `-m` must not pick up a module from the working folder
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",  # a crash's last words must reach the log
}


class Command(msgspec.Struct, frozen=True):
    """One process of the engine. It is ready when `ready_url` answers 200 and the first question, if any, is answered."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    url: str
    ready_url: str
    first_question: dict[str, object] | None = None
    remains: str = ""
    """A file that it leaves behind when it is killed."""


def absolute(path: Path) -> str:
    """Absolute, without `..`, symbolic links left alone.

    The model's path in this form is the model's name in LMCache: part of every key and file name.
    """
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow the links


def ports(settings: LocalEngine) -> dict[str, int]:
    """Every port that the engine binds, by the setting that chose it."""
    workers = {f"worker_port (worker-{number + 1})": settings.worker_port + number for number in range(settings.workers)}
    return {"lmcache_port": settings.lmcache_port, "lmcache_http_port": settings.lmcache_http_port} | workers


def gateway_ports(settings: LocalEngine) -> dict[str, int]:
    """The ports that the gateway binds for the engine's events, by setting."""
    return {"kv_events_port": settings.kv_events_port, "kv_server_events_port": settings.kv_server_events_port}


def shared_memory_file(settings: LocalEngine) -> Path:
    """The RAM tier's segment. LMCache puts its own prefix before the name it is given."""
    return Path("/dev/shm") / f"lmcache_l1_pool_{_segment(settings)}"  # noqa: S108 - POSIX shared memory lives here  # nosec B108


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine process may see of `environment`."""
    return {name: environment[name] for name in INHERITED + INHERITED_GPU if name in environment} | OFFLINE


def lmcache_server(settings: LocalEngine, *, chunk_tokens: int, key_path: Path, environment: Mapping[str, str]) -> Command:
    """The KV server: RAM tier in shared memory, disk tier encrypted with a key of its own for each salt."""
    disk: dict[str, object] = {
        "type": "fs",  # `fs_native` could evict, but forgets at a restart what is on disk
        "base_path": absolute(settings.disk_path),
    }
    if settings.encrypted:
        disk["serde"] = {"type": SERDE, "master_key_path": absolute(key_path)}
    argv = (
        *(absolute(settings.python), absolute(KV_SERVER), "server"),
        *("--host", HOST, "--port", str(settings.lmcache_port)),
        *("--http-host", HOST, "--http-port", str(settings.lmcache_http_port)),
        *("--chunk-size", str(chunk_tokens)),
        *("--supported-transfer-mode", "auto"),  # with the default, a worker on a CPU never registers
        *("--shm-name", _segment(settings), "--no-l1-use-lazy"),  # without both: pickles over a socket
        *("--l1-size-gb", f"{settings.ram_gib:g}"),
        *("--eviction-policy", "LRU"),
        *("--l2-prefetch-policy", "retain"),  # the default drops what came from disk after one read
        *("--l2-adapter", json.dumps(disk)),
        # Nobody else tells what is in RAM: to LMCache, the gateway is its "coordinator".
        *("--instance-id", LMCACHE),  # by which the gateway knows whose events they are
        *("--coordinator-url", f"http://{HOST}:{settings.kv_server_events_port}"),
        *("--coordinator-advertise-ip", HOST),
        *("--coordinator-heartbeat-interval", f"{HEARTBEAT_S:g}"),
        *("--coordinator-event-reporting", "--coordinator-event-flush-interval", f"{EVENTS_FLUSH_S:g}"),
    )
    url = f"http://{HOST}:{settings.lmcache_http_port}"
    return Command(
        LMCACHE, argv, plain_environment(environment), url, f"{url}/healthcheck", remains=str(shared_memory_file(settings))
    )


def worker(settings: LocalEngine, model: Model, number: int, *, cores: Sequence[int], environment: Mapping[str, str]) -> Command:
    """Worker `number` (from 1). `cores`: the processors that all workers share."""
    port, name = settings.worker_port + number - 1, f"worker-{number}"
    # An endpoint without `*` makes the worker connect, so one socket of the gateway hears all of them.
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://{HOST}:{settings.kv_events_port}",
        "topic": name,  # by which the gateway knows whose events they are
    }
    transfer = {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",  # the default fails the question when a chunk can't be loaded
        "kv_connector_extra_config": {
            "lmcache.mp.host": f"tcp://{HOST}",
            "lmcache.mp.port": settings.lmcache_port,
            "lmcache.mp.mq_timeout": MQ_TIMEOUT_S,
            "lmcache.mp.heartbeat_interval": HEARTBEAT_S,
            # Else what LMCache has is asked for in one step and known in the next, and beside eight other answers a step takes about
            # 60 ms. Where the reply is not there yet, the scheduler waits for it.
            "lmcache.mp.nonblocking_lookup_status": False,
        },
    }
    argv = (
        # The CPU wheel's `vllm` script does not start; the module does in both builds.
        *(absolute(settings.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", absolute(model.path), "--served-model-name", model.name, "--dtype", model.dtype),
        *("--host", HOST, "--port", str(port)),
        *("--max-model-len", str(model.context_tokens), "--max-num-seqs", str(settings.max_sequences + SPARE)),
        *("--kv-cache-memory-bytes", str(int(settings.kv_space_gib * GIB))),  # the CPU's own variable takes whole GiB only
        "--enforce-eager",
        "--enable-prompt-tokens-details",  # or usage says nothing of cached tokens
        "--disable-uvicorn-access-log",  # a line for every health check
        *("--kv-events-config", json.dumps(events)),
        *("--kv-transfer-config", json.dumps(transfer)),
        *settings.worker_args,
    )
    url = f"http://{HOST}:{port}"
    variables = plain_environment(environment) | threads(number, settings.workers, cores)
    # A worker watches LMCache from its first question on. One that was never asked would not notice a restart of it.
    first_question: dict[str, object] = {"model": model.name, "prompt": [1], "max_tokens": 1}
    return Command(f"worker-{number}", argv, variables, url, f"{url}/health", first_question)


def threads(number: int, workers: int, cores: Sequence[int]) -> dict[str, str]:
    """Which cores a worker computes on. One worker chooses by itself; several would all choose the same cores."""
    if workers == 1:
        return {}
    share = len(cores) // workers
    if share == 0:
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    mine = cores[(number - 1) * share : number * share]
    if share > 2:
        mine = mine[:-1]  # the scheduler and the HTTP server want one of their own
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))}


def _segment(settings: LocalEngine) -> str:
    # Ports are taken by one engine at a time, so a name made of them is too.
    return f"kvshelf_{settings.lmcache_port}_{settings.lmcache_http_port}"
