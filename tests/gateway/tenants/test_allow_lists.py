"""Keys that are narrowed to some documents: what is kept from them is to them as what is not there, in every way to look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from gateway.sections import Gathering
from gateway.shelf.classifier import Classifier
from router.documents import DocumentId, TenantId
from router.viewers import Viewer
from tests.fakes.gateway import Gateway

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
PLAN = "# Plan\n\nThe takeover of Zebra Ltd costs nine million euros, and its deposit is one."
LABELLED = [{"question": f"Question {n}?", "document": "lease" if n % 2 else "plan"} for n in range(30)]


class House(NamedTuple):
    """`by_id` sees the lease, `by_tag` what is tagged `open`: the lease and the house rules, which are shared."""

    gateway: Gateway
    by_id: str
    by_tag: str


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("house")
    async with Gateway(folder, gathering=Gathering(max_documents=4)).running() as gateway:
        await gateway.add(LEASE, id="lease", tags=["open", "flat"])
        await gateway.add(PLAN, id="plan", tags=["secret"])
        await gateway.add("# Rules\n\nNo noise after ten.", id="rules", tags=["open"], shared=True)
        await gateway.add("# Menu\n\nSoup.", id="menu", shared=True)
        by_id = await gateway.new_key("tenant-a", documents=("lease", "nowhere"))
        yield House(gateway, by_id, await gateway.new_key("tenant-a", tags=("open", "unused")))


def index_of(gateway: Gateway) -> Classifier:
    found: Classifier = gateway.apps.tenants.dependencies["classifier"].dependency()  # type: ignore[union-attr]
    return found


def keys(house: House) -> list[tuple[str, list[str]]]:
    return [(house.by_id, ["lease"]), (house.by_tag, ["lease", "rules"]), (house.gateway.key, ["lease", "menu", "plan", "rules"])]


async def test_a_list_holds_what_the_key_is_narrowed_to(house: House) -> None:
    for key, seen in keys(house):
        listed = (await house.gateway.json("GET", "/v1/documents", key=key))["data"]
        assert [document["id"] for document in listed] == seen


async def test_a_document_that_is_kept_from_the_key_is_answered_as_one_that_is_not_there(house: House) -> None:
    async def answers(name: str, key: str) -> list[Any]:
        question: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}]}
        calls: list[tuple[str, str, Any]] = [
            ("GET", f"/v1/documents/{name}", None),
            ("PATCH", f"/v1/documents/{name}", {"title": "x"}),
            ("DELETE", f"/v1/documents/{name}", None),
            ("POST", f"/v1/documents/{name}/warm", {}),
            ("POST", f"/v1/documents/{name}/evict", {"tier": "ram"}),
            ("POST", "/v1/chat/completions", question | {"document": name}),
            ("POST", "/v1/chat/completions", question | {"documents": ["lease", name]}),
        ]
        found = []
        for method, path, body in calls:
            async with house.gateway.request(method, path, json=body, key=key) as response:
                text = (await response.text()).replace(name, "NAME")
                found.append((response.status, text, sorted(set(response.headers) - {"x-request-id", "date"})))
        return found

    for key in (house.by_id, house.by_tag):
        forbidden, unknown = await answers("plan", key), await answers("plum", key)
        assert forbidden == unknown
        assert {status for status, *_ in forbidden} == {404}


async def test_what_the_key_sees_it_may_ask_change_and_move(house: House) -> None:
    for key in (house.by_id, house.by_tag):
        assert (await house.gateway.ask("Why?", document="lease", key=key))["choices"]
        await house.gateway.json("PATCH", "/v1/documents/lease", json={"summary": "Rent."}, key=key)
        await house.gateway.json("POST", "/v1/documents/lease/evict", json={"tier": "ram"}, key=key, status=202)


async def test_a_question_finds_only_what_the_key_may_see(house: House) -> None:
    question = "What does the takeover of Zebra Ltd cost?"
    assert (await house.gateway.ask(question))["headers"]["x-document-id"] == "plan"
    for key, seen in keys(house)[:2]:
        refused = await house.gateway.ask(question, key=key, status=404)
        assert {candidate["document"] for candidate in refused["error"]["candidates"]} <= set(seen)
        assert "Zebra" not in str(refused)
        assert (await house.gateway.ask("What is the deposit?", key=key))["headers"]["x-document-id"] == "lease"


async def test_a_dry_run_ranks_only_what_the_key_may_see(house: House) -> None:
    for key, seen in keys(house):
        routed = await house.gateway.json("POST", "/v1/route", json={"question": "takeover of Zebra"}, key=key)
        assert {candidate["document"] for candidate in routed["candidates"]} == set(seen)


async def test_what_is_kept_from_the_key_changes_no_score(house: House) -> None:
    """Else the statistics of words would tell whether a word stands in what the key may not see."""
    scores = []
    for text in ("# Other\n\nNothing.", "# Other\n\nThe deposit, the deposit and once more the deposit."):
        await house.gateway.add(text, id="other")
        routed = await house.gateway.json("POST", "/v1/route", json={"question": "What is the deposit?"}, key=house.by_tag)
        scores.append([(one["document"], one["score"]) for one in routed["candidates"]])
    await house.gateway.json("DELETE", "/v1/documents/other")
    assert scores[0] == scores[1]


async def test_the_jobs_of_what_is_kept_from_the_key_are_not_there(house: House) -> None:
    gateway = house.gateway
    job = (await gateway.json("POST", "/v1/documents/plan/evict", json={"tier": "ram"}, status=202))["id"]
    assert job in [one["id"] for one in (await gateway.json("GET", "/v1/jobs"))["data"]]
    for key in (house.by_id, house.by_tag):
        assert job not in [one["id"] for one in (await gateway.json("GET", "/v1/jobs", key=key))["data"]]
        await gateway.json("GET", f"/v1/jobs/{job}", key=key, status=404)
        await gateway.json("GET", f"/v1/jobs/{job}/events", key=key, status=404)


async def test_a_text_may_be_put_only_where_the_key_sees(house: House) -> None:
    gateway, text = house.gateway, LEASE + " And so on."
    answers = []
    for name in ("plan", "plum"):
        refused = await gateway.json("POST", "/v1/documents", json={"id": name, "text": text}, key=house.by_id, status=403)
        answers.append(str(refused).replace(name, "NAME"))
        by_tag = {"id": name, "text": text, "tags": ["open"]}
        refused = await gateway.json("POST", "/v1/documents", json=by_tag, key=house.by_tag, status=403)
        answers.append(str(refused).replace(name, "NAME"))
    assert len(set(answers)) == 1
    assert "narrowed" in answers[0]
    assert (await gateway.json("GET", "/v1/documents/plan"))["tags"] == ["secret"]
    await gateway.json("GET", "/v1/documents/plum", status=404)
    await gateway.add(text, id="lease", tags=["open"], key=house.by_tag)
    await gateway.add(text + " Amen.", id="nowhere", key=house.by_id)
    await gateway.json("DELETE", "/v1/documents/nowhere", key=house.by_id)


async def test_a_shared_document_does_not_show_in_the_place_of_ones_own_that_is_kept_from_the_key(house: House) -> None:
    gateway = house.gateway
    await gateway.add("# Rules\n\nOnly ours.", id="rules", tags=["secret"])
    await gateway.json("GET", "/v1/documents/rules", key=house.by_tag, status=404)
    listed = (await gateway.json("GET", "/v1/documents", key=house.by_tag))["data"]
    assert [document["id"] for document in listed] == ["lease"]
    await gateway.json("DELETE", "/v1/documents/rules")
    assert (await gateway.json("GET", "/v1/documents/rules", key=house.by_tag))["shared"] is True


async def test_routing_is_not_fitted_by_a_key_that_sees_a_part(house: House) -> None:
    for key in (house.by_id, house.by_tag):
        refused = await house.gateway.json("POST", "/v1/route/fit", json={"questions": LABELLED}, key=key, status=403)
        assert "narrowed" in refused["error"]["message"]
        await house.gateway.json("DELETE", "/v1/route/fit", key=key, status=403)


async def test_a_tag_that_is_taken_away_closes_the_document_at_the_next_question(house: House) -> None:
    gateway = house.gateway
    await gateway.add("# Parking\n\nPark behind the house.", id="parking", tags=["open"])
    assert (await gateway.ask("Where do I park?", key=house.by_tag))["headers"]["x-document-id"] == "parking"
    await gateway.json("PATCH", "/v1/documents/parking", json={"tags": []})
    await gateway.json("GET", "/v1/documents/parking", key=house.by_tag, status=404)
    refused = await gateway.ask("Where do I park?", key=house.by_tag, status=404)
    assert "parking" not in str(refused["error"]["candidates"])
    await gateway.json("DELETE", "/v1/documents/parking")


async def test_keys_that_see_the_same_are_matched_with_the_same_index(house: House) -> None:
    classifier, catalog = index_of(house.gateway), house.gateway.apps.tenants.dependencies["shelf"].dependency().catalog  # type: ignore[union-attr]
    lists = [frozenset({DocumentId(name) for name in names}) for names in (("lease", "menu"), ("menu", "lease"))]
    one, other = [await classifier._views.of(catalog, Viewer(TenantId("tenant-a"), each)) for each in lists]
    assert one is other
    assert [document.id for document in one.documents] == ["lease", "menu"]
