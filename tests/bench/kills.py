"""`kill -9` of everything, again and again: whether the disk's budget holds, and whether the pinned documents stay.

The real thing: `kvshelf up` with LMCache and a vLLM worker, five documents in its catalog (one of them pinned) and a
budget for three, questions that read evicted ones again, texts that change. At a random moment gateway, engine and
all their children are killed at once; what lies on the disk is looked at then, and all the time before.

python -m tests.bench kills; KVSHELF_KILLS says how often. A round takes about 45 s.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench import measure
from tests.fakes.gateway import eventually

ROOT = Path(__file__).parents[2]
ROUNDS = 50
CHUNK, TOKEN_BYTES = 256, 46_080
DOCUMENT_CHUNKS = 4
SEAL_BYTES = 29
DOCUMENT_BYTES = DOCUMENT_CHUNKS * (CHUNK * TOKEN_BYTES + SEAL_BYTES)
BUDGET_BYTES = 3 * DOCUMENT_BYTES + 1000
CHARACTERS = 3300
"""Of each document: between 768 and 1,024 tokens with its prefix, so that all take as many chunks."""
NAMES = ("apartment-lease", "service-contract", "security-policy", "product-manual", "expense-policy")
PINNED = NAMES[0]
PORT = 19000
STARTING_S, SERVING_S = 35.0, 40.0

_CONFIG = f"""
data_path: data
model: {{name: smollm2, path: {ROOT}/.kvshelf/models/smollm2, context_tokens: 8192, dtype: float32}}
engine:
  check_interval_s: 0.5
  local: {{python: {ROOT}/.venv-worker/bin/python, disk_path: kv, workers: 1, kv_space_gib: 0.5, ram_gib: 0.75,
    worker_port: 19101, lmcache_port: 19555, lmcache_http_port: 19180, kv_events_port: 19557, kv_server_events_port: 19558}}
disk: {{budget_gib: {BUDGET_BYTES / 2**30:.9f}, min_free_gib: 0.1, low_watermark: 1.0, look_every_s: 5, orphan_after_s: 5}}
server: {{port: {PORT}}}
catalog: catalog.yaml
telemetry: {{log_level: warning}}
"""


class House:
    """The folder, what is seen on its disk, and the processes of one start."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.most_bytes = self.most_half_bytes = 0
        """In the disk tier at any moment, and how much of that was half-written."""
        self.tally: Counter[str] = Counter()
        (folder / "kvshelf.yaml").write_text(_CONFIG)
        pins = "\n".join(f"- {{id: {name}, file: {name}.md{', pinned: true' if name == PINNED else ''}}}" for name in NAMES)
        (folder / "catalog.yaml").write_text(f"documents:\n{pins}\n")
        for name in NAMES:
            text = (ROOT / "configs" / "demo" / "documents" / f"{name}.md").read_text("utf-8")
            (folder / f"{name}.md").write_text(text[:CHARACTERS])

    def change(self, name: str, number: int) -> None:
        """A word of the document becomes another: its whole KV is to be read anew."""
        path = self.folder / f"{name}.md"
        path.write_text(f"# Version {number}\n" + path.read_text("utf-8")[-CHARACTERS + 20 :])

    def start(self) -> subprocess.Popen[bytes]:
        log = (self.folder / "up.log").open("ab")
        command = [str(ROOT / ".venv" / "bin" / "kvshelf"), "up", "kvshelf.yaml", "--key-file", "key"]
        return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def stored_bytes(self) -> int:
        """What lies in the disk tier now, half-written files included."""
        total = half = 0
        with suppress(FileNotFoundError), os.scandir(self.folder / "kv") as entries:
            for entry in entries:
                with suppress(OSError):
                    size_bytes = entry.stat().st_size
                    total += size_bytes
                    half += size_bytes if entry.name.endswith(".tmp") else 0
        if total > self.most_bytes:
            self.most_bytes, self.most_half_bytes = total, half
        return total

    def pinned_is_there(self) -> bool:
        """Whether every chunk of the pinned document's answering version is a file."""
        with sqlite3.connect(f"file:{self.folder / 'data' / 'kvshelf.db'}?mode=ro", uri=True) as database:
            row = database.execute(
                "SELECT v.salt, v.prefix_tokens FROM documents d JOIN versions v ON v.id = d.current_id WHERE d.id = ?", (PINNED,)
            ).fetchone()
        return row is not None and len(list((self.folder / "kv").glob(f"*@{row[0]}.data"))) == row[1] // CHUNK


