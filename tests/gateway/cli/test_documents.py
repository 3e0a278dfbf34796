"""`kvshelf documents`: add, list, show, remove."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.ingestion.ingestion import ATTEMPTS
from router.errors import EngineFailed
from tests.backends.extraction import pdfs
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import Gateway
from tests.gateway.cli.conftest import Cli


def written(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


async def test_added_files_are_read_when_the_command_ends(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    files = [written(tmp_path, "House Rules.md", "# Rules\n\nNo shoes."), written(tmp_path, "notes.txt", "Notes of May.")]
    result = await cli("documents", "add", *files)
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.search(r"house-rules .*\d+/\d+ tokens", result.stderr)
    assert re.search(r"notes .*\d+/\d+ tokens", result.stderr)
    for name, title in (("house-rules", "Rules"), ("notes", "Notes of May.")):
        shown = await library.json("GET", f"/v1/documents/{name}")
        assert (shown["state"], shown["title"], shown["shared"]) == ("ready", title, False)


async def test_a_pdf_and_a_page_are_added_as_what_their_names_say(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    files = [
        written(tmp_path, "Flat.PDF", pdfs.text("The flat\nIt has two rooms.")),
        written(tmp_path, "house.html", "<h1>The house</h1>"),
    ]
    assert (await cli("documents", "add", "--pin", *files)).exit_code == 0
    for name, title in (("flat", "The flat"), ("house", "The house")):
        shown = await library.json("GET", f"/v1/documents/{name}")
        assert (shown["title"], shown["state"], shown["pinned"]) == (title, "ready", True)
    result = await cli("documents", "add", written(tmp_path, "closed.pdf", pdfs.encrypted()))
    assert result.exit_code == 1
    assert "closed.pdf is encrypted" in result.stderr


async def test_id_title_and_shared_are_passed_on(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    file = written(tmp_path, "a.md", "Words.")
    result = await cli("documents", "add", file, "--id", "named", "--title", "A title", "--shared")
    assert result.exit_code == 0
    shown = await library.json("GET", "/v1/documents/named")
    assert (shown["title"], shown["shared"]) == ("A title", True)


async def test_added_documents_as_json_are_as_they_are_after_the_reading(cli: Cli, tmp_path: Path) -> None:
    file = written(tmp_path, "json.md", "# Json\n\nWords.")
    (added,) = json.loads((await cli("documents", "add", "--json", file)).stdout)
    assert (added["id"], added["state"], added["job"]["state"]) == ("json", "ready", "ready")
    (again,) = json.loads((await cli("documents", "add", "--json", file)).stdout)
    assert (again["id"], again["state"], again["job"]) == ("json", "ready", None)


async def test_without_waiting_the_job_is_told(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    gate = Gate(library.workers[0], lambda body: body["max_tokens"] == 1)
    file = written(tmp_path, "later.md", "# Later\n\nWords.")
    result = await cli("documents", "add", "--no-wait", file)
    assert result.exit_code == 0
    told = re.fullmatch(r"later: (\d+) tokens, job (\w+)\n", result.stdout)
    assert told is not None
    assert (await library.json("GET", f"/v1/jobs/{told[2]}"))["prefix_tokens"] == int(told[1])
    gate.open()
    assert await library.finished(told[2]) == "ready"
    again = await cli("documents", "add", "--no-wait", file)
    assert again.stdout == f"later: {told[1]} tokens, there already\n"


async def test_an_id_is_the_gateways_to_make_where_a_files_name_gives_none(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    result = await cli("documents", "add", written(tmp_path, "契約.md", "# Contract of May\n\nWords."))
    assert result.exit_code == 0, result.stderr
    assert (await library.json("GET", "/v1/documents/contract-of-may"))["state"] == "ready"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("latin.md", "Über alles".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
        ("paper.pdf", b"%PDF-1.7 \xff", "is no PDF that can be read"),
        ("blank.md", b" \n", "is empty"),
        ("long.md", b"word " * 4000, "the model reads at most"),
    ],
)
async def test_a_file_that_can_not_be_added_is_a_sentence(cli: Cli, tmp_path: Path, name: str, data: bytes, words: str) -> None:
    file = written(tmp_path, name, data)
    result = await cli("documents", "add", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert file in result.stderr


async def test_all_files_are_looked_at_before_the_first_is_sent(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    files = [written(tmp_path, "good.md", "Words."), written(tmp_path, "bad.md", "Über".encode("latin-1"))]
    assert (await cli("documents", "add", *files)).exit_code == 1
    await library.json("GET", "/v1/documents/good", status=404)


async def test_a_reading_that_fails_is_a_sentence(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    library.workers[0].faults = [Fault(EngineFailed("The worker says: too odd."))] * ATTEMPTS
    result = await cli("documents", "add", written(tmp_path, "odd.md", "Odd."))
    assert result.exit_code == 1
    assert "odd could not be read: The worker says: too odd." in result.stderr


async def test_what_does_not_fit_together_is_refused_before_anything_is_sent(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    one, two = written(tmp_path, "x/readme.md", "One."), written(tmp_path, "y/readme.md", "Two.")
    for arguments, words in (
        ((one, two, "--id", "both"), "--id and --title go with one file"),
        ((one, two, "--title", "Both"), "--id and --title go with one file"),
        ((one, two), "readme"),
        ((str(tmp_path / "nowhere.md"),), "does not exist"),
        ((), "Missing argument"),
    ):
        result = await cli("documents", "add", *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    assert not {"both", "readme"} & {document["id"] for document in (await library.json("GET", "/v1/documents"))["data"]}


async def test_sharing_without_the_scope_is_the_gateways_sentence(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    key = await library.new_key("tenant-a", ("ask", "read", "write"))
    result = await cli("documents", "add", "--shared", written(tmp_path, "s.md", "Words."), KVSHELF_KEY=key)
    assert result.exit_code == 1
    assert "lacks the scope 'share'" in result.stderr


async def test_the_list_is_a_table_and_as_json_the_gateways_answer(cli: Cli, library: Gateway) -> None:
    result = await cli("documents", "list")
    assert result.exit_code == 0
    assert re.search(r"lease .*Lease .*\d+ .*ready", result.stdout)
    assert json.loads((await cli("documents", "list", "--json")).stdout) == (await library.json("GET", "/v1/documents"))["data"]


async def test_one_document_is_shown(cli: Cli, library: Gateway) -> None:
    result = await cli("documents", "show", "lease")
    assert re.search(r"^title +Lease$", result.stdout, re.MULTILINE)
    assert re.search(r"^state +ready$", result.stdout, re.MULTILINE)
    assert json.loads((await cli("documents", "show", "--json", "lease")).stdout) == await library.json(
        "GET", "/v1/documents/lease"
    )


async def test_titles_are_shown_as_they_are(cli: Cli, library: Gateway) -> None:
    """Brackets are markup for the library that draws the tables: an unlucky title must not break the list."""
    title, key = "[draft] The lease [/b] :warning:", await library.new_key("tenant-b")
    await library.add("# Brackets\n\nZebras graze.", id="brackets", title=title, key=key)
    for arguments in (("documents", "list"), ("documents", "show", "brackets"), ("route", "Zebras graze?")):
        result = await cli(*arguments, KVSHELF_KEY=key)
        assert result.exit_code == 0, result.exception
        assert title in result.stdout
    assert title in (await cli("ask", "Penguins migrate?", KVSHELF_KEY=key)).stderr


async def test_documents_are_removed_one_after_the_other(cli: Cli, library: Gateway) -> None:
    for name in ("gone-1", "gone-2"):
        await library.add(f"# {name}", id=name)
    result = await cli("documents", "remove", "gone-1", "gone-2")
    assert (result.exit_code, result.stdout) == (0, "gone-1: removed\ngone-2: removed\n")
    await library.json("GET", "/v1/documents/gone-1", status=404)
    result = await cli("documents", "remove", "gone-1")
    assert result.exit_code == 1
    assert "No document 'gone-1'" in result.stderr
