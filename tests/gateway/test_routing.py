"""Questions without a document, as a client asks them: names that win, conversations that stay, and what is said of the choice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.gateway import Gateway

LEASE = "# Lease of the flat\n\nThe deposit is 2,400 euros. The meter is EL-40882. The tenant pays the rent."
MANUAL = "# Dehumidifier manual\n\nError E-17: empty the water tank. The warranty lasts two years."
POLICY = "# Expense policy\n\nTaxis need a receipt. Meals are paid up to forty euros."


@pytest.fixture
async def filled(gateway: Gateway) -> Gateway:
    for id_, text in (("lease", LEASE), ("manual", MANUAL), ("policy", POLICY)):
        await gateway.add(text, id=id_)
    return gateway


async def route(gateway: Gateway, question: str, *earlier: str) -> Any:
    return await gateway.json("POST", "/v1/route", json={"question": question, "earlier": earlier})


async def test_an_identifier_that_stands_in_one_document_finds_it(filled: Gateway) -> None:
    found = await route(filled, "Who pays for EL-40882, the warranty or the taxis or the meals?")
    assert (found["document"], found["score"]) == ("lease", 0.97)


async def test_an_alias_finds_its_document_from_the_moment_it_is_given(filled: Gateway) -> None:
    question = "Does contract 4711 say who needs a receipt for taxis?"
    assert (await route(filled, question))["document"] == "policy"
    changed = await filled.json("PATCH", "/v1/documents/lease", json={"aliases": ["Contract 4711"]})
    assert changed["aliases"] == ["Contract 4711"]
    assert (await route(filled, question))["document"] == "lease"
    await filled.json("PATCH", "/v1/documents/lease", json={"aliases": []})
    assert (await route(filled, question))["document"] == "policy"


async def test_an_alias_may_be_given_with_the_document(filled: Gateway) -> None:
    added = await filled.add("# Minutes\n\nThe board met.", id="minutes", aliases=["Blue Book"])
    assert added["aliases"] == ["Blue Book"]
    assert (await route(filled, "What about taxis in the Blue Book?"))["document"] == "minutes"


async def test_a_conversation_stays_with_its_document(filled: Gateway) -> None:
    question = "And how long?"
    assert (await route(filled, question))["decision"] == "no_match"
    stays = await route(filled, question, "How many euros is the deposit of the flat?")
    assert (stays["decision"], stays["document"]) == ("route", "lease")
    assert stays["candidates"][0]["document"] == "lease"


async def test_a_conversation_leaves_for_what_is_surely_about_another_document(filled: Gateway) -> None:
    left = await route(filled, "Error E-17: empty the water tank", "How many euros is the deposit of the flat?")
    assert left["document"] == "manual"
    back = await route(filled, "And how long?", "How many euros is the deposit of the flat?", "Error E-17: empty the water tank")
    assert back["document"] == "manual"


async def test_chat_goes_by_all_that_the_user_said(filled: Gateway) -> None:
    messages = [
        {"role": "user", "content": "How many euros is the deposit of the flat?"},
        {"role": "assistant", "content": "Error E-17: empty the water tank."},
        {"role": "user", "content": "And how long?"},
    ]
    async with filled.request("POST", "/v1/chat/completions", json={"messages": messages}) as response:
        assert response.status == 200
        assert response.headers["x-document-id"] == "lease"
    async with filled.request("POST", "/v1/chat/completions", json={"messages": messages[2:]}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "document_not_found"


async def test_only_the_last_questions_count(filled: Gateway) -> None:
    little = ["And how long?"] * 4
    assert (await route(filled, *little[:3], "How many euros is the deposit of the flat?"))["document"] == "lease"
    asked = await route(filled, little[0], "How many euros is the deposit of the flat?", *little[1:], "Why?")
    assert asked["decision"] == "no_match"


async def test_an_over_long_question_is_read_at_its_beginning_and_its_end(filled: Gateway) -> None:
    pasted = "lorem ipsum dolor " * 20_000
    found = await route(filled, f"What does EL-40882 mean here? {pasted}")
    assert found["document"] == "lease"
    assert (await route(filled, f"{pasted} and what is EL-40882?"))["document"] == "lease"
    assert (await route(filled, f"{pasted} EL-40882 {pasted}"))["score"] != 0.97
