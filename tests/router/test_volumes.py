"""Splitting into volumes: nothing is lost, each fits, the cuts are where a reader would make them, and edits stay local."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import DocumentTooLong
from router.prompts import clean_text
from router.volumes import Volume, assigned, split

OVERHEAD = 3


def words(text: str) -> int:
    """A token a word or mark, and some for what stands around every volume."""
    return OVERHEAD + len(re.findall(r"\w+|[^\w\s]", text))


def of(text: str, limit: int) -> list[Volume]:
    return list(split(text, limit, words))


def section(level: int, name: str, sentences: int, word: str = "word") -> str:
    return f"{'#' * level} {name}\n\n" + f"{word} is told here. " * sentences + "\n\n"


def handbook(*chapters: str) -> str:
    return clean_text("# Handbook\n\nWhat everybody should know.\n\n" + "".join(chapters))


# --- any text

headings = st.builds(
    lambda level, name: f"{'#' * level} {name}\n", st.integers(1, 6), st.sampled_from(["A", "B", "Leave", "Tax x"])
)
prose = st.lists(st.sampled_from(["rain", "falls.", "Why?", "now,", "x" * 30, "\n", "\n\n", "```\n", "雨が降る。", "  "])).map(
    " ".join
)
texts = st.lists(st.one_of(headings, prose, st.text(max_size=40))).map("\n".join).map(clean_text)
limits = st.integers(OVERHEAD + 12, 120)


@given(texts, limits)
def test_nothing_is_lost_and_the_order_is_kept(text: str, limit: int) -> None:
    assert "".join(volume.body for volume in of(text, limit)) == text


@given(texts, limits)
def test_each_fits(text: str, limit: int) -> None:
    assert all(words(volume.text) <= limit for volume in of(text, limit))


@given(texts, limits)
def test_none_is_empty(text: str, limit: int) -> None:
    assert all(volume.body.strip() for volume in of(text, limit)) or not text


@given(texts, limits)
def test_the_same_text_is_split_alike(text: str, limit: int) -> None:
    assert of(text, limit) == of(text, limit)


@given(texts, limits)
def test_what_fits_stays_whole(text: str, limit: int) -> None:
    assert (len(of(text, limit)) <= 1) == (words(text) <= limit or not text)


@given(st.lists(st.integers(6, 15), min_size=1, max_size=12))
def test_a_volume_has_as_many_sections_as_fit(sizes: list[int]) -> None:
    chapters = [section(2, f"C{number}", size) for number, size in enumerate(sizes)]
    volumes, limit = of(handbook(*chapters), 120), 120
    ends = [len(re.findall("## C", "".join(volume.body for volume in volumes[: number + 1]))) for number in range(len(volumes))]
    for volume, end in zip(volumes[:-1], ends, strict=False):
        assert volume.body.endswith("here. \n\n")
        assert words(volume.text + chapters[end]) > limit


# --- where it is cut


def test_at_the_highest_headings_as_many_to_a_volume_as_fit() -> None:
    text = handbook(*(section(2, f"Chapter {number}", 10) for number in range(1, 6)))
    volumes = of(text, 120)
    assert [volume.headings for volume in volumes] == ["Chapter 1 – Chapter 2", "Chapter 3 – Chapter 4", "Chapter 5"]
    assert [volume.text.split("\n\n")[0] for volume in volumes] == ["# Handbook"] * 3
    assert volumes[0].text.startswith("# Handbook\n\nWhat everybody should know.\n\n## Chapter 1\n\nword is")
    assert volumes[1].text.startswith("# Handbook\n\n## Chapter 3\n\nword is")


def test_a_section_that_is_too_long_is_cut_at_its_own_headings_and_led_by_what_it_stands_under() -> None:
    leave = "## Leave\n\nOf all kinds.\n\n" + section(3, "Holidays", 15) + section(3, "Sickness", 15)
    volumes = of(handbook(section(2, "Hours", 5), leave, section(2, "Travel", 5)), 100)
    assert [volume.headings for volume in volumes] == ["Hours", "Leave", "Sickness", "Travel"]
    assert volumes[2].lead == "# Handbook\n\n## Leave\n\n"
    assert volumes[3].lead == "# Handbook\n\n"


def test_paragraphs_then_sentences_then_words_where_there_are_no_headings() -> None:
    paragraphs = "\n\n".join("One sentence is here. Another is there." for _ in range(6))
    assert all(volume.body.rstrip().endswith("there.") for volume in of(paragraphs, 40))
    one_paragraph = "One sentence is here. Another is there. " * 8
    assert all(volume.body.rstrip().endswith(".") for volume in of(one_paragraph.strip(), 40))
    one_sentence = " ".join(f"w{number}" for number in range(100))
    for volume in of(one_sentence, 40):
        assert re.fullmatch(r"(w\d+ ?)+", volume.body)


def test_a_text_without_headings_is_led_by_its_first_line() -> None:
    volumes = of("The lease of the flat\n\n" + "\n\n".join("Somebody pays for something here." for _ in range(20)), 60)
    assert len(volumes) > 1
    assert all(volume.text.startswith(("The lease of the flat\n", "# The lease of the flat\n")) for volume in volumes)
    assert volumes[1].headings == "Somebody pays for something here. Somebody pays for somethi …"


def test_characters_where_nothing_else_fits() -> None:
    volumes = split("x" * 100, 30, len)
    assert all(len(volume.text) <= 30 for volume in volumes)
    assert "".join(volume.body for volume in volumes) == "x" * 100


def test_a_limit_that_lets_nothing_in_is_said() -> None:
    with pytest.raises(DocumentTooLong, match=r"one character takes 4 tokens; at most 3 fit") as caught:
        split("one two", 3, words)
    assert (caught.value.tokens, caught.value.limit) == (4, 3)


def test_a_hash_in_code_is_no_heading() -> None:
    code = "```sh\n" + "# comment\nmake all the things\n" * 10 + "```\n\n"
    volumes = of(handbook("## Code\n\n" + code, section(2, "Prose", 20)), 110)
    assert [volume.headings for volume in volumes] == ["Code", "Prose"]


def test_a_part_of_a_section_is_called_by_it() -> None:
    volumes = of(handbook(section(2, "Leave", 30)), 100)
    assert [volume.headings for volume in volumes] == ["Leave", "Leave, continued"]
    assert volumes[1].lead == "# Handbook\n\n## Leave\n\n"


def test_a_short_preface_is_no_volume_but_a_long_one_is() -> None:
    """Also where the first section does not fit beside it, and where it stands in the middle."""
    part = "## Part\n\nIn short.\n\n" + section(3, "Leave", 30) + section(3, "Travel", 5)
    volumes = of(handbook(section(2, "Hours", 15), part), 100)
    assert [volume.headings for volume in volumes] == ["Hours", "Part", "Leave, continued", "Travel"]
    assert "In short." in volumes[1].body
    assert "told here" in volumes[1].body
    long = of("preface. " * 40 + "\n\n" + section(1, "One", 10) + section(1, "Two", 10), 100)
    assert [volume.body.lstrip()[:5] for volume in long] == ["prefa", "# One", "# Two"]


# --- edits


def test_an_edit_inside_a_long_chapter_leaves_the_other_chapters_volumes() -> None:
    def text(sentences: int) -> str:
        return handbook(section(2, "Hours", 15), section(2, "Leave", sentences), section(2, "Travel", 15), section(2, "Tax", 15))

    before, after = of(text(30), 110), of(text(47), 110)
    assert [volume.headings for volume in before] == ["Hours", "Leave", "Leave, continued", "Travel", "Tax"]
    assert len(after) == 6
    kept = [volume for volume in before if not volume.headings.startswith("Leave")]
    assert len(kept) == 3
    assert {volume.text for volume in kept} <= {volume.text for volume in after}


@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.data())
def test_a_word_put_for_another_changes_one_volume(sizes: list[int], data: st.DataObject) -> None:
    edited = data.draw(st.integers(0, len(sizes) - 1))

    def text(word: str) -> str:
        chapters = [section(2, f"C{at}", size, word if at == edited else "word") for at, size in enumerate(sizes)]
        return handbook(*chapters)

    before, after = of(text("word"), 100), of(text("term"), 100)
    assert len(before) == len(after)
    changed = [one for one, other in zip(before, after, strict=True) if one != other]
    assert all(f"C{edited}" in volume.lead + volume.body for volume in changed)
    assert changed


# --- sample questions


def test_a_sample_question_goes_to_the_volume_that_has_its_rare_words() -> None:
    texts = ["The rent is due. The deposit is here.", "The rent of the garage. Pets are allowed.", "The rent."]
    found = assigned(("Are pets allowed?", "What is the deposit?", "Zzz?"), texts)
    assert found == (("What is the deposit?", "Zzz?"), ("Are pets allowed?",), ())
