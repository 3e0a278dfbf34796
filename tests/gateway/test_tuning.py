"""Routing fitted to a tenant's own questions: what it gains is said, what is no better is not kept, and no other tenant is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.shelf import tuning
from tests.fakes.engine import FakeHost
from tests.fakes.gateway import Gateway
from tests.fakes.store import MemoryStore

TOPICS = ("rent", "glove", "taxi", "berth", "pump", "badge")


async def fill(gateway: Gateway) -> None:
    """Documents whose opening misleads: it names the next one's topic. What each is about stands in the middle of it."""
    for number, topic in enumerate(TOPICS):
        other = TOPICS[(number + 1) % len(TOPICS)]
        middle = "\n\n".join(f"# Part {part}\n\n{'filler ' * 60}" for part in range(3))
        await gateway.add(f"# Of {other}\n\n{other} {other}\n\n{middle}\n\n# {topic}\n\n{topic} {topic} {topic} office", id=topic)


@pytest.fixture
async def filled(gateway: Gateway) -> Gateway:
    await fill(gateway)
    return gateway


def labelled(*, foreign: int = 6) -> list[dict[str, Any]]:
    known = [
        {"question": f"{words} {topic}?", "document": topic} for topic in TOPICS for words in ("office", "Which", "Whose", "Say")
    ]
    return known + [{"question": f"zebra number{number} xylophone", "document": None} for number in range(foreign)]


async def fit(gateway: Gateway, questions: list[dict[str, Any]], **more: Any) -> Any:
    return await gateway.json("POST", "/v1/route/fit", json={"questions": questions}, **more)


async def test_what_is_better_on_questions_held_out_is_kept_and_used(filled: Gateway) -> None:
    before = await filled.json("POST", "/v1/route", json={"question": "office glove?"})
    found = await fit(filled, labelled())
    assert found["kept"]
    assert (found["questions"], found["unanswerable"]) == (30, 6)
    assert found["after"]["top1"] >= found["before"]["top1"]
    assert found["after"]["calibration_error"] < found["before"]["calibration_error"]
    after = await filled.json("POST", "/v1/route", json={"question": "office glove?"})
    assert after["candidates"] != before["candidates"]
    assert await filled.json("DELETE", "/v1/route/fit") == {"was_fitted": True}
    assert await filled.json("POST", "/v1/route", json={"question": "office glove?"}) == before
    assert await filled.json("DELETE", "/v1/route/fit") == {"was_fitted": False}


async def test_what_was_fitted_outlives_a_restart(tmp_path: Path) -> None:
    store, host, question = MemoryStore(), FakeHost(), {"question": "office glove?"}
    async with Gateway(tmp_path, store=store, host=host).running() as first:
        await fill(first)
        shipped = await first.json("POST", "/v1/route", json=question)
        assert (await fit(first, labelled()))["kept"]
        fitted = await first.json("POST", "/v1/route", json=question)
    async with Gateway(tmp_path, store=store, host=host).running() as second:
        again = await second.json("POST", "/v1/route", json=question)
    assert scores_of(again) == pytest.approx(scores_of(fitted), abs=1e-3)
    assert scores_of(again) != pytest.approx(scores_of(shipped), abs=1e-3)


def scores_of(decision: Any) -> list[float]:
    return [candidate["score"] for candidate in decision["candidates"]]


async def test_what_is_no_better_is_not_kept(filled: Gateway) -> None:
    """What was fitted to all of these questions already is better at them than what is fitted to four fifths."""
    assert (await fit(filled, labelled()))["kept"]
    stored = await filled.store.state("routing:tenant-a")
    assert not (await fit(filled, labelled()))["kept"]
    assert await filled.store.state("routing:tenant-a") == stored


async def test_another_tenants_routing_stays_as_it_was(filled: Gateway) -> None:
    other = await filled.new_key("tenant-b")
    await filled.add("# Glove\n\nglove office", id="glove", key=other)
    question = {"question": "office glove?"}
    before = await filled.json("POST", "/v1/route", json=question, key=other)
    assert (await fit(filled, labelled()))["kept"]
    assert await filled.json("POST", "/v1/route", json=question, key=other) == before


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([{"question": "rent?", "document": "rent"}] * 19, "19 questions with a document are too few"),
        ([{"question": "rent?", "document": "rent"}] * 30, "about two documents or more"),
        ([{"question": "rent?", "document": "nowhere"}] * 30, "not there or not read yet: nowhere"),
        ([], "`array` of length >= 1"),
    ],
)
async def test_questions_that_cannot_be_fitted_to_are_refused(filled: Gateway, questions: list[dict[str, Any]], words: str) -> None:
    refused = await fit(filled, questions, status=400)
    assert words in refused["error"]["message"]


async def test_questions_that_would_not_fit_in_memory_are_refused_with_how_many_would(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MAX_PAIRS", 6 * 29)
    refused = await fit(filled, labelled(), status=400)
    assert "30 questions about 6 documents are too many to fit routing to; give at most 29." in refused["error"]["message"]


async def test_another_tenants_document_is_as_unknown_as_none(filled: Gateway) -> None:
    other = await filled.new_key("tenant-b")
    await filled.add("# Secret\n\nsecret plans", id="secret", key=other)
    questions = [{"question": "plans?", "document": "secret"}] * 30
    foreign = await fit(filled, questions, status=400)
    unknown = await fit(filled, [{**one, "document": "secreX"} for one in questions], status=400)
    assert foreign["error"]["message"].replace("secret", "secreX") == unknown["error"]["message"]


async def test_a_key_that_may_only_ask_can_not_change_routing(filled: Gateway) -> None:
    asking = await filled.new_key("tenant-a", scopes=("ask",))
    await fit(filled, labelled(), key=asking, status=403)
    await filled.json("DELETE", "/v1/route/fit", key=asking, status=403)


@pytest.mark.parametrize(
    "stored", [b"\x00", b'{"full": 1}', b'{"full":{"weights":[1],"sharpness":1,"first":[],"few":[]},"lexical":null}']
)
async def test_stored_parameters_that_do_not_fit_any_more_are_as_if_not_there(filled: Gateway, stored: bytes) -> None:
    await filled.store.put_state("routing:tenant-a", stored, 1.0)
    found = await filled.json("POST", "/v1/route", json={"question": "office glove?"})
    assert found["decision"] in ("route", "ambiguous", "no_match")
    assert await filled.json("DELETE", "/v1/route/fit") == {"was_fitted": False}
