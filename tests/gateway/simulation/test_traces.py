"""The made-up traces: the same from the same seed, in the order of time, and each with the habit that it is there for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gateway.simulation import traces
from gateway.simulation.traces import HOUR_S, START_S, TRACES, Trace, trace

NAMES = pytest.mark.parametrize("name", TRACES)


def made(name: str, *, requests: int = 6_000, documents: int = 1_000, seed: int = 1) -> Trace:
    return trace(name, requests=requests, documents=documents, seed=seed)


def asked(of: Trace) -> list[int]:
    document: list[int] = of.events.document[~of.events.changed].tolist()
    return document


@NAMES
def test_a_trace_has_so_many_questions_in_the_order_of_time(name: str) -> None:
    one = made(name)
    events = one.events
    assert len(asked(one)) == 6_000
    assert len(events.at_s) == len(events.tenant) == len(events.document) == len(events.changed)
    assert (np.diff(events.at_s) >= 0).all()
    assert events.at_s[0] >= START_S
    assert 0 <= events.document.min() <= events.document.max() < len(one.tokens) == 1_000
    assert one.tokens.min() >= traces.MIN_TOKENS
    assert one.tokens.max() <= traces.MAX_TOKENS


@NAMES
def test_the_same_seed_gives_the_same_trace_and_another_gives_another(name: str) -> None:
    first, again, other = made(name), made(name), made(name, seed=2)
    assert (first.events.document == again.events.document).all()
    assert (first.events.at_s == again.events.at_s).all()
    assert (first.tokens == again.tokens).all()
    assert (first.tokens != other.tokens).any()


@NAMES
@pytest.mark.parametrize(("requests", "documents"), [(1, 1), (7, 3), (40, 250)])
def test_a_small_trace_can_be_made(name: str, requests: int, documents: int) -> None:
    assert len(asked(made(name, requests=requests, documents=documents))) == requests


def test_an_unknown_trace_is_an_error() -> None:
    with pytest.raises(KeyError):
        made("real")


def test_popularity_drifts() -> None:
    documents = asked(made("zipf_drift", requests=60_000))
    first, last = (dict(Counter(part).most_common(30)) for part in (documents[:5_000], documents[-5_000:]))
    assert 0 < len(first.keys() & last.keys()) < 25


def test_a_session_asks_one_document_several_times_and_then_its_follow_up() -> None:
    events = made("sessions", requests=20_000).events
    follow_ups: dict[int, Counter[int]] = {}
    again, moved, before = 0, 0, dict[int, int]()
    for tenant, document in zip(events.tenant.tolist(), events.document.tolist(), strict=True):
        if before.get(tenant) == document:
            again += 1
        elif tenant in before:
            moved += 1
            follow_ups.setdefault(before[tenant], Counter())[document] += 1
        before[tenant] = document
    assert again > 1.5 * moved
    often = [counts for counts in follow_ups.values() if counts.total() >= 20]
    assert np.mean([counts.most_common(1)[0][1] / counts.total() for counts in often]) > 0.3


def test_a_scan_asks_every_document_of_its_own_once() -> None:
    events = made("scans").events
    scanned = events.document[events.tenant == traces.SCANNER]
    assert len(scanned) == 1_200
    first = scanned[:100].tolist()
    assert len(set(first)) == len(first)


def test_an_hour_has_documents_of_its_own() -> None:
    events = made("daily", requests=20_000).events
    hours = ((events.at_s - START_S) // HOUR_S).astype(int)
    morning = [Counter(events.document[hours == day * 24 + 9].tolist()) for day in (1, 2)]
    evening = Counter(events.document[hours == 24 + 18].tolist())
    top = [{document for document, _ in counts.most_common(40)} for counts in (*morning, evening)]
    assert len(top[0] & top[1]) > 2 * len(top[0] & top[2])
    assert 5 <= (events.at_s[-1] - events.at_s[0]) / (24 * HOUR_S) <= 6


def test_many_documents_change_at_once_and_are_read_one_after_another() -> None:
    one = made("bulk_update")
    changed_at = one.events.at_s[one.events.changed]
    assert len(changed_at) == 250
    assert (np.diff(changed_at) >= traces.MIN_TOKENS / traces.READ_TOKENS_PER_S - 1e-3).mean() > 0.8
