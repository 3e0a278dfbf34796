"""Titles, tags, questions and aliases with characters that are not shown: refused where they are given, harmless where they are there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from msgspec.structs import replace

from gateway.__main__ import main
from tests.fakes.engine import FakeHost
from tests.fakes.gateway import Gateway
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import Catalog, shelf, until_problem

FIELDS = {"title": "{}", "summary": "{}", "tags": ["a", "{}"], "questions": ["{}"], "aliases": ["{}"]}
BAD = ["a\u202eb", "a\u2066b", "a\u200bb", "a\x1b[31mb", "a\0b", "\ufeffa", "a\U000e0041"]


@pytest.fixture(scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("standing")).running() as running:
        await running.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        yield running


@pytest.fixture
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def filled(pattern: Any, text: str) -> Any:
    return [one.format(text) for one in pattern] if isinstance(pattern, list) else pattern.format(text)


@pytest.mark.parametrize("text", BAD, ids=ascii)
@pytest.mark.parametrize("field", FIELDS)
async def test_the_api_refuses_them_by_field_and_place(standing: Gateway, field: str, text: str) -> None:
    given = {field: filled(FIELDS[field], text)}
    before = await standing.json("GET", "/v1/documents/lease")
    for method, path, body in (
        ("POST", "/v1/documents", {"id": "lease", "text": "Words.", **given}),
        ("PATCH", "/v1/documents/lease", given),
    ):
        error = (await standing.json(method, path, json=body, status=400))["error"]
        assert error["param"] == field
        assert f"`{field}` holds U+" in error["message"]
        assert error["message"].isprintable()
    assert await standing.json("GET", "/v1/documents/lease") == before


@pytest.mark.parametrize("text", BAD, ids=ascii)
async def test_a_title_in_the_query_as_well(standing: Gateway, text: str) -> None:
    more = {"data": b"Words.", "headers": {"content-type": "text/plain"}, "params": {"id": "lease", "title": text}}
    await standing.json("POST", "/v1/documents", status=400, **more)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "summary"])
async def test_over_long_ones_are_refused(standing: Gateway, field: str) -> None:
    for given in (filled(FIELDS[field], "x" * 501), [] if field == "title" else ["x"] * 51):
        await standing.json("PATCH", "/v1/documents/lease", json={field: given}, status=400)


async def test_a_catalog_file_with_one_changes_nothing(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        for field in FIELDS:
            entry = json.dumps({"id": "lease", "file": "lease.md", field: filled(FIELDS[field], "a\u202eb\ud800")})
            catalog.write(f"documents:\n- {entry}\n")
            await until_problem(gateway, f"`{field}` holds U+202E")
        for entry, words in (
            ({"id": "a\u202eb", "file": "lease.md"}, "can't be a document id"),
            ({"id": "lease", "file": "lease.md", "tenant": "a\u202eb"}, "can't be a tenant id"),
            ({"id": "lease", "file": "a\0b"}, "`path` holds U+0000"),
            ({"id": "lease", "file": "a\ud800b"}, "`path` holds U+D800"),
            ({"id": "lease", "file": "lease.md", "title": "x" * 301}, "length <= 300"),
            ({"id": "lease", "file": "lease.md", "tags": ["x"] * 51}, "length <= 50"),
        ):
            catalog.write(f"documents:\n- {json.dumps(entry)}\n")
            await until_problem(gateway, words)
        catalog.write("documents: " + "[" * 100_000)
        await until_problem(gateway, "nested too deeply")
        assert {name: one["title"] for name, one in (await shelf(gateway)).items()} == {"lease": "Lease"}


async def test_a_text_that_begins_with_one_gives_a_title_without(standing: Gateway) -> None:
    added = await standing.add("# a\u202eb\x1b[31m\u200bc\n\nWords.", id="odd")
    assert added["title"] == "ab[31mc"


async def test_a_question_with_them_is_only_a_question(standing: Gateway) -> None:
    for text in BAD:
        assert (await standing.ask(text, document="lease"))["choices"]
        await standing.json("POST", "/v1/route", json={"question": text})
        error = (await standing.ask("why?", document=text, status=404))["error"]
        assert error["message"].isprintable()


async def test_what_was_stored_before_the_rule_reaches_no_terminal(tmp_path: Path, quiet: None) -> None:
    """An older gateway took such titles: commands write out what would steer the terminal, and take no markup."""
    title, store, host = "x\x1b]0;owned\x07\u202ey [red]z[/red] [/q]", MemoryStore(), FakeHost()
    async with Gateway(tmp_path, store=store, host=host).running() as before:
        await before.add("# Marsh\n\nHerons fish at dawn.", id="marsh")
    await store.open()
    (document,) = await store.documents()
    await store.put_document(replace(document, descriptor=replace(document.descriptor, title=title, summary=title)))
    async with Gateway(tmp_path, store=store, host=host).running() as gateway:
        gateway.workers[0].words = ["\x1b[2J", "\x9b2J"]
        env = {"KVSHELF_URL": gateway.url, "KVSHELF_KEY": gateway.key, "COLUMNS": "200"}
        for arguments, told in (
            (("documents", "list"), True),
            (("documents", "show", "marsh"), True),
            (("route", "Herons fish at dawn?"), True),
            (("ask", "Penguins migrate?"), True),
            (("ask", "-d", "marsh", "What?"), False),
            (("ask", "-d", "a\x1b[31m", "What?"), False),
        ):
            # In colour, as for a terminal: else `click` itself takes some of it out.
            result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env, color=True)
            assert not set(result.output) & set("\x07\u202e\x9b"), arguments
            assert "\x1b]0" not in result.output
            assert "\x1b[2J" not in result.output
            assert (r"x\x1b]0;owned\x07\u202ey [red]z[/red] [/q]" in result.output) == told, result.output
