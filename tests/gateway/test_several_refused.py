"""Questions over several documents that are refused or fail: what the client is told, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Gathering
from router.errors import EngineFailed, EngineUnavailable
from router.joining import TASK
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import CONTEXT, Gateway, eventually
from tests.gateway.test_several_documents import ALL, PART_TOKENS, QUESTION, prompt_of, read_all, salts, several, streamed

__all__ = ["several"]


def held(gateway: Gateway) -> list[str]:
    """What is still taken: leases, requests to workers, slots in the pool."""
    ledger = gateway.host.ledger
    assert ledger is not None
    ledger.check()
    leases = [] if "leases={}" in repr(ledger) else [repr(ledger)]
    return leases + [worker.name for worker in gateway.workers if worker.open]


async def nothing_is_held(gateway: Gateway) -> None:
    await eventually(lambda: not held(gateway))
    async with gateway.session.get(f"{gateway.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    slots = [line.rpartition(" ")[2] for line in lines if line.startswith("kvshelf_worker_running{")]
    assert slots == ["0.0"] * len(gateway.workers)


def outcomes(gateway: Gateway, span: str) -> list[object]:
    return sorted(str((s.attributes or {})["kvshelf.outcome"]) for s in gateway.spans.get_finished_spans() if s.name == span)


def two_workers(folder: Path) -> Gateway:
    return Gateway(folder, workers=2, gathering=Gathering(max_documents=3, part_tokens=PART_TOKENS))


async def test_it_is_off_unless_the_configuration_allows_it(gateway: Gateway) -> None:
    await read_all(gateway)
    error = (await gateway.ask(QUESTION, documents=["lease", "policy"], status=400))["error"]
    assert "`gathering.max_documents`" in error["message"]
    assert (error["param"], error["type"]) == ("documents", "invalid_request_error")
    assert gateway.workers[0].bodies == []


async def test_more_than_the_limit_is_400_with_both_numbers(several: Gateway) -> None:
    error = (await several.ask(QUESTION, documents=["a", "b", "c", "d"], status=400))["error"]
    assert "names 4 documents" in error["message"]
    assert "at most 3" in error["message"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"documents": []}, "`documents` is empty"),
        ({"documents": ["lease"], "document": "lease"}, "not both"),
        ({"documents": [], "document": "lease"}, "not both"),
        ({"documents": "lease"}, "`documents`"),
        ({"documents": ["lease", 7]}, "documents[1]"),
    ],
)
async def test_a_list_that_says_nothing_clear_is_400(several: Gateway, fields: dict[str, Any], says: str) -> None:
    assert says in (await several.ask(QUESTION, **fields, status=400))["error"]["message"]


async def test_another_tenants_document_is_404_as_an_unknown_one_is_and_as_for_one(several: Gateway) -> None:
    key = await several.new_key("tenant-b")
    await several.add("# Mine\n\nOf tenant b.", id="mine", key=key)
    several.workers[0].bodies.clear()
    theirs = await several.ask(QUESTION, documents=["mine", "lease"], status=404, key=key)
    unknown = await several.ask(QUESTION, documents=["mine", "nothing"], status=404, key=key)
    alone = await several.ask(QUESTION, document="lease", status=404, key=key)
    assert theirs["error"] == alone["error"]
    assert unknown["error"] == {**theirs["error"], "message": theirs["error"]["message"].replace("lease", "nothing")}
    assert several.workers[0].bodies == []


async def test_a_document_that_is_still_read_is_409_with_its_job_and_nothing_is_asked(several: Gateway) -> None:
    several.workers[0].problem = "is down"
    document = await several.add("# New\n\nNobody has read it.", id="new", ready=False)
    several.workers[0].problem = None
    gate = Gate(several.workers[0])  # it is not read meanwhile either
    answer = await several.ask(QUESTION, documents=["lease", "new"], status=409)
    assert answer["error"]["job"] == document["job"]["id"]
    assert "'new'" in answer["error"]["message"]
    assert all(QUESTION not in prompt_of(body) for body in several.workers[0].bodies)
    gate.open()
    assert await several.finished(document["job"]["id"]) == "ready"
    await nothing_is_held(several)


async def test_what_would_not_fit_is_refused_with_both_numbers_before_anything_is_asked(several: Gateway) -> None:
    for fields in ({"question": QUESTION, "max_tokens": CONTEXT - 200}, {"question": "why? " * (CONTEXT // 5)}):
        error = (await several.ask(str(fields.pop("question")), documents=ALL, status=400, **fields))["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["limit"] == CONTEXT < error["tokens"]
        assert "answers of 3 documents" in error["message"]
    assert several.workers[0].bodies == []


async def test_a_part_that_fails_fails_the_whole_and_is_named(several: Gateway) -> None:
    worker = several.workers[0]
    gate = Gate(worker, lambda body: "Meals" not in prompt_of(body))

    async def fail(number: int) -> None:
        if "Meals" in prompt_of(worker.answering) and number == 1:
            await gate.reached()  # the other one is under way
            raise EngineFailed("Worker worker-1 broke off.", started=True)

    gate._before = fail
    before = worker.aborted
    error = (await several.ask(QUESTION, documents=["lease", "policy"], status=502))["error"]
    assert error == {
        "message": "Document 'policy': Worker worker-1 broke off.",
        "type": "engine_error",
        "param": None,
        "code": "engine_failed",
    }
    assert worker.aborted == before + 2
    assert len(worker.bodies) == 2  # and no joining question
    await nothing_is_held(several)
    assert outcomes(several, "kvshelf.part") == ["error", "given_up"]
    assert outcomes(several, "kvshelf.question") == ["error"]


async def test_a_part_whose_worker_fails_before_its_first_token_is_asked_of_another(tmp_path: Path) -> None:
    async with two_workers(tmp_path).running() as gateway:
        await read_all(gateway)
        once = [Fault(EngineFailed("fell over"))]
        for worker in gateway.workers:
            worker.faults = once
        assert len((await gateway.ask(QUESTION, documents=ALL))["sources"]) == 3
        assert not once
        assert sum(len(worker.bodies) for worker in gateway.workers) == 3 + 1 + 1


@pytest.mark.parametrize("error", [EngineUnavailable("is gone"), EngineFailed("fell over")])
async def test_a_joining_question_whose_worker_fails_is_asked_of_another_too(tmp_path: Path, error: Any) -> None:
    async with two_workers(tmp_path).running() as gateway:
        await read_all(gateway)
        failed = []

        def fails_once(name: str) -> Any:
            async def hook(_: int) -> None:
                worker = next(w for w in gateway.workers if w.name == name)
                if TASK in prompt_of(worker.answering) and not failed:
                    failed.append(name)
                    raise error

            return hook

        for worker in gateway.workers:
            worker.before_delta = fails_once(worker.name)
        answer = await gateway.ask(QUESTION, documents=["lease", "policy"])
        assert failed
        assert answer["headers"]["x-worker"] != failed[0]
        await nothing_is_held(gateway)


async def test_an_answer_that_breaks_off_ends_the_stream_with_one_error(several: Gateway) -> None:
    worker = several.workers[0]

    async def fail(number: int) -> None:
        if TASK in prompt_of(worker.answering) and number == 1:
            raise EngineFailed("broke off", started=True)

    worker.before_delta = fail
    _, events = await streamed(several, documents=["lease", "policy"])
    assert len(events[0]["sources"]) == 2
    assert [event["error"]["code"] for event in events if "error" in event] == ["engine_failed"]
    assert "[DONE]" not in events
    await nothing_is_held(several)
    assert outcomes(several, "kvshelf.question") == ["broken_off"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_all_its_parts(several: Gateway, stream: bool) -> None:
    worker, before = several.workers[0], several.workers[0].aborted
    Gate(worker)
    client = asyncio.create_task(several.ask(QUESTION, documents=ALL, stream=stream))
    await eventually(lambda: worker.open == 3)
    client.cancel()
    await nothing_is_held(several)
    assert worker.aborted == before + 3
    assert len(worker.bodies) == 3
    assert outcomes(several, "kvshelf.part") == ["client_gone"] * 3
    await eventually(lambda: outcomes(several, "kvshelf.question") == ["client_gone"])


@pytest.mark.parametrize("at", [0, 1])
async def test_a_client_that_leaves_while_the_answer_is_made_stops_it(several: Gateway, at: int) -> None:
    worker, before = several.workers[0], several.workers[0].aborted
    gate = Gate(worker, lambda body: TASK in prompt_of(body), at=at)
    client = asyncio.create_task(streamed(several, documents=["lease", "policy"]))
    await gate.reached()
    client.cancel()
    await nothing_is_held(several)
    assert worker.aborted == before + 1
    assert outcomes(several, "kvshelf.part") == ["ok"] * 2


async def test_a_version_is_held_until_its_turn_comes(tmp_path: Path) -> None:
    gathering = Gathering(max_documents=3, part_tokens=PART_TOKENS, at_once=1)
    async with Gateway(tmp_path, gathering=gathering).running() as gateway:
        await read_all(gateway)
        gate = Gate(gateway.workers[0], lambda body: "Lease" in prompt_of(body))
        asking = asyncio.create_task(gateway.ask(QUESTION, documents=["lease", "policy"]))
        await gate.reached()
        for name in ("policy", "manual"):
            await gateway.json("DELETE", f"/v1/documents/{name}")
        await eventually(lambda: salts(gateway)["manual"] not in gateway.host.disk)  # what is not held was cleared by then
        gate.open()
        assert [source["document"] for source in (await asking)["sources"]] == ["lease", "policy"]
        await nothing_is_held(gateway)


async def test_what_follows_a_document_is_learned_from_parts_too(tmp_path: Path) -> None:
    async with two_workers(tmp_path).running() as gateway:
        await read_all(gateway)
        await gateway.ask(QUESTION, documents=["lease", "policy"])
    await gateway.store.open()
    learned = await gateway.store.state("prediction") or b""
    assert (b"lease" in learned, b"policy" in learned, b"manual" in learned) == (True, True, False)


async def test_parts_are_booked_and_watched_as_questions(several: Gateway) -> None:
    several.spans.clear()
    answer = await several.ask(QUESTION, documents=["lease", "policy"])
    await eventually(lambda: len(several.spans.get_finished_spans()) == 3)
    spans = {str((s.attributes or {})["kvshelf.document"]): s for s in several.spans.get_finished_spans()}
    whole = spans["lease,policy"]
    assert whole.name == "kvshelf.question"
    assert whole.context is not None
    for source in answer["sources"]:
        span = spans[source["document"]]
        assert (span.name, span.parent and span.parent.span_id) == ("kvshelf.part", whole.context.span_id)
        attributes = dict(span.attributes or {})
        assert attributes["gen_ai.usage.cached_tokens"] == source["cached_tokens"]
        assert attributes["kvshelf.routing"] == "part"
        shown = await several.json("GET", f"/v1/documents/{source['document']}")
        assert shown["usage"]["questions"] == 1
        assert shown["usage"]["prompt_tokens"] == source["prompt_tokens"]
        assert shown["usage"]["last_asked_at"]
    assert dict(whole.attributes or {})["kvshelf.routing"] == "several"
    async with several.session.get(f"{several.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    counted = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}
    labels = 'kvshelf_outcome="ok",kvshelf_routing="{}",kvshelf_tier="ram"'
    assert counted["kvshelf_questions_total{" + labels.format("part") + "}"] == "2.0"
    assert counted["kvshelf_questions_total{" + labels.format("several") + "}"] == "1.0"
    assert counted['kvshelf_first_token_seconds_count{kvshelf_tier="ram"}'] == "2.0"
    assert counted["kvshelf_prompt_tokens_total"] == f"{answer['usage']['prompt_tokens']}.0"
