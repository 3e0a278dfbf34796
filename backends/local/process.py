"""One guarded process of the engine: started into its log, waited for until it answers, ended with all its children.

Knows nothing of restarts or of the other processes (`stack.py` does). `guard.py` is what really runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import aiohttp

from backends.local.commands import Command
from backends.local.errors import LocalEngineError

GUARD = Path(__file__).with_name("guard.py")
LOG_LIMIT_BYTES = 20 * 1024**2
SHOWN_LINES = 20
MARK = "=== "


class EngineProcess:
    """A command that runs under its guard. Made by `start`; ends once."""

    def __init__(self, command: Command, log: Path, guard: asyncio.subprocess.Process, pid: int, grace_s: float) -> None:
        self.command = command
        self.log = log
        self.pid = pid
        """The command's own, which also is its session's; not the guard's."""
        self._guard = guard
        self._grace_s = grace_s

    @classmethod
    async def start(cls, command: Command, log: Path, folder: Path, *, grace_s: float) -> EngineProcess:
        """Run `command` in `folder`, its output appended to `log`. Raises LocalEngineError."""
        with _open_log(log, f"{command.name}: {' '.join(command.argv)}") as output:
            guard = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(GUARD), f"{grace_s:g}", command.remains, "--", *command.argv),
                env=command.environment,
                cwd=folder,
                stdin=asyncio.subprocess.PIPE,  # never written to: it closes when this process ends, and the guard sees that
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal reaches the gateway alone, which then ends these in order
            )
        try:
            line = await guard.stdout.readline() if guard.stdout is not None else b""
        except BaseException:  # cancelled: nobody would know of it
            guard.terminate()
            await guard.wait()
            raise
        if not line:
            await guard.wait()
            raise LocalEngineError([f"{command.name} can't be run: {_last_lines(log, 1)}"])
        return cls(command, log, guard, int(line), grace_s)

    async def wait(self) -> str:
        """How it ended, in words, once it and all it had started are gone."""
        return _how(await self._guard.wait())

    async def until_ready(self, session: aiohttp.ClientSession, *, timeout_s: float, poll_s: float) -> None:
        """Return once it answers. Raises LocalEngineError with the log's last lines if it ends or takes too long."""
        ended = asyncio.ensure_future(self._guard.wait())
        began = time.monotonic()
        try:
            while time.monotonic() - began < timeout_s:
                if await self.answers(session) and await self._answers_first_question(session):
                    return
                await asyncio.wait({ended}, timeout=poll_s)
                if ended.done():
                    raise LocalEngineError([f"{self.command.name} {_how(ended.result())} before it was ready. {self._log_words()}"])
        finally:
            ended.cancel()
        raise LocalEngineError([f"{self.command.name} was not ready within {timeout_s:g} s. {self._log_words()}"])

    async def answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(self.command.ready_url, timeout=aiohttp.ClientTimeout(total=2)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _answers_first_question(self, session: aiohttp.ClientSession) -> bool:
        command = self.command
        if command.first_question is None:
            return True
        try:
            # It may compile before it answers, so it has a while.
            patience = aiohttp.ClientTimeout(total=120)
            async with session.post(f"{command.url}/v1/completions", json=command.first_question, timeout=patience) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """End it and everything it started; return when all are gone. A second call waits for the first."""
        with contextlib.suppress(ProcessLookupError):
            self._guard.terminate()
        try:
            await asyncio.wait_for(self._guard.wait(), self._grace_s + 5)
        except TimeoutError:  # a guard that hangs; what it leaves behind is ended through `leftovers`
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
            await self._guard.wait()

    def _log_words(self) -> str:
        return f"The end of {self.log}:\n{_last_lines(self.log, SHOWN_LINES)}"


def _open_log(log: Path, title: str) -> BinaryIO:
    """The log to append to, with its start marked. One that grew too long is put aside first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    output = log.open("ab")
    output.write(f"\n{MARK}{datetime.now(UTC).isoformat(timespec='seconds')} {title}\n".encode())
    output.flush()
    return output


def _how(code: int) -> str:
    if code < 0:
        return "lost its guard"
    if code > 128:
        with contextlib.suppress(ValueError):
            name = signal.Signals(code - 128).name
            return f"was ended by {name}" + (" (out of memory, or somebody's kill)" if name == "SIGKILL" else "")
    return f"ended with status {code}"


def _last_lines(log: Path, count: int) -> str:
    """The last lines since the last start."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        lines = file.read().decode(errors="replace").splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith(MARK):
            lines = lines[number + 1 :]
            break
    return "\n".join(lines[-count:])
