"""A document that is longer than the model reads: kept in volumes, asked as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Ingestion
from tests.fakes.engine import FakeHost, Gate
from tests.fakes.gateway import CONTEXT, RESERVE, Gateway, eventually
from tests.fakes.store import MemoryStore

LIMIT = CONTEXT - RESERVE
TOPICS = {
    "Deposit": "The deposit is 2,400 euros and is paid before the keys change hands.",
    "Pets": "Cats are welcome, dogs need the written consent of the landlord.",
    "Garden": "Tenants water the roses and mow the lawn from April to October.",
    "Heating": "The boiler is serviced each autumn by the plumber of the house.",
    "Parking": "Bicycles stand in the cellar, motorcycles in the yard beside the gate.",
}
SETTINGS = Ingestion(answer_reserve_tokens=RESERVE, max_volumes=8)
PETS, GARDEN = "Are cats and dogs welcome?", "Who has to mow the lawn and water the roses?"


def chapter(topic: str, *, times: int = 30) -> str:
    return f"## {topic}\n\n" + f"{TOPICS[topic]} " * times + "\n\n"


def text(**changed: str) -> str:
    """About a volume a chapter: the fakes' tokens are bytes."""
    return "# House rules\n\n" + "".join(changed.get(topic, chapter(topic)) for topic in TOPICS)


TEXT = text()
SHORT = "# House rules\n\nBe kind. Cats and dogs are welcome."


def gateway(folder: Path, **more: Any) -> Gateway:
    return Gateway(folder, **{"ingestion": SETTINGS, **more})


async def shown(running: Gateway, name: str = "rules", **more: Any) -> Any:
    return await running.json("GET", f"/v1/documents/{name}", **more)


async def stored_ids(running: Gateway) -> set[str]:
    return {document.id for document in await running.store.documents()}


async def cleared(running: Gateway, *, volumes: int) -> None:
    """Only the document and so many volumes are left in the store."""

    async def holds() -> bool:
        return len(await stored_ids(running)) == 1 + volumes

    await eventually(holds)


