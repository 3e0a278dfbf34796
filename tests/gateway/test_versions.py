"""A document's new content: the old version answers until the new one is ready, and is cleared when nothing uses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.engine import Gate
from tests.fakes.gateway import Gateway, eventually

FIRST = "# Lease\n\nThe deposit is 2,400 euros."
SECOND = "# Lease\n\nThe deposit is 3,600 euros. The cat costs extra."
QUESTION = "What is the deposit?"


def is_reading(body: dict[str, Any]) -> bool:
    """Segments and verifications ask for one token, questions for as many as there is room for."""
    return int(body["max_tokens"]) == 1


def is_question(body: dict[str, Any]) -> bool:
    return not is_reading(body)


async def read(gateway: Gateway, text: str, name: str = "lease") -> str:
    """Add a document and wait until it is ready; the salt of its version."""
    await gateway.add(text, id=name)
    return str([body for body in gateway.workers[0].bodies if is_reading(body)][-1]["cache_salt"])


async def answering(gateway: Gateway) -> str:
    """The salt that a question to the lease is sent with."""
    assert (await gateway.ask(QUESTION, document="lease"))["choices"]
    return str([body for body in gateway.workers[0].bodies if is_question(body)][-1]["cache_salt"])


async def cleared(gateway: Gateway, decoy: str, salt: str) -> list[str]:
    """What has been deleted once the reaper has looked again: the decoy's KV goes in the same round as all that may."""
    await gateway.json("DELETE", f"/v1/documents/{decoy}")
    await eventually(lambda: salt in gateway.kv_server.deleted)
    return [deleted for deleted in gateway.kv_server.deleted if deleted != salt]


async def test_the_old_version_answers_until_the_new_one_is_ready(gateway: Gateway) -> None:
    old = await read(gateway, FIRST)
    gate = Gate(gateway.workers[0], is_reading)
    added = await gateway.add(SECOND, id="lease", ready=False)
    new = (await gate.reached())["cache_salt"]
    assert new != old
    assert (added["state"], added["job"]["state"]) == ("ready", "pending")
    assert await answering(gateway) == old
    assert (await gateway.json("POST", "/v1/route", json={"question": QUESTION}))["document"] == "lease"
    gate.open()
    assert await gateway.finished(added["job"]["id"]) == "ready"
    assert await answering(gateway) == new


async def test_the_old_versions_kv_is_deleted_and_the_new_ones_kept(gateway: Gateway) -> None:
    old = await read(gateway, FIRST)
    new = await read(gateway, SECOND)
    await eventually(lambda: gateway.kv_server.deleted == [old])
    assert old not in gateway.host.disk
    assert new in gateway.host.disk
    assert await gateway.store.unlinked_versions() == []


async def test_a_version_that_a_question_uses_is_not_cleared(gateway: Gateway) -> None:
    decoys = [await read(gateway, f"# Decoy\n\n{number}", f"decoy-{number}") for number in range(2)]
    old = await read(gateway, FIRST)
    gate = Gate(gateway.workers[0], is_question, at=1)
    asking = asyncio.create_task(gateway.ask(QUESTION, document="lease"))
    await gate.reached()
    await read(gateway, SECOND)
    assert await cleared(gateway, "decoy-0", decoys[0]) == []
    gate.open()
    assert (await asking)["choices"]
    assert old in await cleared(gateway, "decoy-1", decoys[1])


async def test_what_can_not_be_cleared_while_the_kv_server_is_down_is_cleared_later(gateway: Gateway) -> None:
    decoy = await read(gateway, "# Decoy", "decoy")
    old = await read(gateway, FIRST)
    tried = asyncio.Event()
    gateway.kv_server.before_delete = tried.set
    await read(gateway, SECOND)
    gateway.kv_server.problem = "is down"
    await asyncio.wait_for(tried.wait(), 5)
    assert [version.salt for version in await gateway.store.unlinked_versions()] == [old]
    gateway.kv_server.problem = None
    assert await cleared(gateway, "decoy", decoy) == [old]


async def test_the_first_content_again_gives_up_the_reading_of_the_second(gateway: Gateway) -> None:
    first = await read(gateway, FIRST)
    gate = Gate(gateway.workers[0], is_reading)
    added = await gateway.add(SECOND, id="lease", ready=False)
    second = (await gate.reached())["cache_salt"]
    back = await gateway.json("POST", "/v1/documents", json={"id": "lease", "text": FIRST}, status=200)
    assert (back["state"], back["job"]) == ("ready", None)
    await gateway.json("GET", f"/v1/jobs/{added['job']['id']}", status=404)
    gate.open()
    await eventually(lambda: gateway.kv_server.deleted == [second])
    assert await answering(gateway) == first


async def test_content_that_comes_back_keeps_its_kv(gateway: Gateway) -> None:
    """Two versions of the same content and engine have one salt: clearing the old one must not take the new one's KV."""
    decoy = await read(gateway, "# Decoy", "decoy")
    first = await read(gateway, FIRST)
    gate = Gate(gateway.workers[0], is_question, at=1)
    asking = asyncio.create_task(gateway.ask(QUESTION, document="lease"))
    await gate.reached()
    second = await read(gateway, SECOND)
    assert await read(gateway, FIRST) == first
    gate.open()
    assert (await asking)["choices"]
    assert await cleared(gateway, "decoy", decoy) == [second]
    assert first in gateway.host.disk
    assert await gateway.store.unlinked_versions() == []
    assert await answering(gateway) == first


async def test_a_document_removed_and_added_again_keeps_its_kv(gateway: Gateway) -> None:
    decoy = await read(gateway, "# Decoy", "decoy")
    salt = await read(gateway, FIRST)
    await gateway.json("DELETE", "/v1/documents/lease")
    assert await read(gateway, FIRST) == salt
    assert await cleared(gateway, "decoy", decoy) == []
    assert salt in gateway.host.disk


@pytest.mark.parametrize("change", ["content", "descriptor"])
async def test_routing_goes_by_what_the_document_says_now(gateway: Gateway, change: str) -> None:
    await read(gateway, FIRST)
    question = {"question": "The cat costs extra."}
    before = await gateway.json("POST", "/v1/route", json=question)
    if change == "content":
        await read(gateway, SECOND)
    else:
        await gateway.json("PATCH", "/v1/documents/lease", json={"summary": "The cat costs extra."})
    after = await gateway.json("POST", "/v1/route", json=question)
    assert after["candidates"][0]["score"] > before["candidates"][0]["score"] + 0.2
    assert after["document"] == "lease"
