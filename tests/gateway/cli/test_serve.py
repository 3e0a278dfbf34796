"""The key that `kvshelf up --key-file` makes: kept as long as it works, in a file for its owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.cli.serve import demo_key
from gateway.strict_yaml import ConfigError
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


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
async def test_a_key_that_works_in_a_file_that_others_can_reach_is_refused_with_the_way_to_mend_it(
    store: MemoryStore, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "key"
    key = await demo_key(store, SECRET, path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}") as caught:
        await demo_key(store, SECRET, path)
    assert "keys revoke" in str(caught.value)
    assert key not in str(caught.value)
    path.chmod(0o600)
    assert await demo_key(store, SECRET, path) == key


async def test_the_key_can_not_administer_and_its_making_is_in_the_audit_log(store: MemoryStore, tmp_path: Path) -> None:
    key = await demo_key(store, SECRET, tmp_path / "key", environment="test")
    principal = await Authenticator(store, SECRET).recognise(f"Bearer {key}")
    assert key.startswith("kvs_test_")
    assert principal.scopes == ("ask", "read", "write", "share")
    [entry] = await store.audit(limit=9)
    assert (entry.action, entry.target, entry.origin) == ("key.create", principal.key_id, "cli")
    assert entry.actor.startswith("cli:")
