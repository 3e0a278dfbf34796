"""Answers under way when their key is revoked, expires or loses its secret: they end within five seconds, and say why."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backends.records import ApiKey
from gateway.tenants import authenticator, streams
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.keys import new_key, renewed
from gateway.tenants.streams import Streams
from router.documents import TenantId
from tests.fakes.engine import Gate
from tests.fakes.gateway import SECRET, Gateway, eventually, sse
from tests.fakes.store import MemoryStore

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
WITHIN_S = 5.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and believes nothing for long: what happens is the same, sooner."""
    monkeypatch.setattr(streams, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(authenticator, "CACHE_S", 0.01)


def streams_of(gateway: Gateway) -> Streams:
    found: Streams = gateway.apps.tenants.dependencies["streams"].dependency()  # type: ignore[union-attr]
    return found


async def begun(gateway: Gateway, key: str, gate: Gate | None = None, **body: Any) -> asyncio.Task[tuple[int, str]]:
    """A question whose worker is held up before its second word: its status and text, once it has ended."""
    gate = gate or Gate(gateway.workers[0], at=1)
    held = len(gate.held)

    async def ask() -> tuple[int, str]:
        question = {"messages": [{"role": "user", "content": "Why?"}], "document": "lease", **body}
        async with gateway.request("POST", "/v1/chat/completions", json=question, key=key) as response:
            return response.status, await response.text()

    asking = asyncio.create_task(ask())
    await eventually(lambda: len(gate.held) > held)
    return asking


async def test_a_stream_of_a_revoked_key_ends_within_five_seconds_with_one_error_event(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    key = await gateway.new_key("tenant-a")
    asking = await begun(gateway, key, stream=True)
    await gateway.revoke(key)
    started = time.monotonic()
    async with asyncio.timeout(WITHIN_S):
        status, text = await asking
    assert status == 200
    *words, (_, last) = sse(text)
    assert last["error"]["code"] == "invalid_api_key"
    assert last["error"]["type"] == "authentication_error"
    assert "[DONE]" not in text
    assert "".join(word["choices"][0]["delta"].get("content", "") for _, word in words) == "It "
    assert (gateway.workers[0].aborted, gateway.workers[0].open) == (1, 0)
    assert time.monotonic() - started > 0.5, "this test shows the true times, not those of the quick ones"


@pytest.mark.usefixtures("quick")
async def test_a_stream_of_a_key_that_expires_ends(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        await gateway.add(LEASE, id="lease")
        asking = await begun(gateway, await gateway.new_key("tenant-a", expires_at=1010.0), stream=True)
        now = 1010.0
        _, text = await asyncio.wait_for(asking, WITHIN_S)
        assert sse(text)[-1][1]["error"]["code"] == "invalid_api_key"


@pytest.mark.usefixtures("quick")
async def test_a_stream_by_a_secret_that_was_replaced_ends_and_one_by_the_new_goes_on(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    old = await gateway.new_key("tenant-a")
    record = await gateway.store.key(old.split("_")[2])
    assert record is not None
    new, rotated = renewed(SECRET, record)
    await gateway.store.change_key(record.public_id, lambda _: replace(rotated, old_hash=record.secret_hash))
    gate = Gate(gateway.workers[0], at=1)
    by_old, by_new = await begun(gateway, old, gate, stream=True), await begun(gateway, new, gate, stream=True)
    await gateway.store.change_key(record.public_id, lambda key: replace(key, old_hash=None))
    _, text = await asyncio.wait_for(by_old, WITHIN_S)
    assert sse(text)[-1][1]["error"]["code"] == "invalid_api_key"
    await streams_of(gateway).look()
    assert not by_new.done()
    gate.open()
    _, text = await asyncio.wait_for(by_new, WITHIN_S)
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_was_not_begun_is_401(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    key = await gateway.new_key("tenant-a")
    asking = await begun(gateway, key)
    await gateway.revoke(key)
    status, text = await asyncio.wait_for(asking, WITHIN_S)
    assert status == 401
    assert "invalid_api_key" in text
    assert gateway.workers[0].aborted == 1


@pytest.mark.usefixtures("quick")
async def test_the_streams_of_other_keys_go_on(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    revoked, other = await gateway.new_key("tenant-a"), await gateway.new_key("tenant-a")
    gate = Gate(gateway.workers[0], at=1)
    ending, going_on = await begun(gateway, revoked, gate, stream=True), await begun(gateway, other, gate, stream=True)
    await gateway.revoke(revoked)
    await asyncio.wait_for(ending, WITHIN_S)
    await streams_of(gateway).look()
    assert not going_on.done()
    gate.open()
    status, text = await asyncio.wait_for(going_on, WITHIN_S)
    assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
    await eventually(lambda: repr(streams_of(gateway)) == "<Streams: 0 under way>")


async def test_a_look_asks_once_for_a_key_however_many_streams_it_has(tmp_path: Path) -> None:
    class Counting(MemoryStore):
        asked = 0

        async def key(self, public_id: str) -> ApiKey | None:
            self.asked += 1
            return await super().key(public_id)

    store = Counting()
    await store.open()
    key, record = new_key(SECRET, TenantId("tenant-a"), name="", scopes=(), now=0.0)
    await store.add_key(record)
    clock = 0.0
    gate = Authenticator(store, SECRET, clock=lambda: clock)
    principal, watching = await gate.recognise(f"Bearer {key}"), Streams(gate)
    with ExitStack() as open_streams:
        ended = [open_streams.enter_context(watching.watched(principal)) for _ in range(50)]
        clock = 10.0
        await watching.look()
        assert (store.asked, any(one.done() for one in ended)) == (2, False)
        await store.change_key(record.public_id, lambda found: replace(found, revoked_at=1.0))
        clock = 20.0
        await watching.look()
        assert (store.asked, all(one.done() for one in ended)) == (3, True)
        await watching.look()


@pytest.mark.usefixtures("quick")
async def test_while_the_store_is_away_streams_go_on_and_those_of_expired_keys_end(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        await gateway.add(LEASE, id="lease")
        asking = await begun(gateway, await gateway.new_key("tenant-a", expires_at=1010.0), stream=True)
        gateway.store.fault = "is away"  # type: ignore[attr-defined]
        await asyncio.sleep(0.02)  # what is known is too old by then
        await streams_of(gateway).look()
        assert not asking.done()
        now = 1010.0
        _, text = await asyncio.wait_for(asking, WITHIN_S)
        gateway.store.fault = None  # type: ignore[attr-defined]
        assert sse(text)[-1][1]["error"]["code"] == "invalid_api_key"


@pytest.mark.usefixtures("quick")
async def test_a_jobs_events_end_with_the_key(gateway: Gateway) -> None:
    gateway.workers[0].problem = "is down"
    key = await gateway.new_key("tenant-a")
    job = (await gateway.add(LEASE, id="lease", ready=False))["job"]["id"]
    following = asyncio.create_task(gateway.events(job, key=key))
    await eventually(lambda: repr(streams_of(gateway)) == "<Streams: 1 under way>")
    await gateway.revoke(key)
    (first, _), *_, (event, told) = await asyncio.wait_for(following, WITHIN_S)
    assert (first, event, told["error"]["code"]) == ("progress", "error", "invalid_api_key")
    await eventually(lambda: repr(streams_of(gateway)) == "<Streams: 0 under way>")
