"""The predictor: what it guesses after what, at which hour, for whom; its bounds; and that it survives as bytes."""

from __future__ import annotations

import msgspec
import pytest

from router import prediction
from router.prediction import Guess, Predictor

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
MONDAY = 20_458 * DAY_S


def visits(predictor: Predictor, tenant: str, keys: str, *, start: float = MONDAY, pause: float = MINUTE_S) -> float:
    """The tenant asks each document once, one after another; when it is done."""
    now = start
    for key in keys:
        predictor.asked(tenant, key, now)
        now += pause
    return now


def by_key(guesses: tuple[Guess, ...]) -> dict[str, Guess]:
    return {guess.key: guess for guess in guesses}


def following(predictor: Predictor, now: float, tenant: str | None = "acme") -> dict[str, Guess]:
    """Guesses from what follows what alone."""
    predictor._popular.clear()
    return by_key(predictor.likely(tenant, now, 50))


def test_what_followed_before_is_guessed_again() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 30 + "a")
    (guess,) = predictor.likely("acme", now, 1, besides={"a"})
    assert guess.key == "b"
    assert guess.probability > 0.5
    assert guess.why == "followed a 30 of 30 times"


def test_what_sometimes_followed_is_less_likely() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ababac" * 30 + "a")
    guesses = following(predictor, now)
    assert guesses["b"].probability > 0.5 > guesses["c"].probability > 0.1


def test_a_tenants_sequence_is_guessed_for_that_tenant_alone() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 30 + "a")
    predictor.asked("other", "a", now)
    for tenant in ("other", "unknown", None):
        assert following(predictor, now, tenant) == {}


def test_questions_at_random_give_no_confidence_however_often_one_followed_another() -> None:
    """Every document follows every other equally often, by a rule that looks like chance."""
    predictor, now, at = Predictor(), MONDAY, 1
    for _ in range(3_000):
        at = at * 75 % 65_537
        predictor.asked("acme", str(at % 50), now)
        now += MINUTE_S
    guesses = following(predictor, now)
    assert guesses
    assert max(guess.probability for guess in guesses.values()) < 0.15


def test_what_is_asked_after_an_hours_silence_follows_nothing() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 30, pause=2 * HOUR_S)
    predictor.asked("acme", "a", now)
    assert not any("followed" in guess.why for guess in following(predictor, now).values())


def test_a_tenant_that_has_been_silent_is_guessed_nothing_for() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 30 + "a")
    assert following(predictor, now)
    assert following(predictor, now + 2 * HOUR_S) == {}


def test_a_document_asked_again_follows_nothing_yet() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "aaab" * 30 + "a")
    assert following(predictor, now)["b"].why == "followed a 30 of 30 times"


def test_a_habit_changes() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 100)
    now = visits(predictor, "acme", "ac" * 100 + "a", start=now)
    guesses = following(predictor, now)
    assert guesses["c"].probability > 0.5
    assert "b" not in guesses


def test_only_so_many_followers_are_kept_the_most_frequent_among_them() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "".join(f"abababab{key}" for key in "cdefghijklm"))
    now = visits(predictor, "acme", "a" + "a".join("nopqrstuvwxyz") + "a", start=now)
    row = predictor._rows["acme", "a"]
    assert "b" in row.times
    assert len(row.times) <= prediction.MAX_FOLLOWERS
    predictor.check()


def daily(predictor: Predictor, key: str, days: int, *, hour: int = 9) -> None:
    for day in range(days):
        predictor.asked("acme", key, MONDAY + day * DAY_S + hour * HOUR_S + 20 * MINUTE_S)


def at(day: int, hour: float) -> float:
    return MONDAY + day * DAY_S + hour * HOUR_S


def test_what_is_asked_every_morning_is_guessed_before_the_morning() -> None:
    predictor = Predictor()
    daily(predictor, "news", 4)
    (guess,) = predictor.likely(None, at(4, 8.8), 9)
    assert guess == Guess("news", 0.8, "asked around 09:00 UTC on 4 of 4 days", pytest.approx(1.2 * HOUR_S), "hour")
    assert predictor.likely(None, at(4, 8.8), 9, besides={"news"}) == ()
    assert predictor.likely(None, at(4, 8.5), 9) == ()
    assert predictor.likely(None, at(4, 10.1), 9) == ()


def test_less_of_the_hour_left_is_less_likely() -> None:
    predictor = Predictor()
    daily(predictor, "news", 4)
    assert predictor.likely(None, at(4, 9.75), 9)[0].probability == pytest.approx(0.2)


