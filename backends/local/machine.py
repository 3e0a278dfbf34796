"""Facts about this machine that a plan needs: processor cores, memory, the worker environment's packages. Only reads.

Decisions drawn from them are in `commands.py` and `preflight.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

GIB = 1024**3

# vLLM's distribution has another name on a CPU, so the question is asked by import name.
PACKAGES_QUESTION = """
import importlib.metadata as metadata, json
owners = metadata.packages_distributions()
found = {name: (owners[name][0], metadata.version(owners[name][0])) for name in ("vllm", "lmcache") if name in owners}
print(json.dumps(found))
"""


def cores() -> tuple[int, ...]:
    """One logical processor of each physical core that this process may use."""
    firsts: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text("ascii").strip()
        except OSError:
            siblings = str(cpu)
        firsts.setdefault(siblings, cpu)
    return tuple(firsts.values())


def available_memory_bytes() -> int | None:
    """What processes can still take: the machine's figure, or its container's where that is less. None if unknown."""
    figures = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        figures.append(int(lines["MemAvailable"].split()[0]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        if limit != "max":
            figures.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text("ascii")))
    except OSError:
        pass
    return min(figures, default=None)


def computes_bfloat16_slowly() -> bool:
    """Whether this processor lacks the instructions that make bfloat16 faster than float32. False if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), None)
    return flags is not None and "avx512bw" not in flags


def worker_packages(python: Path, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """vllm and lmcache in the worker environment → (distribution, version), absent if not installed. Imports neither.

    Raises OSError where `python` can't be run, ValueError where it is no Python that answers.
    """
    answer = subprocess.run(  # noqa: S603 - the configured interpreter  # nosec B603
        [str(python), "-I", "-c", PACKAGES_QUESTION], env=dict(environment), capture_output=True, timeout=60, check=False
    )
    if answer.returncode:
        raise ValueError(answer.stderr.decode(errors="replace").strip()[-500:] or f"it ended with {answer.returncode}")
    return {str(name): (str(distribution), str(version)) for name, (distribution, version) in json.loads(answer.stdout).items()}
