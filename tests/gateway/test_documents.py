"""Adding, describing and removing documents over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.engine import CHUNK, FakeWorker
from tests.fakes.gateway import Gateway, eventually

LEASE = "# Lease of the flat\n\nThe deposit is 2,400 euros. The rent is 1,200 euros."


@pytest.fixture(scope="module")
async def library(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One gateway for tests that each use ids of their own."""
    async with Gateway(tmp_path_factory.mktemp("library")).running() as running:
        yield running


async def post_raw(gateway: Gateway, body: str | bytes, content_type: str, *, status: int = 202, **query: str) -> Any:
    headers = {"content-type": content_type}
    return await gateway.json("POST", "/v1/documents", params=query, data=body, headers=headers, status=status)


def readings(worker: FakeWorker) -> list[dict[str, Any]]:
    """The bodies of readings: growing prefixes, then the question that verifies. Live questions may answer at length."""
    return [body for body in worker.bodies if body["max_tokens"] == 1]


# --- adding


async def test_a_document_is_added_as_json_and_shown_as_it_was_given(library: Gateway) -> None:
    fields = {"title": "The lease", "summary": "A flat.", "tags": ["housing"], "questions": ["What is the deposit?"]}
    added = await library.json("POST", "/v1/documents", json={"id": "json", "text": LEASE, **fields}, status=202)
    assert added["state"] == "pending"
    assert added["job"]["document"] == "json"
    assert await library.finished(added["job"]["id"]) == "ready"
    shown = await library.json("GET", "/v1/documents/json")
    assert {name: shown[name] for name in fields} == fields
    assert (shown["object"], shown["source"], shown["shared"]) == ("document", "api", False)
    assert (shown["state"], shown["job"]) == ("ready", None)
    assert len(LEASE) < shown["document_tokens"] <= shown["prefix_tokens"]
    assert shown["prefix_tokens"] % CHUNK == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/markdown", "text/markdown; charset=utf-8", "application/octet-stream"]
)
async def test_a_document_is_added_as_the_text_itself(library: Gateway, content_type: str) -> None:
    name = "raw-" + "".join(letter for letter in content_type if letter.isalpha())
    added = await post_raw(library, LEASE, content_type, id=name, title="From the query")
    assert await library.finished(added["job"]["id"]) == "ready"
    shown = await library.json("GET", f"/v1/documents/{name}")
    assert shown["title"] == "From the query"
    assert (await library.ask("What is the deposit?", document=name))["choices"]


async def test_windows_newlines_and_a_byte_order_mark_make_the_same_document(library: Gateway) -> None:
    plain = await post_raw(library, LEASE, "text/plain", id="newlines")
    await library.finished(plain["job"]["id"])
    windows = ("\ufeff" + LEASE.replace("\n", "\r\n") + "\r\n").encode()
    again = await post_raw(library, windows, "text/plain", id="newlines", status=200)
    assert again["title"] == plain["title"] == "Lease of the flat"
    assert again["prefix_tokens"] == plain["prefix_tokens"]


async def test_a_fresh_document_is_pending_then_ready_and_stands_in_the_list(gateway: Gateway) -> None:
    assert await gateway.json("GET", "/v1/documents") == {"data": [], "object": "list"}
    for name in ("b", "a"):
        await gateway.add(f"{LEASE} {name}", id=name)
    listed = (await gateway.json("GET", "/v1/documents"))["data"]
    assert [document["id"] for document in listed] == ["a", "b"]
    assert listed[0] == await gateway.json("GET", "/v1/documents/a")


async def test_an_id_is_made_from_the_title(library: Gateway) -> None:
    added = await library.add(LEASE, title="  Flat №7: Lease (2026)!  ")
    assert added["id"] == "flat-no7-lease-2026"


async def test_a_title_is_the_texts_first_heading_where_none_is_given(library: Gateway) -> None:
    added = await post_raw(library, "\ufeff\n\n## Rules of the house ##\n\nNo shoes.".encode(), "text/markdown")
    assert (added["id"], added["title"]) == ("rules-of-the-house", "Rules of the house")