def test_two_days_are_no_habit() -> None:
    predictor = Predictor()
    daily(predictor, "news", 2)
    assert predictor.likely(None, at(2, 9), 9) == ()


def test_today_is_not_over_and_does_not_count() -> None:
    predictor = Predictor()
    daily(predictor, "news", 3)
    assert by_key(predictor.likely(None, at(3, 9), 9))["news"].probability == 0.75
    predictor._popular.clear()
    assert predictor.likely(None, at(2, 9.5), 9) == ()


def test_many_questions_in_one_morning_are_no_habit() -> None:
    predictor = Predictor()
    for minute in range(50):
        predictor.asked("acme", "news", at(0, 9) + minute * MINUTE_S)
    assert not any("around" in guess.why for guess in predictor.likely(None, at(1, 9), 9))


def test_a_habit_fades_with_the_days_and_is_forgotten_after_the_last_that_count() -> None:
    predictor = Predictor()
    daily(predictor, "news", 5)
    assert by_key(predictor.likely(None, at(9, 9), 9))["news"].why == "asked around 09:00 UTC on 5 of 9 days"
    assert predictor.likely(None, at(25, 9), 9) == ()
    predictor.asked("acme", "news", at(25, 15))
    assert not any(predictor._at_hour)


def test_the_hour_that_runs_over_midnight_is_the_next_days() -> None:
    predictor = Predictor()
    daily(predictor, "backup", 4, hour=0)
    assert predictor.likely(None, at(3, 23.9), 9)[0].why == "asked around 00:00 UTC on 4 of 4 days"


def test_what_is_much_asked_is_guessed_for_everybody_and_less_from_day_to_day() -> None:
    predictor = Predictor()
    for minute in range(48):
        predictor.asked("acme", "handbook", MONDAY + minute * 10 * MINUTE_S)
    now = MONDAY + 8 * HOUR_S
    (guess,) = predictor.likely("other", now, 9)
    assert guess.why == "asked about 41 times a day of late"
    assert guess.probability > 0.8
    assert predictor.likely(None, now + 2 * DAY_S, 9)[0].probability < 0.3
    assert predictor.likely(None, now + 4 * DAY_S, 9) == ()


def test_the_most_asked_make_room_for_one_another() -> None:
    predictor = Predictor()
    for round_ in range(3):
        for number in range(100):
            predictor.asked("acme", f"d{number}", MONDAY + (round_ * 100 + number) * MINUTE_S)
    for _ in range(9):
        predictor.asked("acme", "top", MONDAY + 5 * HOUR_S)
    assert len(predictor._popular) == prediction.MAX_POPULAR
    assert predictor.likely(None, MONDAY + 5 * HOUR_S, 1)[0].key == "top"
    predictor.asked("acme", "seldom", MONDAY + 5 * HOUR_S)
    assert "seldom" not in predictor._popular
    predictor.check()


def test_the_best_reason_is_given_and_at_most_so_many_guesses() -> None:
    predictor = Predictor()
    now = visits(predictor, "acme", "ab" * 100 + "a")
    guesses = predictor.likely("acme", now, 9)
    assert sorted(by_key(guesses)) == ["a", "b"]
    assert [guess.probability for guess in guesses] == sorted((guess.probability for guess in guesses), reverse=True)
    assert predictor.likely("acme", now, 1) == guesses[:1]
    assert predictor.likely("acme", now, 0) == ()


def test_a_forgotten_document_is_not_guessed() -> None:
    predictor = Predictor()
    daily(predictor, "b", 4)
    now = visits(predictor, "acme", "ab" * 30 + "a", start=at(4, 8.5))
    predictor.forget("b")
    predictor.forget("never asked")
    assert "b" not in by_key(predictor.likely("acme", now, 9))
    predictor.check()


def test_it_survives_as_bytes() -> None:
    predictor = Predictor()
    daily(predictor, "news", 4)
    now = visits(predictor, "acme", "ab" * 30 + "a", start=at(4, 8.0))
    copy = Predictor.from_bytes(predictor.to_bytes())
    assert repr(copy) == repr(predictor) == "<Predictor of 3 documents, 3 with followers, 1 tenants>"
    assert copy.likely("acme", now, 9) == predictor.likely("acme", now, 9) != ()
    assert copy.to_bytes() == predictor.to_bytes()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"form": 1})])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a predictor"):
        Predictor.from_bytes(data)


def test_bytes_of_another_form_are_refused() -> None:
    other = msgspec.msgpack.encode({**msgspec.msgpack.decode(Predictor().to_bytes()), "form": 2})
    with pytest.raises(ValueError, match="form 2"):
        Predictor.from_bytes(other)
