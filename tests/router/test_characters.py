"""Characters that are not shown: refused where people name things, never sent to a terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.characters import ONE_LINE, check_shown, escaped, shown
from router.descriptors import guess_title
from router.documents import check_descriptor, check_id, slug
from router.errors import InvalidRequest

HIDDEN = [
    *("\0", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\r", "\x0b"),
    *(chr(number) for number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)),
    *("\u200b", "\u2060", "\u2063", "\ufeff", "\u180e", "\ufff9", "\U000e0041", "\ud800", "\udfff"),
]
ORDINARY = [
    "Über alles",
    "第二章 – 100 %",
    "می‌خواهم",
    "👩‍👩‍👧",
    "שלום\u200f!",
    "co\u00adop",
    "[red]a[/red] :smile:",
    "a\u00a0b",
    "🇪🇺",
]


@pytest.mark.parametrize("character", HIDDEN, ids=lambda character: f"U+{ord(character):04X}")
def test_what_is_not_shown_is_refused_by_its_number_and_its_place(character: str) -> None:
    for lines in (False, True):
        with pytest.raises(InvalidRequest, match=rf"`title` holds U\+{ord(character):04X} \(character 3\)") as caught:
            check_shown(["good", f"ab{character}c"], what="title", lines=lines)
        assert caught.value.param == "title"
        assert str(caught.value).isprintable()
    assert not re.search(ONE_LINE, f"ab{character}c")
    assert character not in shown(f"a{character}b")
    assert escaped(f"a{character}b").isprintable()


@pytest.mark.parametrize("text", ORDINARY)
def test_what_languages_need_stays(text: str) -> None:
    check_shown([text], what="title")
    assert re.search(ONE_LINE, text)
    assert shown(text) == " ".join(text.split())
    assert escaped(text) == text


def test_lines_and_tabs_are_for_texts_of_several_lines() -> None:
    for text in ("a\nb", "a\tb", "a\n"):
        check_shown([text], what="summary", lines=True)
        with pytest.raises(InvalidRequest):
            check_shown([text], what="title")
        assert not re.search(ONE_LINE, text)
    assert escaped("a\n\tb") == "a\n\tb"


@pytest.mark.parametrize("field", ["title", "summary", "tags", "questions", "aliases"])
def test_every_field_of_a_descriptor_is_looked_at(field: str) -> None:
    value: str | list[str] = "a\u202eb" if field in ("title", "summary") else ["a", "a\u202eb"]
    with pytest.raises(InvalidRequest, match=f"`{field}` holds U\\+202E"):
        check_descriptor(**{field: value})  # type: ignore[arg-type]


@given(st.text(st.characters()))
def test_a_guessed_title_can_be_given_as_one(text: str) -> None:
    title = guess_title(text, "x")
    check_descriptor(title=title)
    assert len(title) <= 120


@given(st.text(st.characters()))
def test_no_control_or_override_passes_either_way(text: str) -> None:
    for made in (escaped(text), shown(text)):
        kinds = {unicodedata.category(character) for character in made if character not in "\n\t"}
        assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
        assert not set(made) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text(st.characters(), max_size=30))
def test_an_id_is_plain_ascii_or_refused(text: str) -> None:
    try:
        assert check_id(text).isascii()
    except InvalidRequest as error:
        assert str(error).isprintable()  # noqa: PT017 - either is right
    assert slug(text).isascii()
