"""Files with mistakes: all of them are told at once, each with the file, the place in it and what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from gateway import strict_yaml
from gateway.strict_yaml import ConfigError


class Leaf(msgspec.Struct, frozen=True):
    url: Annotated[str, Meta(pattern="^http://")]
    folder: Path | None = None
    sizes: tuple[int, ...] = ()


class Whole(msgspec.Struct, frozen=True):
    path: Path
    port: Annotated[int, Meta(ge=1, le=9)] = 1
    ratio: float = 0.5
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    shown: bool = True

    def __post_init__(self) -> None:
        if self.leaf is not None and self.leaves:
            raise ValueError("give either `leaf` or `leaves`")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def problems(file: Path, text: str | bytes) -> list[str]:
    """What is wrong with `text`, without the file's name, which each line must begin with."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        strict_yaml.read(file, Whole)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(line.startswith(str(file)) for line in caught.value.problems)
    return [line.removeprefix(str(file)).removeprefix(": ") for line in caught.value.problems]


def test_a_good_file_is_the_struct(file: Path) -> None:
    file.write_text("path: /data\nratio: 1\nleaves:\n- url: http://a\n  sizes: [1, 2]\n- url: http://b\n  folder:\n")
    leaves = (Leaf("http://a", sizes=(1, 2)), Leaf("http://b"))
    assert strict_yaml.read(file, Whole) == Whole(Path("/data"), ratio=1.0, leaves=leaves)


def test_every_problem_is_told_at_once(file: Path) -> None:
    text = """
prot: 3
port: 10
ratio: much
leaf:
  sizes: [1, two, 3, [4]]
  colour: red
leaves:
- url: http://a
- url: ftp://b
- 5
- {}
"""
    assert problems(file, text) == [
        "`prot`: unknown field; did you mean `port`?",
        "`path`: missing, and it has no default",
        "`port`: Expected `int` <= 9 (got 10)",
        "`ratio`: Expected `float`, got `str` (got 'much')",
        "`leaf.colour`: unknown field; allowed: url, folder, sizes",
        "`leaf.url`: missing, and it has no default",
        "`leaf.sizes[1]`: Expected `int`, got `str` (got 'two')",
        "`leaf.sizes[3]`: Expected `int`, got `array` (got [4])",
        "`leaves[1].url`: Expected `str` matching regex '^http://' (got 'ftp://b')",
        "`leaves[2]`: expected a mapping, got 5",
        "`leaves[3].url`: missing, and it has no default",
    ]


@pytest.mark.parametrize(
    ("typed", "meant"), [("pth", "path"), ("Ratio", "ratio"), ("leafs", "leaf"), ("show", "shown"), ("port_", "port")]
)
def test_a_misspelt_field_is_told_its_name(file: Path, typed: str, meant: str) -> None:
    assert problems(file, f"path: a\n{typed}: 1\n") == [f"`{typed}`: unknown field; did you mean `{meant}`?"]


def test_a_field_like_no_other_is_told_what_is_allowed(file: Path) -> None:
    assert problems(file, "path: a\n7: x\n") == ["`7`: unknown field; allowed: path, port, ratio, leaf, leaves, shown"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "nothing"), ("~", "nothing"), ("- path: a", "[{'path': 'a'}]"), ("words", "'words'"), ("5", "5")],
)
def test_a_file_that_is_no_mapping_is_refused(file: Path, text: str, words: str) -> None:
    assert problems(file, text) == [f"`(the whole file)`: expected a mapping, got {words}"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("port: '3'", "`port`: Expected `int`, got `str` (got '3')"),
        ("port:", "`port`: Expected `int`, got `null` (got None)"),
        ("shown: 1", "`shown`: Expected `bool`, got `int` (got 1)"),
        ("leaves: {url: x}", "`leaves`: Expected `array`, got `object` (got {'url': 'x'})"),
        ("leaf: [http://a]", "`leaf`: expected a mapping, got ['http://a']"),
    ],
)
def test_a_value_of_another_kind_is_never_bent_to_fit(file: Path, line: str, words: str) -> None:
    assert problems(file, f"path: a\n{line}\n") == [words]


@pytest.mark.parametrize("value", ["5", "''", "[a]", "true"])
def test_a_path_must_be_text(file: Path, value: str) -> None:
    [problem] = problems(file, f"path: {value}\n")
    assert problem.startswith("`path`: expected a path, got ")


def test_what_a_struct_itself_refuses_is_told_with_its_place(file: Path) -> None:
    assert problems(file, "path: a\nleaf: {url: 'http://a'}\nleaves: [{url: 'http://b'}]\n") == [
        "`(the whole file)`: give either `leaf` or `leaves`"
    ]


def test_a_long_value_is_not_repeated_in_full(file: Path) -> None:
    [problem] = problems(file, f"path: a\nport: {'x' * 1000}\n")
    assert len(problem) < 150


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("path: a\nport: [1, 2\nratio: 3\n", ":3:6"),
        ("path: a\n\tport: 1\n", ":2:1"),
        ("a: b: c\n", ":1:5"),
        ("path: !!python/name:os.system x", ":1:7"),
    ],
)
def test_a_syntax_error_is_told_with_its_line_and_column(file: Path, text: str, place: str) -> None:
    [problem] = problems(file, text)
    assert problem.startswith(f"{place}: not valid YAML: ")


def test_characters_that_yaml_forbids_are_told(file: Path) -> None:
    [problem] = problems(file, "path: a\0b\n")
    assert problem.startswith("not valid YAML: ")
    assert "0000" in problem


def test_bytes_that_are_not_utf_8_are_told_with_their_place(file: Path) -> None:
    assert problems(file, b"path: caf\xe9\n") == ["is not UTF-8 (byte 9)"]


def test_a_file_that_can_not_be_read_is_told_why(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml: can't be read: No such file or directory"):
        strict_yaml.read(file, Whole)


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("path: data/x\nleaf: {url: 'http://a', folder: ../other}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (file, Path("../settings.yaml")):
        whole = strict_yaml.read(name, Whole)
        assert whole.path == tmp_path / "data" / "x"
        assert whole.leaf is not None
        assert whole.leaf.folder == tmp_path / ".." / "other"


def test_a_home_folder_and_an_absolute_path_stand_for_themselves(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    file.write_text("path: ~/data\nleaf: {url: 'http://a', folder: /abs}\n")
    whole = strict_yaml.read(file, Whole)
    assert whole.path == Path("/home/somebody/data")
    assert whole.leaf == Leaf("http://a", Path("/abs"))


def test_a_link_stays_a_link(tmp_path: Path, file: Path) -> None:
    """A virtual environment's interpreter is one."""
    (tmp_path / "python").symlink_to("/usr/bin/env")
    file.write_text("path: python\n")
    assert strict_yaml.read(file, Whole).path == tmp_path / "python"


def test_a_key_that_stands_twice_is_told_with_its_place(file: Path) -> None:
    (line,) = problems(file, "path: /data\nport: 1\nport: 2\n")
    assert "`port` stands twice" in line
    assert ":3:1" in line
