"""Reading in segments: always forward, whole chunks, and short enough for whoever waits."""

from __future__ import annotations

import itertools
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from router.pacing import IDLE_FACTOR, Pace, next_segment

CHUNKS = st.sampled_from([16, 128, 256])
TARGETS = st.floats(0.05, 5)


class SimulatedWorker(msgspec.Struct):
    """Reads slower the more it has read, as attention does: at `doubling` tokens a token costs twice as long."""

    tokens_per_s: float
    doubling: float

    def cost_s(self, position: float) -> float:
        return (1 + position / self.doubling) / self.tokens_per_s

    def read_s(self, start: int, end: int) -> float:
        return (end - start) * self.cost_s((start + end) / 2)


class Segment(msgspec.Struct):
    start: int
    end: int
    seconds: float


def read(worker: SimulatedWorker, total: int, *, chunk: int, target_s: float, waiting: bool = True) -> list[Segment]:
    """A whole reading, as the ingestion does it."""
    pace, segments, at = Pace(), [], 0
    while at < total:
        end = next_segment(at, total, chunk=chunk, pace=pace, target_s=target_s, waiting=waiting)
        seconds = worker.read_s(at, end)
        segments.append(Segment(at, end, seconds))
        pace, at = pace.after(end - at, seconds), end
    return segments


PACES = st.builds(Pace, st.none() | st.floats(0, 1e6))
WORKERS = st.builds(SimulatedWorker, tokens_per_s=st.floats(100, 50_000), doubling=st.floats(500, 100_000))


@settings(max_examples=200)
@given(
    chunk=CHUNKS,
    chunks=st.integers(1, 400),
    done=st.floats(0, 0.999),
    pace=PACES,
    target_s=TARGETS,
    waiting=st.booleans(),
)
def test_a_segment_advances_by_whole_chunks_and_never_beyond_the_end(
    chunk: int, chunks: int, done: float, pace: Pace, target_s: float, *, waiting: bool
) -> None:
    start, total = int(done * chunks) * chunk, chunks * chunk
    end = next_segment(start, total, chunk=chunk, pace=pace, target_s=target_s, waiting=waiting)
    assert start < end <= total
    assert end % chunk == 0


@settings(max_examples=50)
@given(worker=WORKERS, chunk=CHUNKS, chunks=st.integers(1, 200), target_s=TARGETS, waiting=st.booleans())
def test_a_reading_ends_exactly_at_the_total(
    worker: SimulatedWorker, chunk: int, chunks: int, target_s: float, *, waiting: bool
) -> None:
    segments = read(worker, chunks * chunk, chunk=chunk, target_s=target_s, waiting=waiting)
    assert segments[-1].end == chunks * chunk
    assert [s.start for s in segments] == [0, *(s.end for s in segments[:-1])]


@settings(max_examples=100)
@given(worker=WORKERS, chunk=CHUNKS, target_s=TARGETS, waiting=st.booleans())
def test_a_segment_overruns_the_target_only_by_what_the_worker_slowed_down(
    worker: SimulatedWorker, chunk: int, target_s: float, *, waiting: bool
) -> None:
    """A single chunk is the least there is, however slow the worker."""
    segments = read(worker, 64 * chunk, chunk=chunk, target_s=target_s, waiting=waiting)
    budget_s = target_s * (1 if waiting else IDLE_FACTOR)
    for before, segment in itertools.pairwise(segments):
        slowdown = worker.cost_s(segment.end) / worker.cost_s(before.start)
        assert segment.end - segment.start == chunk or segment.seconds <= budget_s * slowdown


def test_the_target_is_kept_at_the_speed_that_was_measured_on_a_cpu() -> None:
    """About 900 tokens a second at first, half of that after 6,000: what a small model on two cores does."""
    segments = read(SimulatedWorker(tokens_per_s=900, doubling=6000), 7168, chunk=256, target_s=0.5)
    assert max(segment.seconds for segment in segments) < 0.5 * 1.25
    assert len(segments) <= 7168 / 256


def test_with_nobody_waiting_segments_are_longer() -> None:
    pace = Pace(1000.0)
    alone = next_segment(0, 10_000, chunk=100, pace=pace, target_s=1.0, waiting=False)
    shared = next_segment(0, 10_000, chunk=100, pace=pace, target_s=1.0, waiting=True)
    assert (shared, alone) == (1000, 2000)


def test_the_first_segment_is_one_chunk_since_nothing_is_known_yet() -> None:
    assert next_segment(0, 1024, chunk=256, pace=Pace(), target_s=60, waiting=False) == 256


def test_the_pace_is_that_of_the_last_segment() -> None:
    assert Pace(1.0).after(512, 0.5) == Pace(1024.0)


def test_a_segment_that_took_no_time_gives_a_finite_pace() -> None:
    assert math.isfinite(Pace().after(256, 0.0).tokens_per_s or math.inf)
