"""Engine processes that a killed gateway left behind: who is running is kept in a file, and ended at the next start.

`guard.py` ends them as a rule; this is for the day when it was killed too. It never touches a process that it can't
prove to be ours: the recorded session, the recorded moment, and our own log as its output.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from backends.local.errors import LocalEngineError

FILE = "engine.json"
LOCK = "engine.lock"


class Lock:
    """One engine a data folder. Held until `release`, or until this process ends in whatever way."""

    def __init__(self, data_path: Path) -> None:
        """Raises LocalEngineError if another process holds it."""
        self._file = (data_path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            problem = (
                f"Another kvshelf (process {owner}) runs an engine with {data_path}. Stop it, or give this one another `data_path`."
            )
            raise LocalEngineError([problem]) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def started_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; with the pid it names a process for good. None if it is gone."""
    fields = _stat(pid)
    return fields[1] if fields is not None else None


def record(data_path: Path, running: Mapping[str, int]) -> None:
    """Keep who runs: name → pid, each of them the leader of its session."""
    entries = {name: {"pid": pid, "started": started_ticks(pid)} for name, pid in running.items()}
    partial = data_path / (FILE + ".partial")
    partial.write_text(json.dumps({"boot": _boot(), "processes": entries}), "utf-8")
    partial.replace(data_path / FILE)


def find(data_path: Path, log_of: Callable[[str], Path]) -> dict[int, str]:
    """Living processes of an engine that ran before with this folder: pid → name."""
    try:
        kept = json.loads((data_path / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if kept.get("boot") != _boot():
        return {}
    sessions = {entry["pid"]: (name, entry["started"] or 0) for name, entry in kept["processes"].items()}
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        fields = _stat(int(folder.name))
        if fields is None or fields[0] not in sessions:
            continue
        name, started = sessions[fields[0]]
        if fields[1] >= started and _output(folder) == str(log_of(name).resolve()):
            found[int(folder.name)] = name
    return found


def end(data_path: Path, log_of: Callable[[str], Path], *, grace_s: float = 5.0) -> tuple[str, ...]:
    """End them: SIGTERM, and SIGKILL after `grace_s`. Blocks. Returns the names whose processes were found."""
    names: set[str] = set()
    deadline = time.monotonic() + grace_s
    number = signal.SIGTERM
    told: set[int] = set()
    while left := find(data_path, log_of):
        names.update(left.values())
        if time.monotonic() >= deadline:
            number, told = signal.SIGKILL, set()
        for pid in left.keys() - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            told.add(pid)
        time.sleep(0.05)
    (data_path / FILE).unlink(missing_ok=True)
    return tuple(sorted(names))


def _stat(pid: int) -> tuple[int, int] | None:
    """(session, start in ticks since boot); None if the process is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else (int(fields[3]), int(fields[19]))


def _output(folder: Path) -> str:
    try:
        return str((folder / "fd" / "1").readlink()).removesuffix(" (deleted)")
    except OSError:
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
