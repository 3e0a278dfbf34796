"""The key that `kvshelf up --key-file` makes: kept as long as it works, in a file for its owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.cli.serve import demo_key
from gateway.tenants.authenticator import Authenticator
from tests.fakes.gateway import SECRET
from tests.fakes.store import MemoryStore


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    return store


async def test_a_key_is_made_once_and_kept(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "key"
    key = await demo_key(store, SECRET, path)
    assert path.read_text("utf-8") == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    principal = await Authenticator(store, SECRET).recognise(f"Bearer {key}")
    assert (principal.tenant, "admin" in principal.scopes) == ("demo", False)
    assert await demo_key(store, SECRET, path) == key


@pytest.mark.parametrize("content", ["", "not a key", "kvs_live_0123456789abcdef_" + "0" * 64])
async def test_a_key_that_does_not_work_is_replaced_also_in_a_file_that_others_could_read(
    store: MemoryStore, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "key"
    path.write_text(content, "utf-8")
    path.chmod(0o644)
    key = await demo_key(store, SECRET, path)
    assert path.read_text("utf-8") == key != content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
