"""What is made of a configuration: the KV servers, whose they are, what a token takes, and what makes an engine another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.lmcache import LMCacheServer
from backends.local.stack import LocalStack
from backends.settings import LocalEngine, Model
from gateway.config import Config
from gateway.parts import _kv_servers, _token_bytes, _versions, open_parts
from gateway.sections import Engine, RemoteKVServer, RemoteWorker
from gateway.strict_yaml import ConfigError

SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}
A_TOKEN = 2 * 4 * 2 * 8 * 4
"""In float32."""
CHUNK = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


def remote(folder: Path, *servers: RemoteKVServer, hosts: tuple[str | None, ...] = (None,), path: str = "model") -> Config:
    workers = tuple(RemoteWorker(f"w{number}", f"http://w:{number}", host) for number, host in enumerate(hosts))
    return Config(folder, _model(folder, path), Engine(chunk_tokens=CHUNK, workers=workers, kv_servers=servers))


def local(folder: Path, **engine: Any) -> Config:
    settings = LocalEngine(**{"python": folder / "python", "disk_path": folder / "kv", "workers": 2, **engine})
    return Config(folder, _model(folder, "model"), Engine(chunk_tokens=CHUNK, local=settings))


def _model(folder: Path, path: str) -> Model:
    return Model(name="small", path=folder / path, context_tokens=4096, dtype="float32")


class KnownStack(LocalStack):
    def versions(self) -> dict[str, str]:
        return {"vllm": "1.2", "lmcache": "3.4"}


def stack(config: Config) -> LocalStack:
    assert config.engine.local is not None
    return KnownStack(config.engine.local, config.model, chunk_tokens=CHUNK, data_path=config.data_path)


async def test_a_local_engine_has_one_server_for_all_its_workers(folder: Path, session: aiohttp.ClientSession) -> None:
    config = local(folder)
    running = stack(config)
    servers, hosts = _kv_servers(config, running, session)
    (server,) = servers
    assert isinstance(server, LMCacheServer)
    assert hosts == {name: server.name for name, _ in running.workers}
    assert len(hosts) == 2
    assert server.sees_disk
    assert server._disk is not None
    assert server._disk.encrypted


async def test_a_plain_disk_tier_has_no_key(folder: Path, session: aiohttp.ClientSession) -> None:
    config = local(folder, encrypted=False)
    ((server,), _) = _kv_servers(config, stack(config), session)
    assert isinstance(server, LMCacheServer)
    assert server._disk is not None
    assert not server._disk.encrypted


async def test_servers_elsewhere_are_as_they_are_named(folder: Path, session: aiohttp.ClientSession) -> None:
    config = remote(
        folder,
        RemoteKVServer("http://l:1", "left", disk_path=folder / "kv", model="org/model"),
        RemoteKVServer("http://r:1", "right"),
        hosts=("left", "right", "left"),
    )
    servers, hosts = _kv_servers(config, None, session)
    assert [(server.name, server.sees_disk) for server in servers] == [("left", True), ("right", False)]
    assert hosts == {"w0": "left", "w1": "right", "w2": "left"}
    left, right = servers
    assert isinstance(left, LMCacheServer)
    assert isinstance(right, LMCacheServer)
    assert left._model == "org/model"
    assert right._model == str(folder / "model")


async def test_workers_without_a_server_have_no_host(folder: Path, session: aiohttp.ClientSession) -> None:
    assert _kv_servers(remote(folder), None, session) == ((), {})


def test_versions_are_the_engines_and_whether_its_disk_is_plain(folder: Path) -> None:
    config, plain = local(folder), local(folder, encrypted=False)
    assert _versions(config, stack(config)) == {"vllm": "1.2", "lmcache": "3.4"}
    assert _versions(plain, stack(plain)) == {"vllm": "1.2", "lmcache": "3.4", "disk": "plain"}
    assert _versions(remote(folder), None) == {}


def test_what_a_token_takes_is_told_or_computed_or_unknown(folder: Path) -> None:
    assert _token_bytes(local(folder)) == A_TOKEN
    assert _token_bytes(remote(folder, RemoteKVServer("http://l:1"))) == A_TOKEN
    assert _token_bytes(remote(folder, RemoteKVServer("http://l:1", chunk_bytes=CHUNK * 100))) == 100
    assert _token_bytes(remote(folder, path="elsewhere")) == 0.0


async def test_no_gateway_starts_with_a_disk_tiers_key_that_others_can_read(folder: Path) -> None:
    key = folder / "kv.key"
    key.touch(0o600)
    key.chmod(0o640)
    config = remote(folder, RemoteKVServer("http://h:1", key_path=key))
    with pytest.raises(ConfigError, match=f"chmod 600 {key}"):
        await open_parts(config).__aenter__()