async def run() -> None:
    rounds = int(os.environ.get("KVSHELF_KILLS", ROUNDS))
    chance = random.Random(20261124)  # noqa: S311 - any sequence will do, as long as it is the same again
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder), chance)
        await _round(house, None)
        began = time.perf_counter()
        for number in range(1, rounds + 1):
            if chance.random() < 0.5:
                house.change(chance.choice([name for name in NAMES if name != PINNED]), number)
            await _round(house, chance.uniform(0.5, STARTING_S + SERVING_S))
        over = house.most_bytes - BUDGET_BYTES
        tally = house.tally
        measure.show(
            f"kill -9 of everything, {rounds} times in {(time.perf_counter() - began) / 60:.0f} min",
            ["", ""],
            [
                ["killed while it was starting, serving", f"{tally['starting']}, {tally['serving']}"],
                ["questions answered, refused or failed in between", f"{tally['answered']}, {tally['failed']}"],
                ["of them cold: the document had been evicted", str(tally["cold"])],
                ["the pinned document was there afterwards", f"{tally['pinned']} of {rounds}"],
                ["most on the disk at any moment (budget, a document), MB", _mb(house.most_bytes, BUDGET_BYTES, DOCUMENT_BYTES)],
                ["of that half-written, MB", _mb(house.most_half_bytes)],
                ["over the budget at any moment, in documents", f"{max(over, 0) / DOCUMENT_BYTES:.2f}"],
            ],
        )
        if over > DOCUMENT_BYTES or tally["pinned"] < rounds:
            raise SystemExit("The budget did not hold, or the pinned document was lost.")


async def _round(house: House, after_s: float | None) -> None:
    """Start all, and kill all after so many seconds; None: once the pinned document is ready and some questions were answered."""
    process = await asyncio.to_thread(house.start)
    began = time.monotonic()
    serving = asyncio.create_task(_serve(house))
    try:
        while after_s is None or time.monotonic() - began < after_s:
            house.stored_bytes()
            if process.poll() is not None:
                raise SystemExit(f"kvshelf up ended by itself: {house.folder / 'up.log'}")
            if after_s is None and house.tally["answered"] >= 10:
                break
            await asyncio.sleep(0.02)
    finally:
        await asyncio.to_thread(_kill_all, process)
        was_serving = serving.cancel() and house.tally["up"]
        await asyncio.gather(serving, return_exceptions=True)
    house.stored_bytes()
    if after_s is not None:
        house.tally["serving" if was_serving else "starting"] += 1
        house.tally["pinned"] += house.pinned_is_there()
    house.tally["up"] = 0


async def _serve(house: House) -> None:
    """Ask one document after another as soon as it answers."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await eventually(lambda: _is_ready(session), within_s=600)
        house.tally["up"] = 1
        headers = {"authorization": f"Bearer {(house.folder / 'key').read_text().strip()}"}
        while True:
            body: dict[str, Any] = {
                "document": house.chance.choice(NAMES),
                "max_tokens": 4,
                "messages": [{"role": "user", "content": "What is this?"}],
            }
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=body, headers=headers) as response:
                    await response.read()
                    house.tally["answered" if response.status == 200 else "failed"] += 1
                    house.tally["cold"] += response.headers.get("x-cache-tier") == "none"
            await asyncio.sleep(0.1)


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{PORT}/health/ready") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and all that came of it, the first one first: nobody may clean up."""
    family = [process.pid, *_descendants(process.pid)]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    for pid in dict.fromkeys([*family, *_descendants(process.pid)]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        child = waiting.pop()
        yield child
        waiting += children.get(child, ())


def _mb(*sizes: int) -> str:
    most, *rest = (f"{size / 1e6:.1f}" for size in sizes)
    return f"{most} ({', '.join(rest)})"
