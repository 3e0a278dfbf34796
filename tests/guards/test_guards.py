"""The guards' list is true: each stands where it says, and its tests are there. That they catch it: `make bench ARGS=guards`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.guards import Guard, guards

ROOT = Path(__file__).parents[2]


def test_guards_have_names_of_their_own() -> None:
    names = [guard.name for guard in guards()]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("guard", guards(), ids=lambda guard: guard.name)
def test_a_guard_stands_where_it_says_and_its_tests_are_there(guard: Guard) -> None:
    ast.parse(guard.without((ROOT / guard.path).read_text("utf-8")))  # else anything would fail without it
    for test in guard.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists()
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / path).read_text("utf-8")
