"""What goes so that another document may be written: properties over any disk, and a few disks by example."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.budget import Disk, Exempt, Kept, NoRoom, Room, make_room
from router.documents import Salt

SIZES = st.integers(0, 50)
WATERMARKS = st.sampled_from([0.5, 0.9, 1.0])
MIB = 2**20


@st.composite
def everything_kept(draw: st.DrawFn) -> list[Kept]:
    """Versions in any order; some as old as others, most not exempt."""
    exempt = st.sampled_from([None, None, *Exempt])
    rows = draw(st.lists(st.tuples(SIZES, st.integers(0, 5), exempt), max_size=12))
    return [Kept(Salt(f"salt-{number}"), size, float(used_at), why) for number, (size, used_at, why) in enumerate(rows)]


@st.composite
def disks(draw: st.DrawFn, kept: Sequence[Kept], watermarks: st.SearchStrategy[float]) -> Disk:
    return Disk(
        used_bytes=sum(one.size_bytes for one in kept),
        free_bytes=draw(st.none() | st.integers(0, 400)),
        budget_bytes=draw(st.none() | st.integers(1, 400)),
        floor_bytes=draw(st.integers(0, 60)),
        low_watermark=draw(watermarks),
        promised_bytes=draw(st.just(0) | SIZES),
    )


@st.composite
def cases(draw: st.DrawFn, *, watermarks: st.SearchStrategy[float] = WATERMARKS) -> tuple[Disk, list[Kept], int]:
    kept = draw(everything_kept())
    return draw(disks(kept, watermarks)), kept, draw(st.integers(0, 120))


def without(disk: Disk, kept: Sequence[Kept], evicted: Sequence[Salt]) -> Disk:
    """The disk once these are gone."""
    gone = sum(one.size_bytes for one in kept if one.salt in evicted)
    return replace(
        disk, used_bytes=disk.used_bytes - gone, free_bytes=disk.free_bytes + gone if disk.free_bytes is not None else None
    )


def fits(disk: Disk, need_bytes: int) -> bool:
    """Said without `room_bytes`: both limits hold once the need and what is promised are written."""
    more = need_bytes + disk.promised_bytes
    within = disk.budget_bytes is None or disk.used_bytes + more <= disk.budget_bytes
    return within and (disk.free_bytes is None or disk.free_bytes - more >= disk.floor_bytes)


def evictable(kept: Sequence[Kept]) -> list[Salt]:
    return [one.salt for one in kept if one.exempt is None]


@given(cases())
def test_only_what_is_not_exempt_goes_and_the_least_recently_used_first(case: tuple[Disk, list[Kept], int]) -> None:
    answer = make_room(*case)
    assume(isinstance(answer, Room))
    assert isinstance(answer, Room)
    _, kept, _ = case
    assert len(set(answer.evict)) == len(answer.evict)
    assert set(answer.evict) <= set(evictable(kept))
    used_at = {one.salt: one.used_at for one in kept}
    order = [used_at[salt] for salt in answer.evict]
    assert order == sorted(order)
    spared = [used_at[salt] for salt in evictable(kept) if salt not in answer.evict]
    assert not order or all(later >= order[-1] for later in spared)


@given(cases())
def test_there_is_room_afterwards_or_there_never_could_be(case: tuple[Disk, list[Kept], int]) -> None:
    disk, kept, need_bytes = case
    answer = make_room(disk, kept, need_bytes)
    if isinstance(answer, Room):
        assert fits(without(disk, kept, answer.evict), need_bytes)
    else:
        assert not fits(without(disk, kept, evictable(kept)), need_bytes)
        assert fits(without(disk, kept, evictable(kept)), answer.room_bytes)
        assert not fits(without(disk, kept, evictable(kept)), answer.room_bytes + 1)


@given(cases())
def test_nothing_goes_where_there_is_room(case: tuple[Disk, list[Kept], int]) -> None:
    disk, kept, need_bytes = case
    assume(fits(disk, need_bytes))
    assert make_room(disk, kept, need_bytes) == Room()


@given(cases(watermarks=st.just(1.0)))
def test_without_a_watermark_the_last_that_goes_had_to(case: tuple[Disk, list[Kept], int]) -> None:
    disk, kept, need_bytes = case
    answer = make_room(disk, kept, need_bytes)
    if isinstance(answer, Room) and answer.evict:
        assert not fits(without(disk, kept, answer.evict[:-1]), need_bytes)


@given(cases())
def test_once_something_goes_it_goes_down_to_the_watermark_and_no_further(case: tuple[Disk, list[Kept], int]) -> None:
    disk, kept, need_bytes = case
    answer = make_room(disk, kept, need_bytes)
    if isinstance(answer, Room) and answer.evict:
        slack = round((disk.budget_bytes or 0) * (1 - disk.low_watermark))
        assert fits(without(disk, kept, answer.evict), need_bytes + slack) or set(answer.evict) == set(evictable(kept))
        assert not fits(without(disk, kept, answer.evict[:-1]), need_bytes + slack)


@given(cases(), st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_the_order_of_what_is_kept(case: tuple[Disk, list[Kept], int], random: object) -> None:
    disk, kept, need_bytes = case
    shuffled = list(kept)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_room(disk, shuffled, need_bytes) == make_room(disk, kept, need_bytes)


def kept(name: str, size_bytes: int, used_at: float, exempt: Exempt | None = None) -> Kept:
    return Kept(Salt(name), size_bytes, used_at, exempt)


def test_nothing_limits_a_disk_without_a_budget_that_nobody_can_see() -> None:
    disk = Disk(used_bytes=10**15, free_bytes=None, floor_bytes=10**15)
    assert disk.room_bytes is None
    assert make_room(disk, [], 10**15) == Room()


def test_what_nobody_can_ask_again_goes_before_all_that_was_asked() -> None:
    rows = [kept("asked", 10, 5.0), kept("orphan", 10, 0.0)]
    assert make_room(Disk(20, None, budget_bytes=20), rows, 5) == Room((Salt("orphan"),))


def test_what_is_over_the_budget_goes_though_nothing_is_needed() -> None:
    rows = [kept("old", 10, 1.0), kept("new", 10, 2.0)]
    assert make_room(Disk(20, None, budget_bytes=15), rows, 0) == Room((Salt("old"),))


def test_the_floor_counts_where_the_budget_would_leave_room() -> None:
    rows = [kept("old", 10, 1.0), kept("new", 10, 2.0)]
    disk = Disk(20, free_bytes=12, budget_bytes=1000, floor_bytes=10)
    assert disk.room_bytes == 2
    assert make_room(disk, rows, 12) == Room((Salt("old"),))


def test_what_others_were_promised_is_nobody_elses() -> None:
    rows = [kept("old", 10, 1.0)]
    disk = Disk(10, free_bytes=100, budget_bytes=30, floor_bytes=0, promised_bytes=15)
    assert make_room(disk, rows, 5) == Room()
    assert make_room(disk, rows, 6) == Room((Salt("old"),))


def test_no_room_says_what_holds_the_space() -> None:
    rows = [
        kept("a", 10 * MIB, 1.0, Exempt.PINNED),
        kept("b", 20 * MIB, 2.0, Exempt.PINNED),
        kept("c", 5 * MIB, 3.0, Exempt.IN_USE),
        kept("d", 3 * MIB, 4.0),
    ]
    answer = make_room(Disk(38 * MIB, None, budget_bytes=40 * MIB), rows, 6 * MIB)
    assert isinstance(answer, NoRoom)
    assert answer == NoRoom(6 * MIB, 5 * MIB, {Exempt.PINNED: 30 * MIB, Exempt.IN_USE: 5 * MIB})
    assert str(answer) == "6 MiB are needed and 5 MiB can be had (30 MiB pinned, 5 MiB in use by questions)"


def test_no_room_says_that_what_is_promised_holds_space_too() -> None:
    rows = [kept("a", 4 * MIB, 1.0, Exempt.WRITING)]
    answer = make_room(Disk(4 * MIB, None, budget_bytes=10 * MIB, promised_bytes=6 * MIB), rows, 2 * MIB)
    assert isinstance(answer, NoRoom)
    assert answer.holders == {Exempt.WRITING: 10 * MIB}


@pytest.mark.parametrize("free_bytes", [0, 5 * MIB])
def test_no_room_where_others_filled_the_disk_names_no_holder(free_bytes: int) -> None:
    answer = make_room(Disk(0, free_bytes, floor_bytes=10 * MIB), [], 2 * MIB)
    assert isinstance(answer, NoRoom)
    assert answer.room_bytes < 0
    assert str(answer) == "2 MiB are needed and 0 MiB can be had"
