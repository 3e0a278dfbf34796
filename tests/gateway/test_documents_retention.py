"""Pins and times to live over HTTP: what is asked is shown, kept over restarts and new contents, or refused in words."""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gateway import Gateway, eventually
from tests.fakes.store import MemoryStore

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
FOR_EVER = {"pinned": False, "ttl_s": None, "expire_at": None, "expired": False}
TOMORROW = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).replace(microsecond=0)


@pytest.fixture(scope="module")
async def library(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One gateway for tests that each use ids of their own."""
    async with Gateway(tmp_path_factory.mktemp("library")).running() as running:
        yield running


async def change(gateway: Gateway, name: str, status: int = 200, **changes: Any) -> Any:
    return await gateway.json("PATCH", f"/v1/documents/{name}", json=changes, status=status)


async def shown(gateway: Gateway, name: str) -> Any:
    return await gateway.json("GET", f"/v1/documents/{name}")


def kept(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in FOR_EVER}


def left_s(document: dict[str, Any]) -> float:
    """Seconds until the document expires, by its own words, which are in UTC."""
    assert document["expire_at"].endswith("Z")
    return datetime.datetime.fromisoformat(document["expire_at"]).timestamp() - time.time()


async def test_a_document_is_kept_without_end_unless_it_is_asked_otherwise(library: Gateway) -> None:
    assert kept(await library.add(LEASE, id="plain")) == FOR_EVER
    assert kept(await library.add(LEASE, id="pinned", pinned=True)) == FOR_EVER | {"pinned": True}
    assert kept(await library.add(LEASE, id="nulls", pinned=False, ttl_s=None, expire_at=None)) == FOR_EVER


async def test_a_ttl_counts_from_when_it_is_asked(library: Gateway) -> None:
    added = await library.add(LEASE, id="hour", ttl_s=3600)
    assert 3590 < left_s(added) <= 3600
    assert (added["ttl_s"], added["pinned"], added["expired"]) == (3600, False, False)
    longer = await change(library, "hour", ttl_s=7200.5)
    assert 7190 < left_s(longer) <= 7200.5
    assert kept(await shown(library, "hour")) == kept(longer)


@pytest.mark.parametrize("zone", [datetime.UTC, datetime.timezone(datetime.timedelta(hours=-5))], ids=["utc", "new york"])
async def test_a_moment_is_shown_in_utc_whatever_it_was_given_in(library: Gateway, zone: datetime.tzinfo) -> None:
    name = f"dated-{'utc' if zone is datetime.UTC else 'zone'}"
    added = await library.add(LEASE, id=name, expire_at=TOMORROW.astimezone(zone).isoformat())
    assert kept(added) == FOR_EVER | {"expire_at": TOMORROW.isoformat().replace("+00:00", "Z")}


async def test_a_change_of_one_leaves_the_others(library: Gateway) -> None:
    await library.add(LEASE, id="one", title="Before", summary="Kept.", ttl_s=3600)
    before = await shown(library, "one")
    renamed = await change(library, "one", title="After")
    assert kept(renamed) == kept(before)
    pinned = await change(library, "one", pinned=True, ttl_s=None)
    assert kept(pinned) == FOR_EVER | {"pinned": True}
    assert (pinned["title"], pinned["summary"]) == ("After", "Kept.")
    assert pinned["updated_at"] > renamed["updated_at"]
    dated = await change(library, "one", pinned=False, expire_at=TOMORROW.isoformat())
    assert (dated["pinned"], dated["ttl_s"]) == (False, None)
    assert dated["expire_at"] is not None
    assert kept(await change(library, "one", expire_at=None)) == FOR_EVER


async def test_a_change_of_retention_reads_and_embeds_nothing(library: Gateway) -> None:
    await library.add(LEASE, id="cheap")
    bodies, texts = len(library.workers[0].bodies), library.embedder.texts
    await change(library, "cheap", pinned=True)
    await library.json("POST", "/v1/documents", json={"id": "cheap", "text": LEASE, "pinned": False, "ttl_s": 60})
    assert (len(library.workers[0].bodies), library.embedder.texts) == (bodies, texts)


async def test_the_time_comes_and_the_document_stays(library: Gateway) -> None:
    await library.add(LEASE, id="brief")
    await change(library, "brief", ttl_s=0.05)

    async def has_expired() -> bool:
        return bool((await shown(library, "brief"))["expired"])

    await eventually(has_expired)
    found = {document["id"]: document for document in (await library.json("GET", "/v1/documents"))["data"]}["brief"]
    assert (found["expired"], found["ttl_s"], found["title"]) == (True, 0.05, "Lease")
    assert left_s(found) < 0
    assert (await change(library, "brief", title="Still expired"))["expired"] is True
    assert (await change(library, "brief", ttl_s=60))["expired"] is False


async def test_a_new_text_leaves_a_pin_and_makes_a_ttl_count_anew(library: Gateway) -> None:
    await library.add(LEASE, id="nightly", pinned=True)
    await library.add(LEASE, id="weekly", ttl_s=60)
    before = await shown(library, "weekly")
    for name in ("nightly", "weekly"):
        await library.json("POST", "/v1/documents", json={"id": name, "text": LEASE})
    assert kept(await shown(library, "weekly")) == kept(before)  # the same text is nothing new
    for name in ("nightly", "weekly"):
        await library.add(LEASE + " The rent is 1,200.", id=name)
    assert (await shown(library, "nightly"))["pinned"] is True
    after = await shown(library, "weekly")
    assert after["ttl_s"] == 60
    assert after["expire_at"] > before["expire_at"]


async def test_the_same_text_with_a_ttl_is_kept_for_that_long_from_now(library: Gateway) -> None:
    first = await library.add(LEASE, id="again", ttl_s=60)
    second = await library.json("POST", "/v1/documents", json={"id": "again", "text": LEASE, "ttl_s": 60})
    assert second["expire_at"] > first["expire_at"]
    assert second["job"] is None


@pytest.mark.parametrize("versions", [None, {"vllm": "1", "lmcache": "0"}], ids=["the same engine", "another"])
async def test_a_restart_changes_no_retention(tmp_path: Path, versions: dict[str, str] | None) -> None:
    store = MemoryStore()
    async with Gateway(tmp_path, store=store).running() as first:
        await first.add(LEASE, id="pinned", pinned=True)
        await first.add(LEASE, id="hour", ttl_s=3600)
        await first.add(LEASE, id="past")
        await change(first, "past", ttl_s=0.001)
        before = {name: await shown(first, name) for name in ("pinned", "hour", "past")}
    async with Gateway(tmp_path, store=store, host=first.host, versions=versions).running() as second:
        after = {name: await shown(second, name) for name in before}
    assert {name: kept(d) for name, d in after.items()} == {
        name: kept(d) | {"expired": name == "past"} for name, d in before.items()
    }


# --- refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"pinned": "yes"}, "$.pinned"),
        ({"pinned": None}, "$.pinned"),
        ({"ttl_s": 0}, "$.ttl_s"),
        ({"ttl_s": -5}, "$.ttl_s"),
        ({"ttl_s": "3600"}, "$.ttl_s"),
        ({"ttl_s": 1e300}, "$.ttl_s"),
        ({"expire_at": "tomorrow"}, "$.expire_at"),
        ({"expire_at": "2999-01-01T00:00:00"}, "timezone"),
        ({"expire_at": 32503680000}, "$.expire_at"),
        ({"expire_at": "2020-01-01T00:00:00Z"}, "a time to come"),
        ({"expire_at": "0001-01-01T00:00:00+12:00"}, "a time to come"),
        ({"expire_at": "9999-12-31T23:59:59-12:00"}, "a hundred years"),
        ({"ttl_s": 60, "expire_at": TOMORROW.isoformat()}, "send only one"),
        ({"pinned": True, "ttl_s": 60}, 'Send "pinned": true, or one of'),
        ({"pinned": True, "expire_at": TOMORROW.isoformat()}, 'Send "pinned": true, or one of'),
        ({"expires_at": 5}, "expires_at"),
    ],
)
async def test_what_can_not_be_is_400_and_changes_nothing(library: Gateway, asked: dict[str, Any], words: str) -> None:
    if not any(d["id"] == "standing" for d in (await library.json("GET", "/v1/documents"))["data"]):
        await library.add(LEASE, id="standing")
    before = await shown(library, "standing")
    answers = [
        await change(library, "standing", status=400, title="Changed", **asked),
        await library.json("POST", "/v1/documents", json={"id": "standing", "text": LEASE, **asked}, status=400),
        await library.json("POST", "/v1/documents", json={"id": "new", "text": LEASE, **asked}, status=400),
    ]
    for answer in answers:
        assert answer["error"]["code"] == "invalid_request"
        assert words in answer["error"]["message"]
    assert await shown(library, "standing") == before
    await library.json("GET", "/v1/documents/new", status=404)


async def test_a_pin_and_a_ttl_are_refused_with_what_would_do(library: Gateway) -> None:
    await library.add(LEASE, id="both-ttl", ttl_s=60)
    refused = (await change(library, "both-ttl", status=400, pinned=True))["error"]
    assert refused["param"] == "pinned"
    assert '"ttl_s": null with "pinned": true' in refused["message"]
    assert (await change(library, "both-ttl", pinned=True, ttl_s=None))["pinned"] is True
    refused = (await change(library, "both-ttl", status=400, ttl_s=60))["error"]
    assert '"pinned": false with it' in refused["message"]
    assert (await change(library, "both-ttl", pinned=False, ttl_s=60))["ttl_s"] == 60


async def test_only_who_may_change_a_document_may_pin_it(library: Gateway) -> None:
    await library.add(LEASE, id="ours", shared=True)
    await library.add(LEASE, id="mine")
    stranger = await library.new_key("tenant-b", ("ask", "read", "write"))
    pin = {"pinned": True}
    await library.json("PATCH", "/v1/documents/mine", json=pin, key=stranger, status=404)
    await library.json("PATCH", "/v1/documents/ours", json=pin, key=stranger, status=403)
    reader = await library.new_key("tenant-a", ("ask",))
    await library.json("PATCH", "/v1/documents/mine", json=pin, key=reader, status=403)
    assert not (await shown(library, "mine"))["pinned"]
    assert not (await shown(library, "ours"))["pinned"]
