"""Errors carry what their reader needs to act."""

from __future__ import annotations

import pytest

from router import errors
from router.errors import DocumentTooLong, EngineFailed, EngineUnavailable, KvshelfError, NotFound

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KvshelfError)]


def test_an_error_says_which_parameter_it_is_about() -> None:
    assert NotFound("No such document.", param="document").param == "document"
    assert NotFound("No such document.").param is None


def test_a_refusal_for_length_carries_both_numbers() -> None:
    error = DocumentTooLong("Too long.", tokens=9000, limit=8192, param="messages")
    assert (error.tokens, error.limit, error.param) == (9000, 8192, "messages")


def test_an_engine_that_can_not_answer_now_says_when_to_come_back() -> None:
    assert EngineUnavailable("All are full.").retry_after_s == 5
    assert EngineUnavailable("All are full.", retry_after_s=1).retry_after_s == 1


@pytest.mark.parametrize("started", [True, False])
def test_a_broken_answer_says_whether_it_had_begun(*, started: bool) -> None:
    error = EngineFailed("It broke off.", started=started)
    assert error.started is started
    assert str(error) == "It broke off."


def test_every_kind_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) > 8
    assert len(set(codes)) == len(codes)
