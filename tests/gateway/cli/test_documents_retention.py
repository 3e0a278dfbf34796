"""`kvshelf documents`: pins and times to live."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.fakes.gateway import Gateway, eventually
from tests.gateway.cli.conftest import Cli


def written(folder: Path, name: str) -> str:
    path = folder / f"{name}.md"
    path.write_text(f"# {name}\n\nWords.")
    return str(path)


async def shown(library: Gateway, name: str) -> Any:
    return await library.json("GET", f"/v1/documents/{name}")


async def test_documents_are_pinned_and_unpinned(cli: Cli, library: Gateway) -> None:
    result = await cli("documents", "pin", "lease", "expenses")
    assert (result.exit_code, result.stdout) == (0, "lease: pinned\nexpenses: pinned\n")
    assert (await shown(library, "lease"))["pinned"]
    assert (await shown(library, "expenses"))["pinned"]
    result = await cli("documents", "unpin", "lease", "expenses")
    assert (result.exit_code, result.stdout) == (0, "lease: unpinned\nexpenses: unpinned\n")
    assert not (await shown(library, "lease"))["pinned"]


async def test_a_pin_ends_a_ttl(cli: Cli, library: Gateway) -> None:
    await library.add("# Hour\n\nWords.", id="hour", ttl_s=3600)
    assert (await cli("documents", "pin", "hour")).exit_code == 0
    found = await shown(library, "hour")
    assert (found["pinned"], found["ttl_s"], found["expire_at"]) == (True, None, None)


async def test_an_unknown_document_is_a_sentence(cli: Cli) -> None:
    for command in ("pin", "unpin"):
        result = await cli("documents", command, "nowhere")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "No document 'nowhere'" in result.stderr


async def test_added_documents_are_kept_as_asked(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    assert (await cli("documents", "add", "--pin", written(tmp_path, "one"), written(tmp_path, "two"))).exit_code == 0
    assert [(await shown(library, name))["pinned"] for name in ("one", "two")] == [True, True]
    (added,) = json.loads((await cli("documents", "add", "--json", "--ttl", "90.5", written(tmp_path, "three"))).stdout)
    assert (added["pinned"], added["ttl_s"]) == (False, 90.5)


async def test_the_last_word_counts_and_none_leaves_what_is(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    file = written(tmp_path, "word")
    for arguments, pinned, ttl_s in (
        (("--pin",), True, None),
        ((), True, None),
        (("--ttl", "60"), False, 60),
        ((), False, 60),
        (("--pin",), True, None),
    ):
        assert (await cli("documents", "add", file, *arguments)).exit_code == 0
        found = await shown(library, "word")
        assert (found["pinned"], found["ttl_s"]) == (pinned, ttl_s)


async def test_what_can_not_be_is_refused_before_anything_is_sent(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    file = written(tmp_path, "never")
    for arguments, words in (
        (("--pin", "--ttl", "60"), "give --pin or --ttl"),
        (("--ttl", "0"), "--ttl"),
        (("--ttl", "inf"), "--ttl"),
        (("--ttl", "soon"), "--ttl"),
    ):
        result = await cli("documents", "add", file, *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    await library.json("GET", "/v1/documents/never", status=404)


async def test_the_list_shows_how_long_they_are_kept(cli: Cli, library: Gateway) -> None:
    key = await library.new_key("tenant-c")
    await library.add("# A", id="kept-pinned", key=key, pinned=True)
    await library.add("# B", id="kept-dated", key=key, expire_at="2099-07-01T14:30:00+02:00")
    await library.add("# C", id="kept-plain", key=key)
    await library.add("# D", id="kept-past", key=key)
    await library.json("PATCH", "/v1/documents/kept-past", json={"ttl_s": 0.01}, key=key)

    async def has_expired() -> bool:
        return bool((await library.json("GET", "/v1/documents/kept-past", key=key))["expired"])

    await eventually(has_expired)
    lines = (await cli("documents", "list", KVSHELF_KEY=key)).stdout.splitlines()
    last = {match[1]: match[2].strip() for line in lines if (match := re.search(r"(kept-\w+) .*│([^│]*)│", line))}
    assert last == {
        "kept-pinned": "pinned",
        "kept-dated": "until 2099-07-01 12:30 UTC",
        "kept-plain": "",
        "kept-past": "expired",
    }
