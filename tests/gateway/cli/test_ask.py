"""`kvshelf ask` and `kvshelf route`."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from router.errors import EngineFailed
from tests.fakes.engine import Fault
from tests.fakes.gateway import Gateway
from tests.gateway.cli.conftest import Cli

QUESTION = "The deposit is how many euros?"


async def test_an_answer_is_on_standard_output_and_what_is_told_of_it_is_not(cli: Cli) -> None:
    result = await cli("ask", "-d", "lease", "What is the deposit?")
    assert (result.exit_code, result.stdout) == (0, "It is so.\n")
    assert re.search(r"lease \(named\) · ram · \d+ of \d+ tokens cached · first token \d\.\d\d s", result.stderr)


async def test_without_a_document_the_gateway_finds_it(cli: Cli) -> None:
    result = await cli("ask", QUESTION)
    assert (result.exit_code, result.stdout) == (0, "It is so.\n")
    assert re.search(r"lease \(found, score 0\.\d\d\)", result.stderr)


async def test_an_answer_as_json_is_one_object_and_nothing_else(cli: Cli) -> None:
    result = await cli("ask", "--json", QUESTION)
    got = json.loads(result.stdout)
    assert (got["answer"], got["document"], got["routing"], got["tier"]) == ("It is so.", "lease", "found", "ram")
    assert 0 < got["cached_tokens"] < got["prompt_tokens"]
    assert 0 < got["score"] <= 1
    assert got["first_token_s"] > 0
    assert result.stderr == ""


async def test_an_answers_text_is_shown_as_it_is(cli: Cli, library: Gateway) -> None:
    """Not as markup, not with emoji for their names, not wrapped; and no escape sequence reaches the terminal."""
    words, library.workers[0].words = library.workers[0].words, ["a [red]b[/red] [/x] :warning: ", "\tc " * 100, "\x1b[1md"]
    try:
        result = await cli("ask", "-d", "lease", "What?")
    finally:
        library.workers[0].words = words
    assert result.exit_code == 0
    assert result.stdout == "a [red]b[/red] [/x] :warning: " + "\tc " * 100 + "\\x1b[1md\n"


async def test_max_tokens_reaches_the_engine(cli: Cli, library: Gateway) -> None:
    result = await cli("ask", "-d", "lease", "--max-tokens", "2", "What?")
    assert result.stdout == "It is \n"
    assert library.workers[0].bodies[-1]["max_tokens"] == 2
    assert (await cli("ask", "--max-tokens", "0", "What?")).exit_code == 2


async def test_a_question_that_fits_nothing_shows_the_candidates(cli: Cli) -> None:
    result = await cli("ask", "Penguins migrate?")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No document fits this question well enough" in result.stderr
    assert re.search(r"0\.\d\d  lease  \(Lease\)", result.stderr)


async def test_an_unknown_document_is_a_sentence(cli: Cli) -> None:
    result = await cli("ask", "-d", "nowhere", "What?")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No document 'nowhere' in your catalog" in result.stderr


async def test_an_answer_that_breaks_off_is_an_error_after_what_came(cli: Cli, library: Gateway) -> None:
    library.workers[0].faults = [Fault(EngineFailed("The worker broke off.", started=True), at=2)]
    result = await cli("ask", "-d", "lease", "What?")
    assert (result.exit_code, result.stdout) == (1, "It is ")
    assert "The worker broke off." in result.stderr


@pytest.mark.parametrize("ending", [b"", b"5\r\ndata:\r\n"], ids=["at once", "in the middle of the answer"])
async def test_a_gateway_that_hangs_up_is_a_sentence(cli: Cli, ending: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-document-id: lease\r\nx-cache-tier: ram\r\n\r\n" if ending else b""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + ending)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await cli("ask", "What?", KVSHELF_URL=url)
    assert result.exit_code == 1
    assert (f"The gateway at {url} broke off" if ending else f"No gateway answers at {url}") in result.stderr


async def test_without_a_gateway_it_says_where_it_looked_and_what_to_start(cli: Cli) -> None:
    result = await cli("ask", "What?", KVSHELF_URL="http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No gateway answers at http://127.0.0.1:9" in result.stderr
    assert "kvshelf up" in result.stderr


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "nonsense"])
async def test_an_address_that_is_none_is_a_sentence(cli: Cli, url: str) -> None:
    result = await cli("route", "--url", url, "What?")
    assert result.exit_code == 1
    assert url in result.stderr
    assert "http://" in result.stderr


async def test_without_a_key_it_says_how_to_give_one(cli: Cli, tmp_path: Path) -> None:
    result = await cli("ask", "What?", "--key-file", str(tmp_path / "nowhere"), KVSHELF_KEY=None)
    assert result.exit_code == 1
    assert "No API key: set KVSHELF_KEY" in result.stderr


async def test_a_key_from_a_file_is_used(cli: Cli, library: Gateway, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(library.key + "\n")
    result = await cli("ask", "-d", "lease", "What?", "--key-file", str(tmp_path / "key"), KVSHELF_KEY=None)
    assert (result.exit_code, result.stdout) == (0, "It is so.\n")


async def test_a_wrong_key_is_the_gateways_sentence(cli: Cli, library: Gateway) -> None:
    result = await cli("ask", "What?", KVSHELF_KEY=library.key[:-1])
    assert result.exit_code == 1
    assert "mistyped or cut" in result.stderr
    assert library.key[:-1] not in result.output


async def test_a_route_is_a_table_of_candidates(cli: Cli) -> None:
    result = await cli("route", QUESTION)
    assert result.exit_code == 0
    assert "route: lease" in result.stdout
    assert re.search(r"0\.\d\d\d .*lease .*Lease", result.stdout)
    assert "expenses" in result.stdout


async def test_a_route_as_json_is_the_gateways_answer(cli: Cli, library: Gateway) -> None:
    result = await cli("route", "--json", QUESTION)
    assert json.loads(result.stdout) == await library.json("POST", "/v1/route", json={"question": QUESTION})
    nothing = json.loads((await cli("route", "--json", "Penguins migrate?")).stdout)
    assert (nothing["decision"], nothing["document"]) == ("no_match", None)


async def test_the_help_names_every_command(cli: Cli) -> None:
    shown = (await cli("--help")).stdout
    for command in ("up", "serve", "check", "demo", "ask", "route", "documents", "keys"):
        assert re.search(rf"\b{command}\b", shown)
