"""Documents that a question names outright."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.naming import Names, identifiers, name_terms

IDS = ("apartment-lease", "lease", "GPL-2", "GPL-3")
ALIASES: tuple[tuple[str, ...], ...] = (("Elm Street",), ("contract 4711", "the old one"), (), ())
TEXTS = ("Meter EL-40882. Error E-17.", "Error E-17, see form CO-3.", "under v2.0 of this", "under v3.0 of this")
NAMES = Names([name_terms(*one) for one in zip(IDS, ALIASES, strict=True)], [identifiers(text) for text in TEXTS])


@pytest.mark.parametrize(
    ("question", "place"),
    [
        ("Which supply does the meter el-40882 belong to?", 0),
        ("When do I fill in CO-3?", 1),
        ("What does contract 4711 say of the deposit?", 1),
        ("What does CONTRACT-4711 say?", 1),
        ("Who lives in Elm Street?", 0),
        ("How long is the apartment lease?", 0),
        ("May I sell copies under the GPL 2?", 2),
        ("gpl-3: what of patents?", 3),
        ("Does the GPL-3 mention CO-3?", 3),
    ],
)
def test_a_name_or_an_identifier_of_one_document_names_it(question: str, place: int) -> None:
    assert NAMES.named(question) == place


@pytest.mark.parametrize(
    "question",
    [
        "How much is the rent?",
        "What does the lease say?",
        "What is error E-17?",
        "How do GPL-2 and GPL-3 differ?",
        "Are 40882 and EL the same?",
        "",
    ],
)
def test_a_plain_word_several_documents_or_none_names_nothing(question: str) -> None:
    assert NAMES.named(question) is None


def test_of_names_that_begin_alike_the_longest_counts() -> None:
    names = Names([name_terms("power-plan", ()), name_terms("power-plan-2026", ())], [frozenset(), frozenset()])
    assert names.named("What does the power plan 2026 cost?") == 1
    assert names.named("What does the power plan cost?") == 0


def test_an_alias_of_two_documents_names_neither() -> None:
    names = Names([name_terms("x", ("Tariff",)), name_terms("y", ("tariff",))], [frozenset(), frozenset()])
    assert names.named("What is the tariff?") is None


@pytest.mark.parametrize("text", ["VT-771-940", "ts_3005", "ISO/9001a", "v2.0", "E5", "RFC2119"])
def test_what_joins_letters_and_digits_is_an_identifier(text: str) -> None:
    assert len(identifiers(f"See {text}, please.")) == 1


@pytest.mark.parametrize("text", ["2026-11-24", "well-known", "3.14", "B2B", "room 12", "a-1", "ipv6", "512M"])
def test_dates_numbers_and_words_are_no_identifiers(text: str) -> None:
    assert not identifiers(f"See {text}, please.")


@given(st.text(max_size=60))
def test_any_question_names_at_most_one_of_the_documents(question: str) -> None:
    assert NAMES.named(question) in (None, *range(len(IDS)))
