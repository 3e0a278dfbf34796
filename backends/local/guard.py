"""Stands between the gateway and one engine process, so that nothing of it outlives either. Stdlib only; run as a script.

usage: guard.py GRACE_S REMAINS -- COMMAND …    REMAINS: a file to remove at the end, or nothing (an empty argument)
stdin: a pipe that closes when the gateway is gone; stdout: one line, the command's pid.
It never restarts anything (`stack.py` does). Its exit status is the command's, or 128 + signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHANS_GRACE_S = 5.0
"""What the command left behind has no work to save, at most shared memory to remove."""


class Family:
    """One command and everything it started. vLLM's engine core is a grandchild that outlives a killed parent."""

    def __init__(self, command: Sequence[str]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        guard = os.getpid()
        # Orphans of the command become children of this process, whatever group they moved to: none can get away.
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        def die_with_the_guard() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)

        # preexec_fn is safe here, and only here: this process has one thread.
        child = subprocess.Popen(  # noqa: S603 - the gateway's own command  # nosec B603
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True, preexec_fn=die_with_the_guard
        )
        self.pid = child.pid
        self.status: int | None = None
        """The command's wait status, once it ended."""

    def reap(self) -> bool:
        """Collect who ended. True while any of the family lives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.status = status

    def signal_command(self, number: int) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        # The group's id can't be in use by others while a member lives, nor can a child's pid before it is reaped.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # not every kernel lists children
            for pid in Path("/proc/thread-self/children").read_text("ascii").split():
                os.kill(int(pid), number)


def end(family: Family, grace_s: float, wait: select.poll) -> None:
    """SIGTERM to the command, then to what it left, then SIGKILL to all: at once when each is gone, `grace_s` at most."""
    deadline = time.monotonic() + grace_s
    family.signal_command(signal.SIGTERM)
    told_all = False
    while family.reap():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            family.signal_all(signal.SIGKILL)
        elif family.status is not None and not told_all:
            family.signal_all(signal.SIGTERM)
            told_all = True
            deadline = min(deadline, time.monotonic() + ORPHANS_GRACE_S)
        drain(wait, max(0.05, min(left_s, 1.0)))


def drain(wait: select.poll, timeout_s: float) -> set[int]:
    """Wait for the gateway's end or a signal; the descriptors that spoke."""
    ready = {descriptor for descriptor, _ in wait.poll(timeout_s * 1000)}
    for descriptor in ready:
        os.read(descriptor, 4096)
    return ready


def main(arguments: Sequence[str]) -> int:
    grace_s, remains, separator, *command = arguments
    if separator != "--" or not command:
        raise SystemExit("usage: guard.py GRACE_S REMAINS -- COMMAND …")
    gateway = os.getppid()
    asked: list[int] = []
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))

    family = Family(command)
    os.write(1, f"{family.pid}\n".encode())
    wait = select.poll()
    wait.register(reader, select.POLLIN)
    wait.register(0, select.POLLIN)
    while family.reap() and family.status is None and not asked:
        # The pipe's other end closes when the gateway is gone, however it died. A child that it forked may hold the
        # pipe open for longer; then its parent is somebody else.
        if 0 in drain(wait, 1.0) or os.getppid() != gateway:
            break
    wait.unregister(0)
    end(family, float(grace_s), wait)
    if remains:
        Path(remains).unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(family.status) if family.status is not None else 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
