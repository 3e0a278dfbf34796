"""The traces that policies are tried on: who asks which document when, and which documents change.

Made up, each from a seed, to show one habit of real traffic apiece; none was recorded. They say how policies compare
where such a habit is strong, never how a given installation will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_S, HOUR_S = 86_400.0, 3_600.0
START_S = 20_458 * DAY_S
"""Where every trace begins: a Monday's midnight, UTC, in epoch seconds."""
TENANTS = 200
"""Each document belongs to one: the document's number modulo this."""
SCANNER = TENANTS
"""The tenant that asks of every document once: an evaluation, an export."""
MIN_TOKENS, MEDIAN_TOKENS, MAX_TOKENS, SPREAD = 500, 5_000, 30_000, 0.9
"""Sizes are log-normal: one document in six has more than 12,300 tokens, one in six fewer than 2,000."""
PACE_S = 4.0
"""The mean time between two questions where a trace has no rhythm of its own."""
READ_TOKENS_PER_S = 320.0
"""How fast changed documents are read: 6,400 tokens took 15 to 31 s on the demo machine (the README's figures)."""


class Events(msgspec.Struct, frozen=True):
    """What happens, as arrays of one length in the order of time: questions, and new versions that have just been read."""

    at_s: Floats
    tenant: Ints
    document: Ints
    changed: npt.NDArray[np.bool_]
    """True for a new version, which makes the KV of the old one useless; False for a question."""


class Trace(msgspec.Struct, frozen=True):
    name: str
    tokens: Ints
    """Each document's size; a new version has that of the old one."""
    events: Events


def trace(name: str, *, requests: int, documents: int, seed: int) -> Trace:
    """The trace of this name with so many questions; the same arguments give the same trace. KeyError for an unknown name."""
    make = TRACES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    tokens = np.clip(rng.lognormal(np.log(MEDIAN_TOKENS), SPREAD, documents), MIN_TOKENS, MAX_TOKENS).astype(np.int64)
    return Trace(name, tokens, make(rng, requests, tokens))


