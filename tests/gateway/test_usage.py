"""Usage as tenants and operators see it: what is counted of which question, and whose it is."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Gathering
from gateway.tiers.speeds import Speeds
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK, Fault, Gate
from tests.fakes.gateway import Gateway, eventually, sse
from tests.fakes.store import MemoryStore

LEASE = "# Lease\n\n" + "The deposit is 2,400 euros. " * 20
COUNTS = ("questions", "parts", "refused", "prompt_tokens", "cached_tokens", "completion_tokens")


async def usage(gateway: Gateway, query: str = "", **more: Any) -> list[dict[str, Any]]:
    return list((await gateway.json("GET", f"/v1/usage{query}", **more))["data"])


async def admin(gateway: Gateway, query: str = "", *, key: str | None = None, status: int = 200) -> Any:
    headers = {"authorization": f"Bearer {key or await gateway.new_key('operators', ('admin',))}"}
    async with gateway.session.get(f"{gateway.admin_url}/admin/usage{query}", headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json(content_type=None) if "format=csv" not in query else await response.text()


def counts(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in COUNTS)


async def one_row(gateway: Gateway, query: str = "?by=tenant", **more: Any) -> dict[str, Any]:
    (row,) = await usage(gateway, query, **more)
    return row


# --- what is counted


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_question_is_counted_with_the_tokens_that_its_answer_says(gateway: Gateway, streamed: bool) -> None:
    await gateway.add(LEASE, id="lease")
    if streamed:
        fields = {"messages": [{"role": "user", "content": "How much?"}], "document": "lease"}
        body = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
            expected = sse(await response.text())[-2][1]["usage"]
    else:
        expected = (await gateway.ask("How much?", document="lease"))["usage"]
    await eventually(lambda: _questions(gateway, 1))
    (row,) = await usage(gateway)
    cached = expected["prompt_tokens_details"]["cached_tokens"]
    assert counts(row) == (1, 0, 0, expected["prompt_tokens"], cached, expected["completion_tokens"])
    assert (row["tenant"], row["document"], row["key"]) == ("tenant-a", "lease", gateway.key.split("_")[2])
    assert cached > 0


async def _questions(gateway: Gateway, number: int) -> bool:
    rows = await usage(gateway, "?by=tenant")
    return sum(row["questions"] for row in rows) == number


async def test_what_is_refused_is_counted_and_took_nothing(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.ask("How much?", document="none-of-these", status=404)
    await gateway.ask("How much?", document="lease", status=400, max_tokens=10**6)
    gateway.workers[0].faults = [Fault(EngineFailed("It fell over."))]
    await gateway.ask("How much?", document="lease", status=502)
    rows = {row["document"]: counts(row) for row in await usage(gateway)}
    assert rows == {"": (1, 0, 1, 0, 0, 0), "lease": (2, 0, 2, 0, 0, 0)}


async def test_a_client_that_leaves_is_counted_with_what_had_come(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    prefix = (await gateway.json("GET", "/v1/documents/lease"))["prefix_tokens"]
    whole = (await gateway.ask("How much?", document="lease"))["usage"]
    gate = Gate(gateway.workers[0], at=2)
    body = {"messages": [{"role": "user", "content": "How much?"}], "document": "lease", "stream": True}
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        await response.content.readany()
        await gate.reached()
    await eventually(lambda: _questions(gateway, 2))
    row = await one_row(gateway)
    assert counts(row) == (
        2,
        0,
        0,
        2 * whole["prompt_tokens"],
        whole["prompt_tokens_details"]["cached_tokens"] + prefix,  # what was believed of it
        whole["completion_tokens"] + 2,
    )


async def test_a_client_that_leaves_before_the_first_token_took_nothing(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gate = Gate(gateway.workers[0])
    asking = asyncio.create_task(gateway.ask("How much?", document="lease"))
    await gate.reached()
    asking.cancel()
    await eventually(lambda: _questions(gateway, 1))
    assert counts(await one_row(gateway)) == (1, 0, 0, 0, 0, 0)


async def test_a_retried_question_is_counted_once(tmp_path: Path) -> None:
    async with Gateway(tmp_path, workers=2).running() as gateway:
        await gateway.add(LEASE, id="lease")
        shared = [Fault(EngineFailed("It fell over."))]
        for worker in gateway.workers:
            worker.faults = shared
        answer = (await gateway.ask("How much?", document="lease"))["usage"]
        row = await one_row(gateway)
        assert (row["questions"], row["refused"], row["prompt_tokens"]) == (1, 0, answer["prompt_tokens"])


async def test_past_the_cache_nothing_was_saved(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.ask("How much?", document="lease", headers={"cache-control": "no-cache"})
    row = await one_row(gateway)
    assert (row["questions"], row["cached_tokens"], row["saved_s"]) == (1, 0, 0)
    assert row["prompt_tokens"] > 0


async def test_a_question_over_several_documents_is_one_and_its_parts_are_their_documents(tmp_path: Path) -> None:
    async with Gateway(tmp_path, gathering=Gathering(max_documents=2, part_tokens=50)).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await gateway.add("# Manual\n\nPress the green button.", id="manual")
        answer = await gateway.ask("How much?", documents=["lease", "manual"])
        rows = {row["document"]: row for row in await usage(gateway)}
        assert {name: (row["questions"], row["parts"]) for name, row in rows.items()} == {
            "": (1, 0),
            "lease": (0, 1),
            "manual": (0, 1),
        }
        assert sum(row["prompt_tokens"] for row in rows.values()) == answer["usage"]["prompt_tokens"]
        assert sum(row["completion_tokens"] for row in rows.values()) == answer["usage"]["completion_tokens"]


async def test_what_the_cache_saved_is_told_in_seconds_of_reading(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Gateway(tmp_path, store=store).running() as gateway:
        await gateway.add(LEASE, id="lease")
    kept = Speeds(store, now=lambda: 0.0)
    await store.open()
    await kept.load()
    assert kept.of("worker-1")  # measured as it was read
    kept.measured("worker-1", 10**9, 10**6)  # 1,000 tokens a second outweigh what the fake did
    await kept.save()
    async with Gateway(tmp_path, store=store, host=gateway.host).running() as again:
        answer = await again.ask("How much?", document="lease")
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > CHUNK
        assert (await one_row(again))["saved_s"] == pytest.approx(cached / 1000, rel=0.01)


async def test_usage_outlives_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Gateway(tmp_path, store=store).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await gateway.ask("How much?", document="lease")
    async with Gateway(tmp_path, store=store, host=gateway.host).running() as again:
        await again.ask("How much?", document="lease")
        assert (await one_row(again))["questions"] == 2


# --- who sees it


async def test_a_tenant_sees_its_own_usage_and_nothing_of_anothers(gateway: Gateway) -> None:
    other = await gateway.new_key("tenant-b")
    await gateway.add(LEASE, id="secret-plan", key=other)
    await gateway.ask("How much?", document="secret-plan", key=other)
    for query in ("", "?tenant=tenant-b", "?by=tenant,key,document,day&tenant=tenant-b", "?by=document"):
        assert await usage(gateway, query) == []
    async with gateway.request("GET", "/v1/usage?format=csv&tenant=tenant-b") as response:
        assert len((await response.text()).splitlines()) == 1
    assert [row["document"] for row in await usage(gateway, key=other)] == ["secret-plan"]


async def test_operators_see_everybodys_or_one_tenants(gateway: Gateway) -> None:
    other = await gateway.new_key("tenant-b")
    for key in (None, other):
        await gateway.add(LEASE, id="lease", key=key)
        await gateway.ask("How much?", document="lease", key=key)
    assert [row["tenant"] for row in (await admin(gateway, "?by=tenant"))["data"]] == ["tenant-a", "tenant-b"]
    assert [row["tenant"] for row in (await admin(gateway, "?by=tenant&tenant=tenant-b"))["data"]] == ["tenant-b"]
    assert (await admin(gateway, "?from=2020-01-01&to=2020-12-31"))["data"] == []


async def test_what_is_needed_to_see_it(gateway: Gateway) -> None:
    plain = await gateway.new_key("tenant-a", scopes=("ask", "documents", "share"))
    reader = await gateway.new_key("tenant-a", scopes=("read",))
    assert (await gateway.json("GET", "/v1/usage", key=plain, status=403))["error"]["code"] == "forbidden"
    await gateway.json("GET", "/v1/usage", key=reader)
    assert (await admin(gateway, key=reader, status=403))["error"]["code"] == "forbidden"
    async with gateway.session.get(f"{gateway.admin_url}/admin/usage") as response:
        assert response.status == 401
    async with gateway.request("GET", "/admin/usage") as response:  # not on the tenants' listener
        assert response.status == 404


async def test_csv_has_the_same_rows(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.ask("How much?", document="lease")
    (row,) = csv.DictReader(io.StringIO(await admin(gateway, "?by=tenant,document&format=csv")))
    (same,) = (await admin(gateway, "?by=tenant,document"))["data"]
    assert {name: str(value) for name, value in same.items()} == row
    async with gateway.request("GET", "/v1/usage?format=csv&from=2026-01-01&to=2026-01-02") as response:
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["content-disposition"] == 'attachment; filename="usage-2026-01-01-2026-01-02.csv"'


@pytest.mark.parametrize(
    "query", ["?from=soon", "?by=salary", "?from=2026-11-02&to=2026-11-01", "?format=xml", f"?by={'x' * 5000}"]
)
async def test_what_makes_no_sense_is_a_400(gateway: Gateway, query: str) -> None:
    error = (await gateway.json("GET", f"/v1/usage{query}", status=400))["error"]
    assert error["message"]


async def test_while_the_database_is_away_questions_are_answered_and_usage_is_a_503(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.ask("How much?", document="lease")
    store = gateway.store
    assert isinstance(store, MemoryStore)
    await gateway.json("GET", "/v1/usage")  # the key is known now
    await gateway.ask("How much?", document="lease")
    store.fault = "The database is away."
    await gateway.json("GET", "/v1/usage", status=503)
    store.fault = None
    assert (await one_row(gateway))["questions"] == 2
