"""The engine on this machine as one thing: started in order, watched, restarted when a process dies, ended without remains.

It never talks to the engine beyond asking whether it is up (a worker: one token). The commands are `commands.py`'s, one process is
`process.py`, what is checked first `preflight.py`, what an earlier run left `leftovers.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec

from backends.lmcache.disk import DiskFiles
from backends.local import commands, leftovers, machine, preflight
from backends.local.commands import LMCACHE, Command
from backends.local.errors import LocalEngineError
from backends.local.process import EngineProcess
from backends.settings import LocalEngine, Model

KEY_BYTES = 32


class Timing(msgspec.Struct, frozen=True):
    """How patient the stack is, in seconds."""

    poll_s: float = 0.25
    lmcache_start_s: float = 120
    worker_start_s: float = 900
    """A large model is read from a slow disk in this time, too."""
    first_backoff_s: float = 1
    longest_backoff_s: float = 30
    healthy_after_s: float = 60
    """A process that ran this long starts again with the first backoff."""
    grace_s: float = 15
    missed_after_s: float = commands.MISSED_AFTER_S


PATIENT = Timing()


class LocalStack:
    """One LMCache server and some workers. `start` once, `stop` once or more; not for use from several threads."""

    def __init__(
        self,
        settings: LocalEngine,
        model: Model,
        *,
        chunk_tokens: int,
        data_path: Path,
        on_event: Callable[[str], None] = lambda _: None,
        environment: Mapping[str, str] = os.environ,
        timing: Timing = PATIENT,
        check: Callable[..., preflight.Report] = preflight.check,
    ) -> None:
        """`on_event` gets a line for each thing an operator wants to know. Nothing is started yet."""
        self._settings = settings
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._data_path = Path(commands.absolute(data_path))
        self._on_event = on_event
        self._environment = environment
        self._timing = timing
        self._preflight = check
        self._running: dict[str, EngineProcess] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._commands = self._plan()
        self._versions: dict[str, str] | None = None
        self._lock: leftovers.Lock | None = None
        self._session: aiohttp.ClientSession | None = None
        self.disk_path = Path(commands.absolute(settings.disk_path))

    def __repr__(self) -> str:
        states = (f"{name}: {self._running[name].pid if name in self._running else 'not running'}" for name in self._commands)
        return f"<LocalStack {', '.join(states)}>"

    @property
    def key_path(self) -> Path:
        """The disk tier's master key. Whoever loses it loses what the disk tier holds, and nothing else."""
        return self._data_path / "kv.key"

    @property
    def workers(self) -> tuple[tuple[str, str], ...]:
        """(name, URL) of each worker."""
        return tuple((command.name, command.url) for command in self._commands.values() if command.name != LMCACHE)

    @property
    def lmcache_url(self) -> str:
        return self._commands[LMCACHE].url

    def log_path(self, name: str) -> Path:
        return self._data_path / "logs" / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The process's own pid (not its guard's), or None while it does not run."""
        process = self._running.get(name)
        return process.pid if process is not None else None

    def versions(self) -> dict[str, str]:
        """Of "vllm" and "lmcache", as installed in the worker environment. Before `start` it blocks for about 0.1 s."""
        if self._versions is None:
            self._versions = self.check().versions
        return dict(self._versions)

    async def start(self) -> None:
        """Check everything, then start LMCache, then all workers at once; return when each answers.

        Raises LocalEngineError with every problem found, after ending what had been started.
        """
        if self._lock is not None:
            raise RuntimeError("LocalStack.start was called twice")
        began = time.monotonic()
        self._prepare_folders()
        self._lock = leftovers.Lock(self._data_path)
        try:
            found = await asyncio.to_thread(leftovers.end, self._data_path, self.log_path, grace_s=self._timing.grace_s)
            if found:
                self._on_event(f"ended what an earlier run had left behind: {', '.join(found)}")
            self._versions = self._accept(await asyncio.to_thread(self.check))
            self._session = aiohttp.ClientSession()
            commands.shared_memory_file(self._settings).unlink(missing_ok=True)
            await self._launch(LMCACHE)
            await self._launch_workers()
        except BaseException:
            await self.stop()
            raise
        self._on_event(f"the engine is ready after {time.monotonic() - began:.1f} s: {', '.join(self._commands)}")

    async def stop(self) -> None:
        """End the workers, then LMCache, with all their children; remove the RAM tier. May be called at any time, and again."""
        watchers = list(self._watchers.values())
        self._watchers.clear()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await asyncio.gather(*(self._end(name) for name in list(self._running) if name != LMCACHE))
        await self._end(LMCACHE)
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._lock is not None:
            await asyncio.to_thread(leftovers.end, self._data_path, self.log_path, grace_s=self._timing.grace_s)
            commands.shared_memory_file(self._settings).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    async def restart(self, name: str) -> None:
        """End one process and start it again; return when it answers. Raises KeyError, LocalEngineError."""
        if name not in self._commands:
            raise KeyError(name)
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        await self._end(name)
        if name == LMCACHE:
            await asyncio.sleep(self._timing.missed_after_s)
        await self._launch(name)

    # --- inside --------------------------------------------------------------------------------------------------------

    def _plan(self) -> dict[str, Command]:
        settings, environment = self._settings, self._environment
        server = commands.lmcache_server(settings, chunk_tokens=self._chunk_tokens, key_path=self.key_path, environment=environment)
        cores = machine.cores()
        workers = [
            commands.worker(settings, self._model, number, cores=cores, environment=environment)
            for number in range(1, settings.workers + 1)
        ]
        return {command.name: command for command in (server, *workers)}

    def check(self) -> preflight.Report:
        """Look at everything that can be seen before anything starts. Blocks for about 0.1 s."""
        return self._preflight(self._settings, self._model, chunk_tokens=self._chunk_tokens, environment=self._environment)

    def _accept(self, report: preflight.Report) -> dict[str, str]:
        if report.problems:
            raise LocalEngineError(report.problems)
        for remark in report.remarks:
            self._on_event(remark)
        if not self._settings.encrypted:
            self._on_event(
                "`engine.local.encrypted` is false: the disk tier is stored plain, and a damaged file gives wrong answers"
            )
        return report.versions

    def _prepare_folders(self) -> None:
        try:
            self._data_path.mkdir(parents=True, exist_ok=True)
            self.log_path(LMCACHE).parent.mkdir(exist_ok=True)
            _make_key(self.key_path)
        except OSError as error:
            problem = f"`data_path` is {self._data_path}, which can't be written to ({error.strerror}). Change its owner (chown)."
            raise LocalEngineError([problem]) from error
        if stat.S_IMODE(self.key_path.stat().st_mode) & 0o077:
            problem = f"{self.key_path}: others can read the disk tier's key. Mend it with: chmod 600 {self.key_path}"
            raise LocalEngineError([problem])

    def _prepare_disk(self) -> None:
        """What a killed server left half-written is in no budget, and the next one would write beside it."""
        self.disk_path.mkdir(parents=True, exist_ok=True)
        if removed := DiskFiles(self.disk_path, commands.absolute(self._model.path)).remove_all_partial():
            self._on_event(f"removed {removed} half-written chunks from {self.disk_path}")

    async def _launch(self, name: str) -> None:
        """Start one process, wait until it answers, and watch it from then on. On failure it is ended again."""
        began = time.monotonic()
        await self._run(name)
        self._on_event(f"{name} is ready after {time.monotonic() - began:.1f} s")
        self._watchers[name] = asyncio.create_task(self._watch(name), name=f"watch {name}")

    async def _launch_workers(self) -> None:
        tasks = [asyncio.create_task(self._launch(name)) for name, _ in self.workers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str) -> None:
        command, timing, session = self._commands[name], self._timing, self._session
        if session is None:
            raise RuntimeError("LocalStack is not started")
        if name == LMCACHE:
            await asyncio.to_thread(self._prepare_disk)
        self._on_event(f"starting {name}")
        process = await EngineProcess.start(command, self.log_path(name), self._data_path, grace_s=timing.grace_s)
        self._running[name] = process
        try:
            self._record()
            timeout_s = timing.lmcache_start_s if name == LMCACHE else timing.worker_start_s
            await process.until_ready(session, timeout_s=timeout_s, poll_s=timing.poll_s)
        except BaseException:
            await self._end(name)
            raise

    async def _watch(self, name: str) -> None:
        """Bring the process back whenever it ends, the more patiently the more often it does."""
        timing = self._timing
        first_s = max(timing.first_backoff_s, timing.missed_after_s) if name == LMCACHE else timing.first_backoff_s
        backoff_s = first_s
        while True:
            healthy_since = time.monotonic()
            how = await self._running[name].wait()
            del self._running[name]
            self._record()
            if time.monotonic() - healthy_since >= timing.healthy_after_s:
                backoff_s = first_s
            what = f"{name} {how}; its log: {self.log_path(name)}"
            while True:
                self._on_event(f"{what}. Starting it again in {backoff_s:g} s")
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, timing.longest_backoff_s)
                began = time.monotonic()
                try:
                    await self._run(name)
                except (LocalEngineError, OSError) as error:
                    what = str(error)
                else:
                    self._on_event(f"{name} is back after {time.monotonic() - began:.1f} s")
                    break

    async def _end(self, name: str) -> None:
        process = self._running.get(name)
        if process is None:
            return
        await process.stop()
        if self._running.get(name) is process:
            del self._running[name]
            self._record()

    def _record(self) -> None:
        try:
            leftovers.record(self._data_path, {name: process.pid for name, process in self._running.items()})
        except OSError as error:  # a full disk must not keep a process from being brought back
            self._on_event(f"what is running can't be noted in {self._data_path} ({error.strerror})")


def _make_key(path: Path) -> None:
    """32 random bytes that only their owner may read, whole or not at all. An existing file is left as it is."""
    if path.exists():
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
