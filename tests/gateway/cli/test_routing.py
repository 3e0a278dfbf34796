"""`kvshelf route`: a question's document, and the evaluation of a folder and of a gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gateway.cli.conftest import Cli

TEXTS = {
    "lease": "# Lease\n\nThe deposit is 2,400 euros. The tenants keep no dog.",
    "manual": "# Dehumidifier\n\nEmpty the water tank when the lamp is red.",
    "policy": "# Passwords\n\nA password has at least 12 characters.",
}
QUESTIONS = [
    {"question": "How many euros is the deposit of the flat?", "document": "lease", "kind": "plain"},
    {"question": "When is the water tank to be emptied?", "document": "manual", "kind": "plain"},
    {"question": "May the tenants keep a dog or a cat?", "document": "policy"},
    {"question": "zebra xylophone", "document": None, "kind": "foreign"},
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return folder, labelled(tmp_path, *QUESTIONS)


def labelled(folder: Path, *questions: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in questions), "utf-8")
    return path


async def test_a_folder_is_evaluated_without_a_gateway(cli: Cli, files: tuple[Path, Path]) -> None:
    """By words alone: no model is loaded. The third is labelled wrong, the fourth fits nothing."""
    documents, questions = map(str, files)
    result = await cli("route", "eval", "--documents", documents, "--questions", questions, "--embedding", "none", "--json")
    found = json.loads(result.stdout)
    assert (found["questions"], found["unanswerable"]) == (4, 1)
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["top5"] == 1
    assert found["answered"] == 1
    assert found["answered_right"] == pytest.approx(2 / 3)
    assert found["refused_of_unanswerable"] == 1
    assert found["confused"] == [["policy", "lease", 1]]
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["curve"][-1][1] == 1.0


async def test_the_tables_tell_kinds_and_what_is_mistaken(cli: Cli, files: tuple[Path, Path], tmp_path: Path) -> None:
    documents, questions = map(str, files)
    picture = tmp_path / "curve.png"
    result = await cli(
        *("route", "eval", "--documents", documents, "--questions", questions, "--embedding", "none", "--plot", str(picture))
    )
    assert result.exit_code == 0
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["plain"].split("│")[2:-1]] == ["2", "100.0%", "100.0%", "100.0%", "100.0%", ""]
    assert "lease" in rows["policy"]
    assert picture.read_bytes().startswith(b"\x89PNG")


async def test_thresholds_can_be_tried(cli: Cli, files: tuple[Path, Path]) -> None:
    documents, questions = map(str, files)
    shared = ("route", "eval", "--documents", documents, "--questions", questions, "--embedding", "none", "--json")
    assert json.loads((await cli(*shared, "--min-score", "1")).stdout)["answered"] == 0
    assert json.loads((await cli(*shared, "--min-score", "0", "--margin", "0")).stdout)["refused_of_unanswerable"] == 0


async def test_without_a_folder_the_gateway_is_asked(cli: Cli, tmp_path: Path) -> None:
    questions = labelled(tmp_path, {"question": "The deposit is how many euros?", "document": "lease"})
    result = await cli("route", "eval", "--questions", str(questions), "--json")
    found = json.loads(result.stdout)
    assert (found["top1"], found["answered_right"]) == (1, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": 3, "document": null}', "line 2"),
        ('{"question": "What?"}', "line 2"),
        ("What?", "line 2"),
    ],
)
async def test_a_bad_line_is_named(cli: Cli, files: tuple[Path, Path], line: str, words: str) -> None:
    documents, questions = files
    questions.write_text(f"{json.dumps(QUESTIONS[0])}\n{line}\n", "utf-8")
    result = await cli("route", "eval", "--documents", str(documents), "--questions", str(questions), "--embedding", "none")
    assert result.exit_code == 1
    assert words in result.stderr


async def test_a_folder_that_can_not_be_evaluated_says_why(cli: Cli, files: tuple[Path, Path], tmp_path: Path) -> None:
    documents, questions = files
    shared = ("route", "eval", "--questions", str(questions), "--embedding", "none", "--documents")
    (documents / "lease.txt").write_text("another lease", "utf-8")
    assert "'lease'" in (await cli(*shared, str(documents))).stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no text file" in (await cli(*shared, str(empty))).stderr
    questions.write_text("", "utf-8")
    assert "no question" in (await cli(*shared, str(documents))).stderr


async def test_what_is_no_command_is_a_question(cli: Cli) -> None:
    for arguments in (("The deposit is how many euros?",), ("--json", "The deposit is how many euros?"), ("find", "eval")):
        result = await cli("route", *arguments)
        assert result.exit_code == 0, result.stderr
    assert "eval" in (await cli("route", "--help")).stdout


async def test_a_key_file_that_can_not_be_read_is_said(cli: Cli, tmp_path: Path) -> None:
    result = await cli("route", "--key-file", str(tmp_path), "What?", KVSHELF_KEY=None)
    assert (result.exit_code, "can't be read" in result.stderr) == (1, True)


async def test_fitting_says_what_it_gains_and_undoes_it(cli: Cli, tmp_path: Path) -> None:
    asked = [
        ("How many euros is the deposit?", "lease"),
        ("Who pays the deposit?", "lease"),
        ("Which taxis need a receipt?", "expenses"),
        ("zebra xylophone", None),
    ]
    lines = [{"question": f"{text} {number}", "document": document} for number in range(10) for text, document in asked]
    path = str(labelled(tmp_path, *lines))
    result = await cli("route", "fit", "--questions", path)
    assert result.exit_code == 0, result.stderr
    assert "40 questions, 10 of them for no document" in result.stdout
    assert "Kept" in result.stdout
    found = json.loads((await cli("route", "fit", "--questions", path, "--json")).stdout)
    assert found["before"].keys() == found["after"].keys() >= {"top1", "answered", "calibration_error"}
    assert (await cli("route", "fit", "--reset")).stdout == "As shipped.\n"
    assert (await cli("route", "fit", "--reset")).stdout == "It was as shipped already.\n"


@pytest.mark.parametrize("arguments", [[], ["--reset", "--questions", "FILE"]])
async def test_fitting_needs_either_questions_or_a_reset(cli: Cli, files: tuple[Path, Path], arguments: list[str]) -> None:
    result = await cli("route", "fit", *(str(files[1]) if argument == "FILE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert "Give either --questions FILE or --reset." in result.stderr
