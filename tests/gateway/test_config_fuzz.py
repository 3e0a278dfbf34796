"""Configuration files of any content: either a configuration, or every problem in it; never anything else."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from gateway import config, strict_yaml
from gateway.config import Config
from gateway.shelf import catalog_file
from gateway.strict_yaml import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
WHOLE = [yaml.safe_load((CONFIGS / name).read_text()) for name in ("demo.yaml", "single-node.yaml", "two-hosts.example.yaml")]
FUZZ = settings(derandomize=True, max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**18, max_value=10**40),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=8),
    st.text(max_size=20),
    st.sampled_from(["127.0.0.1", "0.0.0.0", "tcp://*:1", "x:y", "../..", "~", "${HOME}", "*", "http://", "\x00", "a" * 300]),  # noqa: S104
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=6
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A good configuration with some of its values changed, removed, or others beside them."""
    root = [copy.deepcopy(draw(st.sampled_from(WHOLE)))]
    for _ in range(draw(st.integers(1, 4))):
        *above, last = draw(st.sampled_from(places(root)[1:]))
        node: Any = root
        for key in above:
            node = node[key]
        action = draw(st.sampled_from(["change", "change", "remove", "add"]))
        if action == "change" or last == 0:
            node[last] = draw(values)
        elif action == "remove":
            del node[last]
        elif isinstance(node, dict):
            node[draw(scalars)] = draw(values)
    return root[0]


def read(folder: Path, content: bytes) -> Config | list[str]:
    path = folder / "kvshelf.yaml"
    path.write_bytes(content)
    try:
        return config.load(path)
    except ConfigError as error:
        return error.problems


def holds(found: Config | list[str]) -> None:
    assert isinstance(found, Config) or (found and all(isinstance(problem, str) and problem for problem in found))


@FUZZ
@given(mutated())
def test_a_file_near_a_good_one_is_a_configuration_or_problems(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    text = yaml.dump(content, allow_unicode=True)
    holds(read(tmp_path_factory.getbasetemp(), text.encode("utf-8", "surrogatepass")))


@FUZZ
@given(st.sampled_from(["demo.yaml", "two-hosts.example.yaml"]), st.integers(0, 4000), st.integers(0, 20), st.binary(max_size=12))
def test_a_file_with_some_bytes_changed_is_a_configuration_or_problems(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, removed: int, added: bytes
) -> None:
    content = (CONFIGS / name).read_bytes()
    holds(read(tmp_path_factory.getbasetemp(), content[:at] + added + content[at + removed :]))


@FUZZ
@given(st.binary(max_size=60) | st.text(alphabet="abc:-?&*!|>[]{}#\"'%@`,\n\t 01.<=~", max_size=60).map(str.encode))
@example(b"")
@example(b"? [a, b]\n: 1\n")
@example(b"? {a: b}\n: 1\n")
@example(b"data_path: &a [*a]\n")
@example(b"engine: &a {workers: *a}\n")
@example(b"a: 2026-99-99\n")
@example(b"a: !!int ''\n")
@example(b"a: !!float x\n")
@example(b"a: !!binary '\xc3\xa9'\n")
@example(b"a: !!timestamp x\n")
@example(b"<<: 5\n")
@example(b"<<: [5]\n")
@example(b"a: 1:99:99.5\n")
@example(b"a: 0b\n")
@example(b"a: !!python/object/apply:os.system [ls]\n")
@example(b"a: " + b"9" * 5000 + b"\n")
@example(b"[" * 3000)
@example(b"a: {" * 3000)
@example(b"\xef\xbb\xbfa: 1\n")
@example(b"a: \x00\n")
@example(b"--- 1\n--- 2\n")
def test_any_bytes_are_a_configuration_or_problems(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    holds(read(tmp_path_factory.getbasetemp(), content))


def test_aliases_that_grow_without_end_are_no_file_of_ours(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    found = read(tmp_path, "\n".join(lines).encode())
    assert isinstance(found, list)
    assert sum(map(len, found)) < 100_000


@FUZZ
@given(values)
def test_a_catalog_of_any_content_is_one_or_problems(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "catalog.yaml"
    path.write_text(yaml.dump({"documents": content}, allow_unicode=True), "utf-8", "surrogatepass")
    with suppress(ConfigError):
        asyncio.run(catalog_file.load(path, Extractor(Extraction())))


def test_what_is_left_of_the_loader_makes_nothing_but_plain_values() -> None:
    assert issubclass(strict_yaml._Loader, yaml.SafeLoader)
