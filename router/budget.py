"""The disk tier's budget: which documents' KV goes so that another's may be written. Whole documents, least recently used first.

A decision over a snapshot; `gateway/tiers/disk_keeper.py` takes the snapshot and acts. What is exempt (pinned, in use, being
written) is never chosen; where that leaves too little, the answer says what holds the space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from router.documents import Salt


class Exempt(StrEnum):
    """Why a version's KV must stay."""

    PINNED = "pinned"
    IN_USE = "in use by questions"
    WRITING = "being read"


class Kept(msgspec.Struct, frozen=True):
    """One version's KV on the disk. `used_at`: seconds since the epoch, 0 for what nobody will ask again."""

    salt: Salt
    size_bytes: int
    used_at: float
    exempt: Exempt | None = None


class Disk(msgspec.Struct, frozen=True):
    """A disk tier, in bytes. `promised_bytes`: what is admitted but not written yet."""

    used_bytes: int
    free_bytes: int | None
    """What the file system has left; None where that can't be seen."""
    budget_bytes: int | None = None
    floor_bytes: int = 0
    """Free space that is left to others."""
    low_watermark: float = 1.0
    """Once something has to go, so much goes that this share of the budget is used: the next documents find room."""
    promised_bytes: int = 0

    @property
    def room_bytes(self) -> int | None:
        """What may still be written; negative where there is too much already, None where nothing limits it."""
        by_budget = None if self.budget_bytes is None else self.budget_bytes - self.used_bytes - self.promised_bytes
        by_floor = None if self.free_bytes is None else self.free_bytes - self.floor_bytes - self.promised_bytes
        return min((room for room in (by_budget, by_floor) if room is not None), default=None)


class Room(msgspec.Struct, frozen=True):
    """There is room once these are evicted, in this order."""

    evict: tuple[Salt, ...] = ()


class NoRoom(msgspec.Struct, frozen=True):
    """There is none, whatever is evicted. `holders`: bytes by why they must stay."""

    need_bytes: int
    room_bytes: int
    """What could be had at most."""
    holders: dict[Exempt, int]

    def __str__(self) -> str:
        held = ", ".join(f"{size_bytes / 2**20:,.0f} MiB {why}" for why, size_bytes in self.holders.items())
        return f"{self.need_bytes / 2**20:,.0f} MiB are needed and {max(self.room_bytes, 0) / 2**20:,.0f} MiB can be had" + (
            f" ({held})" if held else ""
        )


def make_room(disk: Disk, kept: Iterable[Kept], need_bytes: int) -> Room | NoRoom:
    """What to evict so that `need_bytes` more may be written; nothing if there is room already."""
    room = disk.room_bytes
    if room is None or room >= need_bytes:
        return Room()
    everything = sorted(kept, key=lambda one: (one.used_at, one.salt))
    could_go = [one for one in everything if one.exempt is None]
    at_most = room + sum(one.size_bytes for one in could_go)
    if at_most < need_bytes:
        return NoRoom(need_bytes, at_most, _holders(everything, disk.promised_bytes))
    slack = 0 if disk.budget_bytes is None else round(disk.budget_bytes * (1 - disk.low_watermark))
    evict = []
    for one in could_go:
        if room >= need_bytes + slack:
            break
        evict.append(one.salt)
        room += one.size_bytes
    return Room(tuple(evict))


def _holders(kept: Sequence[Kept], promised_bytes: int) -> dict[Exempt, int]:
    holders = {Exempt.WRITING: promised_bytes} if promised_bytes else {}
    for one in kept:
        if one.exempt is not None:
            holders[one.exempt] = holders.get(one.exempt, 0) + one.size_bytes
    return holders