async def test_titles_without_a_latin_letter_give_each_document_an_id_of_its_own(library: Gateway) -> None:
    first = await library.add("第一章\n\n内容。")
    second = await library.add("第二章\n\n内容。")
    assert first["id"] != second["id"]
    assert (await library.json("POST", "/v1/documents", json={"text": "第一章\n\n内容。"}))["id"] == first["id"]


# --- the same again


async def test_the_same_content_again_is_200_and_not_read_again(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease", title="Lease")
    bodies = len(gateway.workers[0].bodies)
    again = await gateway.json(
        "POST", "/v1/documents", json={"id": "lease", "text": f"\n{LEASE}\n\n", "title": "Lease"}, status=200
    )
    assert (again["state"], again["job"]) == ("ready", None)
    renamed = await gateway.json("POST", "/v1/documents", json={"id": "lease", "text": LEASE, "title": "Renamed"}, status=200)
    assert renamed["title"] == (await gateway.json("GET", "/v1/documents/lease"))["title"] == "Renamed"
    assert len(gateway.workers[0].bodies) == bodies


async def test_a_text_that_is_taken_back_is_found_by_what_was_told_with_it(gateway: Gateway) -> None:
    """The version that answers goes on, but what is told of the document has changed since it was learnt."""
    await gateway.add("# One\n\nThe heating is old.", id="one")
    await gateway.add(LEASE, id="lease")
    gateway.workers[0].problem = "is not up yet"
    told = {"id": "lease", "title": "Lease", "questions": ["Who repairs the heating?"]}
    await gateway.add("Another text.", ready=False, **told)
    again = await gateway.json("POST", "/v1/documents", json={"text": LEASE, **told})
    assert (again["state"], again["job"]) == ("ready", None)
    assert (await gateway.json("POST", "/v1/route", json={"question": "Who repairs the heating?"}))["document"] == "lease"


async def test_the_same_document_posted_fifty_times_at_once_is_one_prefill(gateway: Gateway) -> None:
    body = {"id": "lease", "text": LEASE}
    added = await asyncio.gather(*(gateway.json("POST", "/v1/documents", json=body, status=202) for _ in range(50)))
    assert len({document["job"]["id"] for document in added}) == 1
    assert await gateway.finished(added[0]["job"]["id"]) == "ready"
    *segments, verification = [len(reading["prompt"]) for reading in readings(gateway.workers[0])]
    assert segments == sorted(set(segments))
    assert segments[-1] == added[0]["prefix_tokens"] < verification
    assert len({reading["cache_salt"] for reading in readings(gateway.workers[0])}) == 1
    assert gateway.workers[0].prefilled_tokens < added[0]["prefix_tokens"] + verification - segments[-1] + CHUNK * 2


# --- describing


async def test_a_changed_descriptor_changes_routing_without_a_new_reading(gateway: Gateway) -> None:
    await gateway.add("# One\n\nThe heating is old.", id="one")
    await gateway.add("# Two\n\nTaxis need a receipt.", id="two")
    question = {"question": "Who repairs the heating?"}
    assert (await gateway.json("POST", "/v1/route", json=question))["document"] == "one"
    bodies = len(gateway.workers[0].bodies)
    changes = {
        "title": "Heating",
        "summary": "Who repairs the heating.",
        "tags": ["repairs"],
        "questions": ["Who repairs the heating?"],
    }
    changed = await gateway.json("PATCH", "/v1/documents/two", json=changes)
    assert {name: changed[name] for name in changes} == changes
    routed = await gateway.json("POST", "/v1/route", json=question)
    assert (routed["decision"], routed["document"]) == ("route", "two")
    assert len(gateway.workers[0].bodies) == bodies


async def test_a_change_leaves_what_it_does_not_name(library: Gateway) -> None:
    await library.add(LEASE, id="partly", title="Before", summary="Kept.", tags=["kept"])
    changed = await library.json("PATCH", "/v1/documents/partly", json={"title": "After"})
    assert (changed["title"], changed["summary"], changed["tags"]) == ("After", "Kept.", ["kept"])


async def test_a_descriptor_changed_during_the_reading_counts_when_it_is_ready(gateway: Gateway) -> None:
    gateway.workers[0].problem = "is not up yet"
    added = await gateway.add(LEASE, id="lease", ready=False)
    await gateway.json("PATCH", "/v1/documents/lease", json={"questions": ["Who repairs the heating?"]})
    gateway.workers[0].problem = None
    assert await gateway.finished(added["job"]["id"]) == "ready"
    routed = await gateway.json("POST", "/v1/route", json={"question": "Who repairs the heating?"})
    assert routed["document"] == "lease"


# --- removing


async def test_a_removed_document_is_gone_everywhere(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    salt = readings(gateway.workers[0])[0]["cache_salt"]
    assert await gateway.json("DELETE", "/v1/documents/lease") == {"id": "lease", "deleted": True, "object": "document"}
    assert (await gateway.json("GET", "/v1/documents"))["data"] == []
    await gateway.json("GET", "/v1/documents/lease", status=404)
    await gateway.json("DELETE", "/v1/documents/lease", status=404)
    assert (await gateway.ask("What is the deposit?", document="lease", status=404))["error"]["code"] == "not_found"
    assert (await gateway.ask("What is the deposit?", status=404))["error"]["candidates"] == []
    await eventually(lambda: gateway.kv_server.deleted == [salt])
    assert salt not in gateway.host.disk


async def test_a_document_removed_while_it_is_read_is_read_no_further(gateway: Gateway) -> None:
    gateway.workers[0].problem = "is not up yet"
    added = await gateway.add(LEASE, id="lease", ready=False)
    await gateway.json("DELETE", "/v1/documents/lease")
    await gateway.json("GET", f"/v1/jobs/{added['job']['id']}", status=404)
    gateway.workers[0].problem = None
    await gateway.add("Another one.", id="other")
    assert len({reading["cache_salt"] for reading in readings(gateway.workers[0])}) == 1
    assert [document["id"] for document in (await gateway.json("GET", "/v1/documents"))["data"]] == ["other"]


async def test_a_removed_document_can_be_added_again(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.json("DELETE", "/v1/documents/lease")
    await gateway.add(LEASE, id="lease")
    assert (await gateway.ask("What is the deposit?", document="lease"))["choices"]


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {"title": "x"}), ("DELETE", None)])
async def test_an_unknown_id_is_404_and_says_where_to_look(library: Gateway, method: str, body: Any) -> None:
    error = (await library.json(method, "/v1/documents/nowhere", json=body, status=404))["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "not_found", "document")
    assert "'nowhere'" in error["message"]
    assert "GET /v1/documents" in error["message"]


async def test_an_unknown_job_is_404(library: Gateway) -> None:
    for path in ("/v1/jobs/nowhere", "/v1/jobs/nowhere/events"):
        error = (await library.json("GET", path, status=404))["error"]
        assert (error["code"], error["param"]) == ("not_found", "job")


async def test_a_document_says_where_the_tokens_of_its_questions_came_from(gateway: Gateway) -> None:
    added = await gateway.add(LEASE, id="lease")
    prompts = [(await gateway.ask("What is the deposit?", document="lease"))["usage"]["prompt_tokens"] for _ in range(2)]
    gateway.workers[0].gpu.clear()
    gateway.host.forget_ram()
    gateway.host.disk.clear()
    prompts.append((await gateway.ask("What is the deposit?", document="lease"))["usage"]["prompt_tokens"])
    usage = (await gateway.json("GET", "/v1/documents/lease"))["usage"]
    assert (usage["questions"], usage["prompt_tokens"]) == (3, sum(prompts))
    assert usage["recomputed_tokens"] + usage["restored_tokens"] + usage["reused_tokens"] == sum(prompts)
    assert usage["restored_tokens"] == 2 * added["prefix_tokens"]
    assert usage["recomputed_tokens"] >= prompts[-1]


async def test_a_shared_document_does_not_say_how_others_use_it(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease", shared=True)
    await gateway.ask("What is the deposit?", document="lease")
    assert (await gateway.json("GET", "/v1/documents/lease"))["usage"] is None
