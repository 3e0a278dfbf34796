"""Pins and times to live: what is asked, what comes of it, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from router.documents import Descriptor, Document, DocumentId, Owner
from router.errors import InvalidRequest
from router.retention import KEPT, MAX_TTL_S, Retention, refreshed, retain

NOW = 1000.0
PLAIN = Document(owner=Owner("acme"), id=DocumentId("lease"), descriptor=Descriptor("Lease"))
PINNED = replace(PLAIN, pinned=True)
HOUR = replace(PLAIN, ttl_s=3600.0, expires_at=NOW + 600)
DATED = replace(PLAIN, expires_at=NOW + 600)
EXPIRED_HOUR = replace(HOUR, expires_at=NOW - 1)
EXPIRED_DATED = replace(DATED, expires_at=NOW - 1)
ALL = (PLAIN, PINNED, HOUR, DATED, EXPIRED_HOUR, EXPIRED_DATED)


def kept(document: Document) -> tuple[bool, float | None, float | None]:
    return document.pinned, document.ttl_s, document.expires_at


@pytest.mark.parametrize("document", ALL)
def test_nothing_asked_is_nothing_changed(document: Document) -> None:
    assert retain(document, KEPT, now=NOW) == document


@pytest.mark.parametrize(
    ("document", "asked", "then"),
    [
        (PLAIN, Retention(pinned=True), (True, None, None)),
        (PINNED, Retention(pinned=False), (False, None, None)),
        (PLAIN, Retention(ttl_s=60), (False, 60, NOW + 60)),
        (PLAIN, Retention(expires_at=NOW + 5), (False, None, NOW + 5)),
        # Either replaces the other, a null beside it says nothing.
        (HOUR, Retention(expires_at=NOW + 5), (False, None, NOW + 5)),
        (DATED, Retention(ttl_s=60), (False, 60, NOW + 60)),
        (HOUR, Retention(ttl_s=None, expires_at=NOW + 5), (False, None, NOW + 5)),
        (DATED, Retention(ttl_s=60, expires_at=None), (False, 60, NOW + 60)),
        # Either ends both.
        (HOUR, Retention(ttl_s=None), (False, None, None)),
        (HOUR, Retention(expires_at=None), (False, None, None)),
        (DATED, Retention(ttl_s=None), (False, None, None)),
        (DATED, Retention(expires_at=None), (False, None, None)),
        # What has expired comes back.
        (EXPIRED_HOUR, Retention(ttl_s=3600), (False, 3600, NOW + 3600)),
        (EXPIRED_DATED, Retention(expires_at=NOW + 5), (False, None, NOW + 5)),
        (EXPIRED_HOUR, Retention(ttl_s=None), (False, None, None)),
        # From a TTL to a pin and back.
        (HOUR, Retention(pinned=True, ttl_s=None), (True, None, None)),
        (PINNED, Retention(pinned=False, ttl_s=60), (False, 60, NOW + 60)),
        (HOUR, Retention(pinned=False), (False, 3600, NOW + 600)),
        (PLAIN, Retention(ttl_s=MAX_TTL_S), (False, MAX_TTL_S, NOW + MAX_TTL_S)),
    ],
)
def test_what_is_asked_is_what_comes(document: Document, asked: Retention, then: tuple[Any, ...]) -> None:
    assert kept(retain(document, asked, now=NOW)) == then


def test_a_ttl_that_is_as_it_was_counts_from_now_unless_it_is_only_declared_again() -> None:
    assert retain(HOUR, Retention(ttl_s=3600), now=NOW).expires_at == NOW + 3600
    for document in (HOUR, EXPIRED_HOUR):
        assert retain(document, Retention(pinned=False, ttl_s=3600, again=False), now=NOW) == document
    assert kept(retain(HOUR, Retention(ttl_s=60, again=False), now=NOW)) == (False, 60, NOW + 60)
    assert kept(retain(HOUR, Retention(ttl_s=None, again=False), now=NOW)) == (False, None, None)
    assert kept(retain(DATED, Retention(ttl_s=None, again=False), now=NOW)) == (False, None, None)


@pytest.mark.parametrize("asked", [KEPT, Retention(ttl_s=3600, again=False)])
@pytest.mark.parametrize("document", [HOUR, EXPIRED_HOUR])
def test_new_content_makes_the_ttl_count_from_now(document: Document, asked: Retention) -> None:
    assert kept(retain(document, asked, now=NOW, new_content=True)) == (False, 3600, NOW + 3600)


def test_new_content_drops_a_moment_that_has_passed_and_keeps_one_to_come() -> None:
    assert kept(retain(EXPIRED_DATED, KEPT, now=NOW, new_content=True)) == (False, None, None)
    assert retain(DATED, KEPT, now=NOW, new_content=True) == DATED
    assert retain(PINNED, KEPT, now=NOW, new_content=True) == PINNED


@pytest.mark.parametrize(
    ("document", "asked", "param", "words"),
    [
        (PLAIN, Retention(pinned=True, ttl_s=60), "pinned", 'Send "pinned": true, or one of'),
        (PLAIN, Retention(pinned=True, expires_at=NOW + 5), "pinned", 'Send "pinned": true, or one of'),
        (HOUR, Retention(pinned=True), "pinned", '"ttl_s": null with "pinned": true'),
        (EXPIRED_DATED, Retention(pinned=True), "pinned", '"ttl_s": null with "pinned": true'),
        (PINNED, Retention(ttl_s=60), "pinned", '"pinned": false with it'),
        (PINNED, Retention(expires_at=NOW + 5), "pinned", '"pinned": false with it'),
        (PLAIN, Retention(ttl_s=60, expires_at=NOW + 60), "expire_at", "send only one"),
        (PLAIN, Retention(expires_at=NOW), "expire_at", "a time to come"),
        (PLAIN, Retention(expires_at=NOW + MAX_TTL_S + 1), "expire_at", "a hundred years"),
        (PLAIN, Retention(expires_at=float("nan")), "expire_at", "a time to come"),
        (PLAIN, Retention(ttl_s=0), "ttl_s", "over 0"),
        (PLAIN, Retention(ttl_s=-1), "ttl_s", "over 0"),
        (PLAIN, Retention(ttl_s=float("nan")), "ttl_s", "over 0"),
        (PLAIN, Retention(ttl_s=float("inf")), "ttl_s", "a hundred years"),
    ],
)
def test_what_can_not_be_is_refused_in_words_that_mend_it(document: Document, asked: Retention, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        retain(document, asked, now=NOW)
    assert caught.value.param == param
    assert words in str(caught.value)


times = st.sampled_from([UNSET, None, 5.0, 3600.0])


@settings(max_examples=200)
@given(
    document=st.sampled_from(ALL),
    pinned=st.sampled_from([UNSET, True, False]),
    ttl_s=times,
    expires_at=times.map(lambda value: value if value in (UNSET, None) else NOW + value),
    again=st.booleans(),
    new_content=st.booleans(),
)
def test_whatever_comes_of_it_holds_together(document: Document, new_content: bool, **asked: Any) -> None:
    try:
        found = retain(document, Retention(**asked), now=NOW, new_content=new_content)
    except InvalidRequest:
        return
    assert not (found.pinned and found.expires_at is not None)
    assert not (found.ttl_s is not None and found.expires_at is None)
    assert replace(found, pinned=document.pinned, ttl_s=document.ttl_s, expires_at=document.expires_at) == document
    if new_content:
        assert not found.expired(NOW)


# --- counted from a question


@pytest.mark.parametrize(
    ("ttl_s", "grain_s"), [(3600.0, 180.0), (100.0, 5.0), (20.0, 1.0), (5.0, 1.0)], ids=["hour", "minutes", "edge", "seconds"]
)
def test_a_ttl_counts_from_a_question_once_that_is_worth_a_write(ttl_s: float, grain_s: float) -> None:
    asked = replace(PLAIN, ttl_s=ttl_s, expires_at=NOW + ttl_s)
    assert refreshed(asked, NOW + grain_s - 0.01) is asked
    assert refreshed(asked, NOW + grain_s) == replace(asked, expires_at=NOW + grain_s + ttl_s)
    assert refreshed(asked, NOW - 100) is asked


@pytest.mark.parametrize("document", [PLAIN, PINNED, DATED, EXPIRED_HOUR, EXPIRED_DATED])
def test_a_question_moves_nothing_else(document: Document) -> None:
    assert refreshed(document, NOW) is document


@settings(max_examples=100)
@given(ttl_s=st.floats(1.5, 1e5), gaps=st.lists(st.floats(0, 1), max_size=300))
def test_a_document_that_is_asked_all_the_time_stays_and_is_seldom_written(ttl_s: float, gaps: list[float]) -> None:
    """Gaps are parts of what a document may wait for, at the worst, between two questions."""
    grain_s = max(1.0, ttl_s / 20)
    document, written = replace(PLAIN, ttl_s=ttl_s, expires_at=NOW + ttl_s), [NOW]
    for now in itertools.accumulate((gap * (ttl_s - grain_s) * 0.999 for gap in gaps), initial=NOW):
        assert not document.expired(now)
        if (moved := refreshed(document, now)) is not document:
            assert now - written[-1] >= grain_s * 0.999
            written.append(now)
        document = moved
