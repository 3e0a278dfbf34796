"""A PostgreSQL server for the tests: one that the environment names, else one started here in a folder of its own.

Must leave nothing behind. Used through the fixtures of `conftest.py`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "KVSHELF_TEST_POSTGRESQL"
MISSING = (
    "PostgreSQL is not installed here (no initdb on PATH or in /usr/lib/postgresql/*/bin), so the store's tests ran on SQLite "
    f"only; to use a server elsewhere, set {VARIABLE} to the URL of one where databases may be created."
)


def binaries() -> Path | None:
    """The folder of the newest server's programs, or None."""
    found = [Path(path) for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True)
    return found[0].parent if found else None


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """Start a server on a Unix socket and give the URL of its `postgres` database, without a driver's name."""
    # A short path: a socket's name has room for about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="kvshelf-pg-"))
    # The server refuses to run as root.
    user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")) if os.getuid() == 0 else None
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "kvshelf", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c shared_buffers=16MB"
        run("pg_ctl", "start", "--wait", "-D", data, "-l", str(folder / "log"), "-o", options)
        try:
            yield f"postgresql://kvshelf@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--wait", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)
