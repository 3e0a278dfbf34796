"""What is made of a model's text about a document, and whose words its descriptor has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.describing import (
    QUESTION_CHARACTERS,
    QUESTIONS,
    SUMMARY_CHARACTERS,
    changed,
    clean_questions,
    clean_summary,
    declared,
    described,
    lacking,
    of_new_content,
)
from router.documents import Descriptor, Document, DocumentId, Owner

TEXT = """# Lease of the flat

The lease of the flat in Marrowgate begins on 1 June. The deposit is 2,400 euros, the rent 1,200 euros a month.
Notice is given three months ahead. The tenant and the landlord share the repairs. Pets and parking need permission."""


# --- summaries


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("The lease of a flat. The deposit is 2,400 euros.", "The lease of a flat. The deposit is 2,400 euros."),
        ('  **Summary:** "The lease of the flat in\nMarrowgate."  ', "The lease of the flat in Marrowgate."),
        ("The lease of a flat. It is for the tenant, and for the landl", "The lease of a flat."),  # cut off
        ("The lease of a flat. The lease of a flat. The lease of a flat.", "The lease of a flat."),
        ("The lease of a flat. The deposit is 3,000 euros.", "The lease of a flat."),  # no such number
        ("The lease of the flat in Marrowgate, London.", ""),  # no such name
        ("The importance of a healthy environment for the planet.", ""),  # no such words
        ("The tenant and the tenant and the tenant and the tenant and the tenant.", ""),
        ("The deposit is the deposit of the lease is the deposit of the lease.", ""),
        ("rent rent rent is due.", ""),
        ("2,400 - 1,200 | 1 | 1 | 2,400 |.", ""),
        ("Yes.", ""),
        ("A lease\x00 of\u200b the flat.", "A lease of the flat."),
        ("", ""),
    ],
)
def test_a_summary_is_what_tells_of_the_document(raw: str, kept: str) -> None:
    assert clean_summary(raw, TEXT) == kept


def test_a_summary_is_short() -> None:
    sentences = ["The tenant pays the rent.", "The landlord has the deposit.", "Pets need permission."]
    assert clean_summary(" ".join(sentences), TEXT) == " ".join(sentences[:2])


# --- questions


def test_questions_are_lines_without_what_is_around_them() -> None:
    raw = (
        'Here are five questions:\n\n1. How much is the deposit?\n2) "When does the lease begin?"\n- **Who shares the repairs?** The tenant.\n'
        "Q4: Do pets need permission?\nIs notice given in months?\nWhat is the rent of the flat?"
    )
    assert clean_questions(raw, TEXT) == (
        "How much is the deposit?",
        "When does the lease begin?",
        "Who shares the repairs?",
        "Do pets need permission?",
        "Is notice given in months?",
    )


@pytest.mark.parametrize(
    "raw",
    [
        "1. What is the document about?\n2. What is this text?",
        "The deposit is 2,400 euros.",
        "What is the rent of 9,999 euros?",
        "What is the weather in Tokyo?",
        "What what what is the rent?",
        "Why?",
        "How much is the " + "rent and the deposit and the " * 20 + "?",
        "",
    ],
)
def test_a_question_that_tells_nothing_of_the_document_is_dropped(raw: str) -> None:
    assert clean_questions(raw, TEXT) == ()


def test_variations_of_one_question_are_one() -> None:
    raw = "How much is the deposit?\nHOW MUCH is the deposit ?\nHow much is the deposit in euros?\nHow much is the rent?"
    assert clean_questions(raw, TEXT) == ("How much is the deposit?", "How much is the rent?")


words = st.sampled_from([*TEXT.split(), "?", "1.", "-", '"', "Summary:", "Q1:", "\n", "\x00", "第二章", "**", "Tokyo", "9,999"])
babble = st.lists(words, max_size=40).map(" ".join)


@given(st.text(max_size=300) | babble, st.text(max_size=100) | st.just(TEXT))
def test_whatever_a_model_says_what_is_kept_is_within_its_limits(raw: str, text: str) -> None:
    summary, questions = clean_summary(raw, text), clean_questions(raw, text)
    assert len(summary) <= SUMMARY_CHARACTERS
    assert len(questions) <= QUESTIONS
    assert len(set(questions)) == len(questions)
    assert all(10 <= len(question) <= QUESTION_CHARACTERS and question.endswith("?") for question in questions)
    for kept in (summary, *questions):
        assert kept.isprintable()
        assert kept == kept.strip()


@given(st.text(max_size=300) | babble)
def test_what_was_kept_once_is_kept_again(raw: str) -> None:
    summary, questions = clean_summary(raw, TEXT), clean_questions(raw, TEXT)
    assert clean_summary(summary, TEXT) == summary
    assert clean_questions("\n".join(questions), TEXT) == questions


@given(st.lists(st.sampled_from(["the rent is ", "is due ", "a month "]), min_size=8, max_size=30).map("".join))
def test_a_model_that_turns_in_circles_is_not_believed(raw: str) -> None:
    assert clean_summary(f"{raw}.", TEXT) == ""


# --- whose words


def document(**fields: Any) -> Document:
    return Document(owner=Owner("acme"), id=DocumentId("lease"), descriptor=Descriptor("Lease", **fields))


WRITTEN = {"summary": "Of a flat.", "questions": ("How much is the rent?",)}


def test_only_what_is_lacking_is_written_and_marked() -> None:
    assert lacking(document()) == ("summary", "questions")
    both = described(document(), WRITTEN)
    assert (both.descriptor.summary, both.descriptor.questions) == tuple(WRITTEN.values())
    assert (both.generated, lacking(both)) == (("summary", "questions"), ())
    half = described(document(summary="Mine."), WRITTEN)
    assert (half.descriptor.summary, half.generated) == ("Mine.", ("questions",))
    assert described(document(), {"summary": ""}) == document()


def test_what_somebody_changes_is_theirs_for_ever_be_it_empty() -> None:
    mine = changed(described(document(), WRITTEN), {"summary": "", "title": "Contract"})
    assert (mine.descriptor.title, mine.descriptor.summary) == ("Contract", "")
    assert mine.generated == ("questions",)
    assert lacking(mine) == ()
    assert described(mine, WRITTEN).descriptor.summary == ""
    emptied = changed(document(), {"questions": ()})
    assert lacking(emptied) == ("summary",)


def test_a_document_declared_again_without_them_keeps_what_was_generated() -> None:
    both = described(document(), WRITTEN)
    again = declared(both, Descriptor("Lease", tags=("flat",)))
    assert again == replace(both, descriptor=replace(both.descriptor, tags=("flat",)))
    assert declared(both, both.descriptor) == both
    own = declared(both, Descriptor("Lease", summary="Mine."))
    assert (own.descriptor.summary, own.generated) == ("Mine.", ("questions",))
    assert declared(document(summary="Mine."), Descriptor("Lease")).descriptor.summary == ""


def test_what_was_generated_of_other_content_goes_and_what_was_given_stays() -> None:
    half = described(document(summary="Mine."), WRITTEN)
    assert of_new_content(half) == document(summary="Mine.")
    assert lacking(of_new_content(half)) == ("questions",)
    assert of_new_content(document(questions=("Mine?",))) == document(questions=("Mine?",))
