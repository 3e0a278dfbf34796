"""The predictor's bounds and indexes, whatever is asked: a state machine with bounds so narrow that they are met."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router import prediction
from router.prediction import Predictor

DAY_S = 86_400.0
MONDAY = 20_458 * DAY_S


class PredictorMachine(RuleBasedStateMachine):
    """Whatever is asked, with bounds so narrow that they are met."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor = Predictor()
        self.now = MONDAY

    @rule(
        tenant=st.sampled_from("xyz"),
        key=st.sampled_from("abcdefgh"),
        passed=st.sampled_from([0.0, 60.0, 7_200.0, DAY_S, 20 * DAY_S]),
    )
    def ask(self, tenant: str, key: str, passed: float) -> None:
        self.now += passed
        self.predictor.asked(tenant, key, self.now)

    @rule(key=st.sampled_from("abcdefgh"))
    def forget(self, key: str) -> None:
        self.predictor.forget(key)
        assert key not in {guess.key for guess in self.predictor.likely("x", self.now, 99)}

    @rule()
    def restart(self) -> None:
        self.predictor = Predictor.from_bytes(self.predictor.to_bytes())

    @invariant()
    def guesses_are_probabilities_of_distinct_documents(self) -> None:
        guesses = self.predictor.likely("x", self.now, 5, besides={"a"})
        assert len({guess.key for guess in guesses} - {"a"}) == len(guesses) <= 5
        assert all(0 <= guess.probability <= 1 and guess.why for guess in guesses)

    @invariant()
    def habits_of_an_hour_are_as_if_they_were_told_anew(self) -> None:
        self.predictor.likely("x", self.now, 5)
        for at, told in self.predictor._hourly.items():
            alive = {guess for guess, habit in told if self.predictor._habits.get(guess.key) is habit}
            assert alive == {guess for guess, _ in self.predictor._of_hour(at)}

    @invariant()
    def it_checks(self) -> None:
        self.predictor.check()


PredictorMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30)


@pytest.mark.usefixtures("narrow")
class TestPredictor(PredictorMachine.TestCase):  # type: ignore[misc,name-defined]
    pass


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in {
        "MAX_DOCUMENTS": 6,
        "MAX_TENANTS": 2,
        "MAX_ROWS": 10,
        "MAX_FOLLOWERS": 2,
        "MAX_POPULAR": 3,
        "FULL_COUNT": 4,
        "FULL_TRUST": 3.0,
    }.items():
        monkeypatch.setattr(prediction, name, bound)


def test_a_damaged_predictor_does_not_check(narrow: None) -> None:
    predictor = Predictor()
    for at_s, key in enumerate("abc"):
        predictor.asked("x", key, MONDAY + at_s)
    predictor._popular = {"gone": 1.0}
    with pytest.raises(AssertionError, match="forgotten"):
        predictor.check()
    predictor._rows["x", "a"].times["b"] = 9
    with pytest.raises(AssertionError, match="followed"):
        predictor.check()
    predictor._last.update(dict.fromkeys("uvw", ("a", MONDAY)))
    with pytest.raises(AssertionError, match="bounds"):
        predictor.check()
