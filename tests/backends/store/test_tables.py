"""The column types' escapes; the contract's tests send every value through them."""

from __future__ import annotations

import doctest

import pytest

from backends.store import tables


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(tables)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("text", ["", "plain – naïve 中文 📚", "\0", "\\", "\\0000", "\ud800", "\ud83d\udcda", "\\\0\\d800"])
def test_escaping_is_undone_and_leaves_what_a_database_can_hold(text: str) -> None:
    safe = tables.escaped(text)
    assert tables.unescaped(safe) == text
    assert "\0" not in safe
    safe.encode()
