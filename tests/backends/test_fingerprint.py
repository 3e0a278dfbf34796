"""The engine's fingerprint: nothing that makes old KV wrong may leave it as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backends.fingerprint import engine_fingerprint, weights_digest
from backends.settings import Model

PARTS: dict[str, Any] = {"tokenizer_digest": "t", "layout_digest": "l", "versions": {"vllm": "0.32.0", "lmcache": "0.5.6"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model-1.safetensors").write_bytes(b"one")
    (path / "model-2.safetensors").write_bytes(b"two")
    (path / "config.json").write_text("{}")
    return path


def model(folder: Path) -> Model:
    return Model(name="m", path=folder, context_tokens=8192, dtype="bfloat16", revision="")


def test_the_same_engine_has_the_same_fingerprint(folder: Path) -> None:
    found = engine_fingerprint(model(folder), **PARTS)
    assert found == engine_fingerprint(model(folder), **PARTS)
    assert found == engine_fingerprint(model(folder), **PARTS | {"versions": {"lmcache": "0.5.6", "vllm": "0.32.0"}})
    assert len(found) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_digest": "other"},
        {"layout_digest": "other"},
        {"versions": {"vllm": "0.33.0", "lmcache": "0.5.6"}},
        {"versions": {"vllm": "0.32.0"}},
    ],
)
def test_another_tokenizer_layout_or_engine_changes_it(folder: Path, change: dict[str, Any]) -> None:
    assert engine_fingerprint(model(folder), **PARTS | change) != engine_fingerprint(model(folder), **PARTS)


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"revision": "abc"}])
def test_another_dtype_or_revision_changes_it(folder: Path, change: dict[str, str]) -> None:
    assert engine_fingerprint(replace(model(folder), **change), **PARTS) != engine_fingerprint(model(folder), **PARTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model-2.safetensors").write_bytes(b"TWO"),
        lambda folder: (folder / "model-2.safetensors").unlink(),
        lambda folder: (folder / "model-2.safetensors").rename(folder / "model-3.safetensors"),
        lambda folder: (folder / "adapter.bin").write_bytes(b""),
        lambda folder: (folder / "model.gguf").write_bytes(b"three"),
        lambda folder: (folder / "config.json").write_text('{"rope_theta": 1}'),
        lambda folder: (folder / "config.json").unlink(),
    ],
)
def test_another_file_of_the_model_changes_it(folder: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    before = engine_fingerprint(model(folder), **PARTS, cache_path=tmp_path / "cache.json")
    change(folder)
    assert engine_fingerprint(model(folder), **PARTS, cache_path=tmp_path / "cache.json") != before


def test_the_models_folder_by_another_name_changes_it(folder: Path, tmp_path: Path) -> None:
    """The path is part of LMCache's keys, links unresolved."""
    (tmp_path / "link").symlink_to(folder)
    assert engine_fingerprint(model(tmp_path / "link"), **PARTS) != engine_fingerprint(model(folder), **PARTS)


def test_a_relative_path_is_the_same_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert engine_fingerprint(model(Path("model")), **PARTS) == engine_fingerprint(model(folder), **PARTS)


def test_a_readme_does_not_change_it(folder: Path) -> None:
    before = engine_fingerprint(model(folder), **PARTS)
    (folder / "README.md").write_text("words")
    assert engine_fingerprint(model(folder), **PARTS) == before


def test_weights_that_are_elsewhere_leave_it_to_the_revision(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one, other = (engine_fingerprint(replace(model(tmp_path / "empty"), revision=revision), **PARTS) for revision in ("1", "2"))
    assert one != other


def test_weights_are_not_read_again_while_nothing_changes(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "made" / "cache.json"
    digest = weights_digest(folder, cache)
    cache.write_text(cache.read_text().replace(digest, "remembered"))
    assert weights_digest(folder, cache) == "remembered"


def test_what_is_remembered_of_changed_weights_is_not_believed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    before = weights_digest(folder, cache)
    weights = folder / "model-1.safetensors"
    stat = weights.stat()
    weights.write_bytes(b"ONE")  # as long as before
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = weights_digest(folder, cache)
    assert after == weights_digest(folder) != before
    assert json.loads(cache.read_text())["digest"] == after


def test_what_is_remembered_of_another_folder_is_not_believed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    digest = weights_digest(folder, cache)
    cache.write_text(cache.read_text().replace(str(folder), str(tmp_path / "other")))
    assert weights_digest(folder, cache) == digest
    assert json.loads(cache.read_text())["folder"] == str(folder)


@pytest.mark.parametrize("damage", [b"", b'{"stamp": [["mod', b"[]", b"null", b"\xff\xfe", b'{"digest": "x"}'])
def test_a_damaged_memory_is_written_anew(folder: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache.json"
    cache.write_bytes(damage)
    digest = weights_digest(folder, cache)
    assert digest == weights_digest(folder)
    assert json.loads(cache.read_text())["digest"] == digest