def zipf_drift(rng: np.random.Generator, requests: int, tokens: Ints) -> Events:
    """Zipf's law (exponent 0.9); every 500 questions 2 % of the documents trade their ranks."""
    order = rng.permutation(len(tokens))
    parts = []
    for start in range(0, requests, 500):
        parts.append(order[_ranks(rng, len(tokens), min(500, requests - start), 0.9)])
        moved = rng.choice(len(tokens), max(len(tokens) // 50, 1), replace=False)
        order[moved] = order[rng.permutation(moved)]
    return _questions(_arrivals(rng, requests), np.concatenate(parts))


def sessions(rng: np.random.Generator, requests: int, tokens: Ints) -> Events:
    """Tenants ask several questions of one document, then of a likely follow-up.

    A tenant asks four questions on average, 40 s apart, and then goes on in 7 of 10 cases: 65 % of the time to the
    document that usually follows, 20 % to another that often does, else to any of its own. Many sit at it at a time.
    """
    documents = len(tokens)
    tenants = min(TENANTS, documents)
    follow = rng.permutation(documents), rng.permutation(documents)
    started = START_S + np.cumsum(rng.exponential(PACE_S * 13, requests))  # thirteen questions are a session's mean
    rows: list[tuple[float, int, int]] = []
    for begin, tenant in zip(started.tolist(), _ranks(rng, tenants, requests, 0.8).tolist(), strict=True):
        if len(rows) >= requests * 1.2:
            break
        own = np.arange(tenant, documents, TENANTS)
        at, document = begin, int(own[_ranks(rng, len(own), 1, 0.8)[0]])
        while True:
            for pause in rng.exponential(40.0, rng.geometric(1 / 4)).tolist():
                rows.append((at, tenant, document))
                at += pause
            chance = rng.random()
            if chance > 0.7:
                break
            near = follow[0] if chance < 0.7 * 0.65 else follow[1]
            document = int(own[near[document] % len(own)] if chance < 0.7 * 0.85 else rng.choice(own))
    rows = sorted(rows)[:requests]
    at_s, tenant_of, asked = (np.array(column) for column in zip(*rows, strict=True))
    return Events(at_s, tenant_of, asked, np.zeros(len(rows), np.bool_))


def scans(rng: np.random.Generator, requests: int, tokens: Ints) -> Events:
    """Zipf's law (exponent 1.0), and one question in five belongs to a pass over a tenth of the documents, one question each.

    A pass asks once a second, in an order of its own each time: nothing in it can be learned.
    """
    documents = len(tokens)
    order = rng.permutation(documents)
    length = max(documents // 10, 1)
    usual = requests - requests // 5
    at_s = _arrivals(rng, usual)
    passes = requests // 5 // length + 1
    scanned = np.concatenate([rng.choice(documents, length, replace=False) for _ in range(passes)])[: requests - usual]
    begin = at_s[0] + (at_s[-1] - at_s[0]) * (np.arange(passes) + 0.5) / passes
    scanned_at = np.concatenate([start + np.arange(length, dtype=np.float64) for start in begin])[: requests - usual]
    asked = order[_ranks(rng, documents, usual, 1.0)]
    return _in_time(
        Events(at_s, asked % TENANTS, asked, np.zeros(usual, np.bool_)),
        Events(scanned_at, np.full(len(scanned), SCANNER), scanned, np.zeros(len(scanned), np.bool_)),
    )


def daily(rng: np.random.Generator, requests: int, tokens: Ints) -> Events:
    """Six days: each hour of the day has its own sixty documents, which get 60 % of its questions, and most come in office hours."""
    documents = len(tokens)
    weights = 1.05 + np.cos((np.arange(24) - 13) / 24 * 2 * np.pi)
    hours = np.sort(rng.choice(24 * 6, requests, p=np.tile(weights, 6) / weights.sum() / 6))
    at_s = np.sort(START_S + (hours + rng.random(requests)) * HOUR_S)
    count = min(60, documents)
    of_hour = np.stack([rng.choice(documents, count, replace=False) for _ in range(24)])
    usual = rng.permutation(documents)[_ranks(rng, documents, requests, 0.8)]
    asked = np.where(rng.random(requests) < 0.6, of_hour[hours % 24, _ranks(rng, count, requests, 0.6)], usual)
    return _questions(at_s, asked)


def bulk_update(rng: np.random.Generator, requests: int, tokens: Ints) -> Events:
    """Zipf's law (exponent 0.9); at each sixth of the time 5 % of the documents change at once and are read one after another."""
    documents = len(tokens)
    order = rng.permutation(documents)
    asked = order[_ranks(rng, documents, requests, 0.9)]
    at_s = _arrivals(rng, requests)
    changes, times = [], []
    for begin in np.linspace(at_s[0], at_s[-1], 7)[1:-1]:
        changed = rng.choice(documents, max(documents // 20, 1), replace=False)
        changes.append(changed)
        times.append(begin + np.cumsum(tokens[changed] / READ_TOKENS_PER_S))
    changed, changed_at = np.concatenate(changes), np.concatenate(times)
    return _in_time(
        Events(at_s, asked % TENANTS, asked, np.zeros(requests, np.bool_)),
        Events(changed_at, changed % TENANTS, changed, np.ones(len(changed), np.bool_)),
    )


Maker = Callable[[np.random.Generator, int, Ints], Events]
TRACES: Mapping[str, Maker] = MappingProxyType({make.__name__: make for make in (zipf_drift, sessions, scans, daily, bulk_update)})


def _ranks(rng: np.random.Generator, documents: int, count: int, exponent: float) -> Ints:
    """`count` ranks, 0 the most likely, by Zipf's law."""
    shares = np.cumsum(1 / np.arange(1, documents + 1) ** exponent)
    ranks: Ints = np.searchsorted(shares, rng.random(count) * shares[-1], side="right").astype(np.int64)
    return ranks


def _arrivals(rng: np.random.Generator, count: int) -> Floats:
    return START_S + np.cumsum(rng.exponential(PACE_S, count))


def _questions(at_s: Floats, asked: Ints) -> Events:
    return Events(at_s, asked % TENANTS, asked, np.zeros(len(asked), np.bool_))


def _in_time(*parts: Events) -> Events:
    at_s, tenant, document, changed = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("at_s", "tenant", "document", "changed")
    )
    order = np.argsort(at_s, kind="stable")
    return Events(at_s[order], tenant[order], document[order], changed[order])
