"""`kvshelf documents warm`, `evict` and `show`: moves that are followed to their end, and where the KV is."""

from __future__ import annotations

import asyncio
import re

import pytest

from gateway.cli import tiers
from tests.fakes.engine import Gate
from tests.fakes.gateway import Gateway
from tests.gateway.cli.conftest import Cli


async def held(library: Gateway, name: str) -> set[str]:
    return {one["tier"] for one in (await library.json("GET", f"/v1/documents/{name}"))["tiers"]}


async def column(cli: Cli, name: str) -> str:
    """The list's column of tiers for this document."""
    lines = (await cli("documents", "list")).stdout.splitlines()
    (row,) = [line for line in lines if re.match(rf"│ {name} ", line)]
    return row.split("│")[6].strip()


async def test_kv_is_evicted_from_ram_from_disk_and_from_both(cli: Cli, library: Gateway) -> None:
    await library.add("# Gone\n\nFrom where it was.", id="gone")
    assert await column(cli, "gone") == "ram disk"
    for arguments, words, left in (
        (("--tier", "ram"), "ram", {"disk"}),
        (("--tier", "disk"), "disk", set()),
        ((), "ram and disk", set()),
    ):
        result = await cli("documents", "evict", "gone", *arguments)
        assert (result.exit_code, result.stdout) == (0, f"gone: evicted from {words}\n"), result.stderr
        assert await held(library, "gone") == left
    assert await column(cli, "gone") == ""
    assert "none: the next question has it read" in (await cli("documents", "show", "gone")).stdout


async def test_kv_is_brought_to_ram_from_disk_and_read_again_where_it_is_on_none(cli: Cli, library: Gateway) -> None:
    for tier in ("ram", "all"):
        assert (await cli("documents", "evict", "lease", "--tier", tier)).exit_code == 0
        result = await cli("documents", "warm", "lease")
        assert (result.exit_code, result.stdout) == (0, "lease: in ram of kv\n"), result.stderr
        assert await held(library, "lease") == {"ram", "disk"}


async def test_kv_is_brought_onto_a_workers_gpu(cli: Cli, library: Gateway) -> None:
    for arguments in (("--tier", "gpu"), ("--worker", "worker-1"), ("--tier", "gpu", "--worker", "worker-1")):
        library.workers[0].gpu.clear()
        result = await cli("documents", "warm", "lease", *arguments)
        assert (result.exit_code, result.stdout) == (0, "lease: in gpu of worker-1\n"), result.stderr
        assert library.workers[0].gpu


async def test_a_move_that_fails_says_why_and_is_no_success(cli: Cli, library: Gateway) -> None:
    library.kv_server.problem = "is on strike"
    for command in (("evict", "--tier", "disk"), ("warm",)):
        result = await cli("documents", command[0], "expenses", *command[1:])
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"expenses: {command[0]} failed: is on strike" in result.stderr
    library.kv_server.problem = None


async def test_what_can_not_be_moved_is_the_gateways_sentence(cli: Cli, library: Gateway) -> None:
    await library.add("# Pinned\n\nStays.", id="stays", pinned=True)
    for arguments, words in (
        (("evict", "stays"), "is pinned: unpin it first"),
        (("evict", "nowhere"), "No document 'nowhere'"),
        (("warm", "lease", "--host", "moon"), "Name a host: kv."),
        (("warm", "lease", "--worker", "moon"), "Name a worker: worker-1."),
        (("warm", "lease", "--worker", "worker-1", "--tier", "ram"), "`worker` goes with the tier `gpu`"),
    ):
        result = await cli("documents", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert words in result.stderr
    assert (await cli("documents", "evict", "lease", "--tier", "gpu")).exit_code == 2


async def test_a_document_that_is_removed_meanwhile_is_a_sentence(cli: Cli, library: Gateway) -> None:
    await library.add("# Brief\n\nNot for long.", id="brief")
    assert (await cli("documents", "evict", "brief")).exit_code == 0
    gate = Gate(library.workers[0])
    warming = asyncio.ensure_future(cli("documents", "warm", "brief"))
    await gate.reached()
    await library.json("DELETE", "/v1/documents/brief")
    gate.open()
    result = await warming
    assert (result.exit_code, result.stdout) == (1, "")
    assert "removed" in result.stderr  # told by the stream, or as the answer where it was not open yet


async def test_a_document_is_shown_with_where_its_kv_is_and_how_long_it_is_kept(cli: Cli, library: Gateway) -> None:
    await library.add("# Shown\n\nAs it is.", id="shown", pinned=True, tags=["a", "b"])
    await library.ask("Is it?", document="shown")
    shown = (await cli("documents", "show", "shown")).stdout
    for line in (
        r"tags +a; b",
        r"kept +pinned: its KV stays whatever else needs the room",
        r"tokens +[\d,]+, prefix [\d,]+",
        r"questions asked +1, last \d{4}-\d\d-\d\d \d\d:\d\d UTC",
        r"prompt tokens +[\d,]+: [\d,]+ reused, [\d,]+ restored, [\d,]+ recomputed",
        r"ram +kv +100 % +0\.0 MiB",
        r"disk +kv +100 % +0\.0 MiB",
    ):
        assert re.search(rf"^ *{line} *$", shown, re.MULTILINE), (line, shown)
    await library.json("PATCH", "/v1/documents/shown", json={"pinned": False, "ttl_s": 3600})
    shown = (await cli("documents", "show", "shown")).stdout
    assert re.search(r"^kept +until [-\d]+ [:\d]+ UTC \(ttl 3600 s\)$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([], ""),
        ([("disk", 1.0), ("gpu", 1.0), ("ram", 1.0)], "gpu ram disk"),
        ([("disk", 0.6)], "disk 60 %"),
        ([("gpu", 0.2), ("gpu", 1.0), ("disk", 0.999)], "gpu disk 99 %"),
        ([("ram", 0.0)], "ram 0 %"),
    ],
)
def test_tiers_in_short_say_how_much_is_there(shares: list[tuple[str, float]], words: str) -> None:
    assert tiers.in_short({"tiers": [{"tier": tier, "share": share} for tier, share in shares]}) == words


def test_a_stale_document_and_one_that_is_read_are_told() -> None:
    job = {"id": "j", "state": "pending", "read_tokens": 0, "prefix_tokens": 2048, "error": "no room"}
    told = {"stale": True, "job": job, "usage": None, "pinned": False, "expired": True, "expire_at": "x", "ttl_s": None}
    document = dict.fromkeys(tiers.PLAIN, "") | told
    volume = {"number": 2, "title": "Rules (2 of 2): Pets", "state": "pending", "document_tokens": 1000}
    document |= {"document_tokens": 2000, "prefix_tokens": 2048, "created_at": 0.0, "updated_at": 0.0, "volumes": [volume]}
    lines = dict(tiers._lines(document))
    assert lines["stale"].startswith("yes")
    assert lines["kept"] == "expired: answered cold, nothing is kept"
    assert lines["job"] == "pending, 0 of 2,048 tokens: no room (j)"
    assert lines["volume 2"] == "Rules (2 of 2): Pets: pending, 1,000 tokens"
    assert lines["created"] == "1970-01-01 00:00 UTC"