async def test_it_is_read_shown_and_asked_as_one(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        added = await running.add(TEXT, id="rules", tags=["house"])
        assert added["state"] in ("pending", "reading")
        assert (added["job"]["document"], added["job"]["prefix_tokens"]) == ("rules", added["prefix_tokens"])
        (listed,) = (await running.json("GET", "/v1/documents"))["data"]
        assert (listed["id"], listed["title"], listed["state"], listed["job"]) == ("rules", "House rules", "ready", None)
        volumes = listed["volumes"]
        assert [volume["title"] for volume in volumes] == [
            f"House rules ({number} of 5): {topic}" for number, topic in enumerate(TOPICS, 1)
        ]
        assert all(volume["prefix_tokens"] <= LIMIT and volume["state"] == "ready" for volume in volumes)
        assert listed["prefix_tokens"] == sum(volume["prefix_tokens"] for volume in volumes) > LIMIT
        assert {tier["tier"]: tier["share"] for tier in listed["tiers"]}["disk"] == 1.0

        for named in ({"document": "rules"}, {}):
            for question, number in ((PETS, "2"), (GARDEN, "3")):
                answer = await running.ask(question, **named)
                assert (answer["headers"]["x-document-id"], answer["headers"]["x-document-volume"]) == ("rules", number)
                assert ("x-route-score" in answer["headers"]) == (not named)
                cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                assert cached >= volumes[int(number) - 1]["prefix_tokens"]
        usage = (await shown(running))["usage"]
        assert usage["questions"] == 4
        assert usage["prompt_tokens"] == usage["recomputed_tokens"] + usage["restored_tokens"] + usage["reused_tokens"]


async def test_a_named_document_is_never_ambiguous_and_the_conversation_stays_with_its_volume(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        for question in ("?", "Zzz qqq", "What is said here of everything?"):
            assert (await running.ask(question, document="rules"))["headers"]["x-document-id"] == "rules"
        for question, number in ((PETS, "2"), (GARDEN, "3")):
            said = ((question, "user"), ("They are.", "assistant"), ("When?", "user"))
            turns = [{"role": role, "content": words} for words, role in said]
            async with running.request("POST", "/v1/chat/completions", json={"document": "rules", "messages": turns}) as response:
                assert response.headers["x-document-volume"] == number


async def test_without_a_name_it_is_found_among_others_once(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        await running.add("# Expenses\n\nTaxis need a receipt, trains don't.", id="expenses")
        found = await running.json("POST", "/v1/route", json={"question": GARDEN})
        assert (found["decision"], found["document"], found["volume"]) == ("route", "rules", 3)
        assert [match["document"] for match in found["candidates"]] == ["rules", "expenses"]
        other = await running.json("POST", "/v1/route", json={"question": "Do taxis need a receipt?"})
        assert (other["document"], other["volume"]) == ("expenses", None)
        answer = await running.ask("Do taxis need a receipt?", document="expenses")
        assert "x-document-volume" not in answer["headers"]


async def test_a_sample_question_leads_to_the_volume_that_answers_it(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules", questions=["Is the plumber coming in autumn?"])
        found = await running.json("POST", "/v1/route", json={"question": "Is the plumber coming in autumn?"})
        assert (found["document"], found["volume"]) == ("rules", 4)
        await running.json("PATCH", "/v1/documents/rules", json={"questions": ["May I own a tarantula or dogs?"]})

        async def told() -> bool:
            found = await running.json("POST", "/v1/route", json={"question": "May I own a tarantula?"})
            return bool(found["volume"] == 2)

        await eventually(told)


async def test_it_cannot_be_asked_before_all_of_it_is_read(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        bodies = running.workers[0].bodies
        gate = Gate(running.workers[0], lambda _: len({body["cache_salt"] for body in bodies}) > 1)
        added = await running.add(TEXT, id="rules", ready=False)
        await gate.reached()
        document = await shown(running)
        assert (document["state"], document["job"]["state"]) == ("reading", "reading")
        assert [volume["state"] for volume in document["volumes"]] == ["ready", "pending", "pending", "pending", "pending"]
        assert 0 < document["job"]["read_tokens"] < document["job"]["prefix_tokens"] == document["prefix_tokens"]
        refused = await running.ask(PETS, document="rules", status=409)
        assert refused["error"]["code"] == "document_not_ready"
        assert refused["error"]["job"] == added["job"]["id"]
        await running.ask(PETS, status=404)
        gate.open()
        assert await running.finished(added["job"]["id"]) == "ready"
        await running.ask(PETS)


async def test_the_same_text_again_costs_nothing_and_an_edit_reads_one_volume(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        before, asked = await shown(running), len(running.workers[0].bodies)
        again = await running.json("POST", "/v1/documents", json={"id": "rules", "text": TEXT})
        assert again == before
        assert len(running.workers[0].bodies) == asked
        changed = text(Garden=chapter("Garden").replace("roses", "tulips"))
        await running.add(changed, id="rules")
        after = await shown(running)
        kept = [one["id"] == other["id"] for one, other in zip(before["volumes"], after["volumes"], strict=True)]
        assert kept == [True, True, False, True, True]
        assert len({body["cache_salt"] for body in running.workers[0].bodies[asked:]}) == 1
        await cleared(running, volumes=5)
        answer = await running.ask("Who waters the tulips?", document="rules")
        assert answer["headers"]["x-document-volume"] == "3"


async def test_the_old_volumes_answer_until_all_of_the_new_ones_are_read(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        before = await shown(running)
        gate = Gate(running.workers[0], lambda body: body["max_tokens"] == 1)
        shorter = text(Parking="", Garden=chapter("Garden").replace("roses", "tulips"))
        added = await running.add(shorter, id="rules", ready=False)
        await gate.reached()
        during = await shown(running)
        assert (during["state"], during["volumes"]) == ("ready", before["volumes"])
        assert during["job"]["state"] in ("pending", "reading")
        assert (await running.ask(GARDEN, max_tokens=5))["headers"]["x-document-volume"] == "3"
        gate.open()
        assert await running.finished(added["job"]["id"]) == "ready"
        assert len((await shown(running))["volumes"]) == 4
        await cleared(running, volumes=4)


@pytest.mark.parametrize("order", [(TEXT, SHORT), (SHORT, TEXT)], ids=["shrinks", "grows"])
async def test_it_becomes_one_plain_document_and_back(tmp_path: Path, order: tuple[str, str]) -> None:
    async with gateway(tmp_path).running() as running:
        for content in (*order, order[0]):
            await running.add(content, id="rules")
            volumes = 5 if content == TEXT else 0
            assert len((await shown(running))["volumes"]) == volumes
            assert ("x-document-volume" in (await running.ask(PETS))["headers"]) == bool(volumes)
            await cleared(running, volumes=volumes)


async def test_it_is_removed_with_all_its_volumes(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        await running.json("DELETE", "/v1/documents/rules")
        await running.ask(PETS, document="rules", status=404)
        assert (await running.json("GET", "/v1/documents"))["data"] == []

        async def gone() -> bool:
            return await stored_ids(running) == set() and await running.store.unlinked_versions() == []

        await eventually(gone)
        assert not any(running.host.disk.values())


async def test_what_is_changed_of_it_is_changed_of_its_volumes(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules", pinned=True)
        changed = await running.json("PATCH", "/v1/documents/rules", json={"title": "Rules", "summary": "Who mows."})
        assert changed["volumes"][1]["title"] == "Rules (2 of 5): Pets"

        async def told() -> bool:
            volumes = [document for document in await running.store.documents() if document.part is not None]
            return all(
                v.pinned and v.descriptor.summary == "Who mows." and v.descriptor.title.startswith("Rules: ") for v in volumes
            )

        await eventually(told)
        refused = await running.json("POST", "/v1/documents/rules/evict", status=409)
        assert "pinned" in refused["error"]["message"]


async def test_its_volumes_are_evicted_and_warmed_as_one_job(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        for verb, held in (("evict", 0.0), ("warm", 1.0)):
            job = await running.json("POST", f"/v1/documents/rules/{verb}", status=202)
            assert job["document"] == "rules"
            assert await running.finished(job["id"]) == "done"
            tiers = {tier["tier"]: tier["share"] for tier in (await shown(running))["tiers"]}
            assert tiers.get("ram", 0.0) == held
        jobs = (await running.json("GET", "/v1/jobs"))["data"]
        assert {job["document"] for job in jobs} == {"rules"}


async def test_another_tenant_sees_nothing_of_it_and_no_volume_has_a_name(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        other = await running.new_key("tenant-b")
        assert (await running.json("GET", "/v1/documents", key=other))["data"] == []
        await running.ask(PETS, status=404, key=other)
        volume = (await shown(running))["volumes"][0]["id"]
        for key in (running.key, other):
            await running.ask(PETS, document=volume, status=404, key=key)
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/evict")):
                await running.json(method, f"/v1/documents/{volume.replace('#', '%23')}{path}", status=404, key=key)


async def test_a_restart_in_the_middle_goes_on_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store, host = MemoryStore(), FakeHost()
    async with gateway(tmp_path, store=store, host=host).running() as first:
        await first.add(TEXT, id="rules")
        gate = Gate(first.workers[0], lambda body: body["max_tokens"] == 1)
        added = await first.add(text(Garden=chapter("Garden", times=29), Pets=chapter("Pets", times=29)), id="rules", ready=False)
        await gate.reached()
    async with gateway(tmp_path, store=store, host=host).running() as second:
        assert await second.finished(added["job"]["id"]) == "ready"
        await cleared(second, volumes=5)
        before = (await second.json("GET", "/v1/documents"))["data"]
        assert (await second.ask(GARDEN))["headers"]["x-document-volume"] == "3"
    async with gateway(tmp_path, store=store, host=host).running() as third:
        after = (await third.json("GET", "/v1/documents"))["data"]
        ids = [[volume["id"] for volume in listed[0]["volumes"]] for listed in (before, after)]
        assert ids[0] == ids[1]
        assert third.workers[0].prefilled_tokens == 0
        assert (await third.ask(PETS))["headers"]["x-document-volume"] == "2"


async def test_after_a_change_of_engine_each_volume_is_read_again(tmp_path: Path) -> None:
    store, host = MemoryStore(), FakeHost()
    async with gateway(tmp_path, store=store, host=host).running() as first:
        await first.add(TEXT, id="rules")
        ids = [volume["id"] for volume in (await shown(first))["volumes"]]
    async with gateway(tmp_path, store=store, host=host, versions={"vllm": "1", "lmcache": "0"}).running() as second:
        assert (await second.ask(PETS))["headers"]["x-document-volume"] == "2"

        async def renewed() -> bool:
            document = await shown(second)
            return not document["stale"] and document["job"] is None

        await eventually(renewed, within_s=15)
        assert [volume["id"] for volume in (await shown(second))["volumes"]] == ids
