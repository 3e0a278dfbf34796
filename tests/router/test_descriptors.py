"""Passages: bounded pieces of a document's text, none of it lost, each under its headings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.descriptors import MAX_PASSAGES, PASSAGE_CHARACTERS, guess_title, passages, routing_texts
from router.documents import Descriptor

WORD = st.text("abcdefghij.", min_size=1, max_size=12)
LINE = st.lists(WORD, min_size=1, max_size=40).map(" ".join)
LONG_WORD = st.integers(700, 2000).map(lambda length: "w" * length)
PARAGRAPH = st.lists(LINE | LONG_WORD, min_size=1, max_size=4).map("\n".join)
# Headings have letters of their own, so that a passage's heading is never taken for its text.
TITLE = st.lists(st.text("ABCDEF#", min_size=1, max_size=8).map(lambda word: f"{word}X"), min_size=1, max_size=5).map(" ".join)
HEADING = st.builds(lambda level, words: f"{'#' * level} {words}", st.integers(1, 6), TITLE)
SECTION = st.builds(lambda heading, body: f"{heading}\n\n{body}", HEADING, PARAGRAPH)
TEXT = st.lists(PARAGRAPH | SECTION, max_size=8).map("\n\n".join)


def letters(text: str) -> str:
    return re.sub(r"\s", "", text)


def bodies(text: str) -> str:
    """The text without its heading lines and whitespace."""
    return letters("\n".join(line for line in text.splitlines() if not line.startswith("#")))


def without_lead(passage: str, headings: set[str]) -> str:
    first, _, rest = passage.partition("\n")
    return rest if set(first.split(" > ")) <= headings else passage


@settings(max_examples=40)
@given(TEXT)
def test_no_text_is_lost_and_none_is_invented(text: str) -> None:
    headings = {line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")}
    found = passages(text)
    assert len(found) < MAX_PASSAGES
    assert "".join(letters(without_lead(passage, headings)) for passage in found) == bodies(text)


@settings(max_examples=40)
@given(TEXT)
def test_a_passage_is_bounded_apart_from_its_headings(text: str) -> None:
    headings = {line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")}
    for passage in passages(text):
        assert 0 < len(without_lead(passage, headings)) <= PASSAGE_CHARACTERS + 1


@settings(max_examples=25)
@given(st.lists(SECTION, min_size=1, max_size=6))
def test_every_passage_stands_under_its_own_headings(sections: list[str]) -> None:
    path: dict[int, str] = {}
    expected = []
    for section in sections:
        marks, words = section.partition("\n")[0].split(" ", 1)
        path = {level: heading for level, heading in path.items() if level < len(marks)} | {len(marks): words}
        expected += [" > ".join(path.values())] * len(passages(section))
    assert [passage.partition("\n")[0] for passage in passages("\n\n".join(sections))] == expected


def test_the_headings_above_are_carried_along() -> None:
    text = "# Lease\nAn intro.\n## Rent\n### Date\nDue on the 1st.\n## Keys\nThree of them.\n"
    assert passages(text) == (
        "Lease\nAn intro.",
        "Lease > Rent > Date\nDue on the 1st.",
        "Lease > Keys\nThree of them.",
    )


def test_a_heading_of_any_length_leaves_a_passage_bounded() -> None:
    found = passages(f"# {'long ' * 5000}\n## Rent\n" + "text " * 2000)
    assert len(found) == 13
    assert max(map(len, found)) <= 1.5 * PASSAGE_CHARACTERS + 1
    assert all(" > Rent\ntext" in passage for passage in found)


def test_a_headings_closing_marks_are_no_words_of_it() -> None:
    assert passages("## Rent ##\ntext") == ("Rent\ntext",)
    assert passages("# Written in C#\ntext") == ("Written in C#\ntext",)


def test_a_hash_that_is_no_heading_stays_text() -> None:
    assert passages("#1 in sales\n####### seven") == ("#1 in sales\n####### seven",)


def test_short_paragraphs_are_packed_together() -> None:
    assert passages("one\n\ntwo\n \n\nthree") == ("one\ntwo\nthree",)


def test_a_long_paragraph_is_cut_where_a_sentence_ends() -> None:
    sentence = "The tenant pays the rent on the first of every month. "
    found = passages(sentence * 40)
    assert len(found) == 3
    assert all(passage.endswith("month.") for passage in found)


def test_a_long_paragraph_is_cut_where_a_line_ends() -> None:
    found = passages("\n".join(["x" * 300] * 4))
    assert found == ("\n".join(["x" * 300] * 2), "\n".join(["x" * 300] * 2))


def test_a_word_longer_than_a_passage_is_cut_anywhere() -> None:
    assert passages("x" * 2000) == ("x" * 800, "x" * 800, "x" * 400)


def test_of_too_many_passages_evenly_spread_ones_are_kept() -> None:
    text = "\n\n".join(f"# Section {number}\n\nBody {number}." for number in range(3 * MAX_PASSAGES))
    found = passages(text)
    assert len(found) == MAX_PASSAGES
    assert found[0] == "Section 0\nBody 0."
    assert [int(passage.split()[1]) for passage in found] == list(range(0, 3 * MAX_PASSAGES, 3))


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_an_empty_text_has_no_passages(text: str) -> None:
    assert passages(text) == ()


# Documents come from tenants: cutting one up must not take longer than reading it.
@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "line", ["# a" + " " * 20_000 + "b", "# a" + "#" * 20_000 + "b", "# " + " #" * 20_000, "\n" * 20_000 + "b"]
)
def test_a_hostile_line_takes_no_longer_than_its_length(line: str) -> None:
    assert sum(map(len, passages(f"{line}\ntext"))) <= len(line) + 5
    assert len(guess_title(line, "none")) <= 120


def test_what_people_say_of_a_document_stands_before_its_passages() -> None:
    descriptor = Descriptor("Lease", summary="Of the flat", tags=("rent", "keys"), questions=("When is it due?", "How many keys?"))
    assert routing_texts(descriptor, "Due on the 1st.") == (
        "Lease. Of the flat. rent, keys",
        "When is it due?",
        "How many keys?",
        "Due on the 1st.",
    )
    assert routing_texts(Descriptor("Lease"), "") == ("Lease",)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n\n## Rent ##\ntext", "Rent"),
        ("MAKE(1)      User Commands\tMAKE(1)\n", "MAKE(1) User Commands MAKE(1)"),
        ("A lease.\n# Rent", "A lease."),
        ("#\n#  \n  An apartment ", "#"),
        ("# \u3000\nnext", "next"),
        (" \n", "lease.md"),
        ("x" * 200, "x" * 120),
    ],
)
def test_a_title_is_the_first_heading_or_line(text: str, title: str) -> None:
    assert guess_title(text, "lease.md") == title
