"""Damage done to stored chunks, one trial at a time: what the next question then answers, and whether all is mended.

A trial leaves the documents as it found them: whole on disk, in RAM and on the worker's GPU tier.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.lmcache.disk import DiskFiles
from backends.lmcache.keys import file_name
from router.documents import Version
from tests.engine import counters
from tests.engine.conftest import MODEL, RealGateway
from tests.fakes.gateway import eventually

QUESTION = "What is kept in the first box?"
MENDED_WITHIN_S = 30.0
LOGPROBS_WITHIN = 1e-2
DAMAGED, REPAIRS = "kvshelf_damaged_chunks_total", "kvshelf_repairs_total"

Harm = Callable[[Path, random.Random], None]


@dataclass(frozen=True)
class Trial:
    kind: str
    right: bool
    """The answer is the one from before."""
    harmed: int
    counted: int
    """Chunks that were damaged, and those that the gateway counted as damaged."""
    mended: bool
    """The files are written anew and whole, and the next question restores all of them from disk, with the same answer."""
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Subject:
    """A document that can be damaged, with its undamaged answer."""

    id: str
    version: Version
    paths: tuple[Path, ...]
    answer: dict[str, Any]


async def subject(gateway: RealGateway, document_id: str, text: str) -> Subject:
    await gateway.read(document_id, text)
    version = await counters.version_of(gateway, document_id)
    folder = gateway.config.data_path / "kv"
    paths = tuple(folder / file_name(str(MODEL), key, version.salt) for key in gateway.ledger.keys(version.salt))
    return Subject(document_id, version, paths, await _ask(gateway, document_id))


def _truncate(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.choice((0, 1, len(content) // 2, len(content) - 1))])


def _zero(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = chance.choice((0, 29, len(content) // 2))
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _delete(path: Path, _: random.Random) -> None:
    path.unlink()


HARMS: dict[str, Harm] = {"truncated": _truncate, "zeroed": _zero, "a bit flipped": _flip, "deleted": _delete}
SWAPS = {"swapped with another of its document": False, "swapped with one of another document": True}
KINDS = (*HARMS, *SWAPS)


async def trial(gateway: RealGateway, kind: str, subjects: Sequence[Subject], chance: random.Random) -> Trial:
    """Damage one document (or two), ask each, and wait until all is mended."""
    started = time.perf_counter()
    counted = counters.counted(gateway, DAMAGED)
    repaired = counters.counted(gateway, REPAIRS)
    harmed = chance.sample(list(subjects), 2 if SWAPS.get(kind) else 1)
    for one in harmed:
        await gateway.move(one.id, "evict", tier="ram")
    await _reset(gateway)
    paths = _harm(kind, harmed, chance)
    before = {path: path.stat().st_mtime_ns if path.exists() else 0 for path in paths}
    answers = [await _ask(gateway, one.id) for one in harmed]
    right = all(_alike(one.answer, answer) for one, answer in zip(harmed, answers, strict=True))
    why = ""
    repairs = 0 if kind == "deleted" else len(harmed)

    def mended() -> bool:
        return counters.counted(gateway, REPAIRS) - repaired >= repairs and _whole(gateway, harmed, before)

    try:
        await eventually(mended, within_s=MENDED_WITHIN_S)
    except TimeoutError:
        why = "not written anew"
    if not why:
        why = await _restored(gateway, harmed)
    found = counters.counted(gateway, DAMAGED) - counted
    return Trial(kind, right, len(paths), found, not why, time.perf_counter() - started, why)


def _harm(kind: str, subjects: Sequence[Subject], chance: random.Random) -> list[Path]:
    """The files that are not what they were any more."""
    if kind in HARMS:
        path = chance.choice(subjects[0].paths)
        HARMS[kind](path, chance)
        return [path]
    pair = [chance.choice(one.paths) for one in subjects] if SWAPS[kind] else chance.sample(subjects[0].paths, 2)
    contents = [path.read_bytes() for path in pair]
    for path, content in zip(pair, reversed(contents), strict=True):
        path.write_bytes(content)
    return pair


def _whole(gateway: RealGateway, subjects: Sequence[Subject], before: dict[Path, int]) -> bool:
    """The damaged files (with their times) are others now, and all files are what was stored under their names."""
    if not all(path.exists() for one in subjects for path in one.paths):
        return False
    if any(path.stat().st_mtime_ns == written_at for path, written_at in before.items()):
        return False
    files = DiskFiles(gateway.config.data_path / "kv", str(MODEL), key_path=gateway.stack.key_path, named=True)
    return not any(files.verify(gateway.ledger.keys(one.version.salt), one.version.salt).damaged for one in subjects)


async def _restored(gateway: RealGateway, subjects: Sequence[Subject]) -> str:
    """What is wrong with answers that come from the mended files."""
    for one in subjects:
        await gateway.move(one.id, "evict", tier="ram")
    await _reset(gateway)
    for one in subjects:
        answer = await _ask(gateway, one.id)
        if answer["cached_tokens"] != one.version.prefix_tokens:
            return f"then {answer['cached_tokens']} of {one.version.prefix_tokens} tokens cached"
        if not _alike(one.answer, answer):
            return "then answered otherwise"
    return ""


async def _ask(gateway: RealGateway, document_id: str) -> dict[str, Any]:
    return await gateway.ask(QUESTION, document=document_id, logprobs=True, max_tokens=6)


async def _reset(gateway: RealGateway) -> None:
    for name, _ in gateway.stack.workers:
        await gateway.reset_gpu(name)


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if [token["token"] for token in one["logprobs"]] != [token["token"] for token in other["logprobs"]]:
        return False
    return all(
        abs(here["logprob"] - there["logprob"]) < LOGPROBS_WITHIN
        for here, there in zip(one["logprobs"], other["logprobs"], strict=True)
    )
