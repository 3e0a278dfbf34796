"""The configuration: what it refuses, and where its secrets come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.extraction.extractor import Extractor
from gateway import config
from gateway.config import SECRET_VARIABLE, Config
from gateway.sections import SecondLook
from gateway.shelf import catalog_file
from gateway.strict_yaml import ConfigError
from gateway.tenants import limits_file

MODEL = "model: {name: m, path: /models/m, context_tokens: 8192}\n"
WORKERS = "engine:\n  workers:\n  - {name: w1, url: 'http://127.0.0.1:8101'}\n"
MINIMAL = f"data_path: data\n{MODEL}{WORKERS}"
STRONG = "0123456789abcdef0123456789abcdef"


def load(folder: Path, text: str) -> Config:
    path = folder / "kvshelf.yaml"
    path.write_text(text)
    return config.load(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [line.removeprefix(f"{folder / 'kvshelf.yaml'}: ") for line in caught.value.problems]


@pytest.fixture
def minimal(tmp_path: Path) -> Config:
    return load(tmp_path, MINIMAL)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The mode must not depend on it."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_the_least_a_file_may_say_is_enough(minimal: Config, tmp_path: Path) -> None:
    assert minimal.data_path == tmp_path / "data"
    assert (minimal.server.host, minimal.server.port) == ("127.0.0.1", 8000)
    assert minimal.engine.workers[0].name == "w1"
    assert minimal.embedding is None


def test_mistakes_all_over_the_file_are_told_at_once(tmp_path: Path) -> None:
    text = (
        "model: {name: Big Model, path: /m, context_tokens: 0}\n"
        "engine: {workers: [{name: w1, url: 'ftp://x'}], check_interval_s: 0}\n"
        "server: {port: 70000, hots: '::1'}\nrouting: {margin: 2}\n"
    )
    places = [problem.partition(": ")[0].strip("`") for problem in problems(tmp_path, text)]
    assert set(places) == {
        *("data_path", "model.name", "model.context_tokens", "engine.workers[0].url", "engine.check_interval_s"),
        *("server.port", "server.hots", "routing.margin"),
    }
    assert len(places) == 8


def test_a_secret_in_the_file_is_an_unknown_field(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, f"{MINIMAL}secret: {STRONG}\n")
    assert problem.startswith("`secret`: unknown field")
    assert STRONG not in problem


def test_an_engine_is_either_local_or_somebody_elses(tmp_path: Path) -> None:
    local = "  local: {python: .venv/bin/python, disk_path: kv}\n"
    words = "`engine`: give either `local` or `workers`, not both and not neither"
    assert problems(tmp_path, MINIMAL + local) == [words]
    assert problems(tmp_path, f"data_path: data\n{MODEL}engine: {{}}\n") == [words]
    alone = load(tmp_path, f"data_path: data\n{MODEL}engine:\n{local}").engine
    assert alone.local is not None
    assert alone.local.disk_path == tmp_path / "kv"


def test_a_local_engine_has_a_kv_server_of_its_own(tmp_path: Path) -> None:
    text = f"data_path: d\n{MODEL}engine:\n  local: {{python: p, disk_path: kv}}\n  kv_servers: [{{url: 'http://h:8180'}}]\n"
    assert problems(tmp_path, text) == ["`engine`: `kv_servers` go with `workers`; `local` starts its own"]


def test_by_default_the_database_is_a_file_in_the_data_folder(minimal: Config, tmp_path: Path) -> None:
    assert config.database_url(minimal, {}) == f"sqlite+aiosqlite:///{tmp_path}/data/kvshelf.db"


def test_variables_in_the_database_url_come_from_the_environment(tmp_path: Path) -> None:
    given = load(tmp_path, f"{MINIMAL}database_url: 'postgresql+asyncpg://${{DB_USER}}:${{DB_PASSWORD}}@db/kvshelf'\n")
    environment = {"DB_USER": "kv", "DB_PASSWORD": "s$ecret"}
    assert config.database_url(given, environment) == "postgresql+asyncpg://kv:s$ecret@db/kvshelf"


def test_a_variable_that_is_not_set_is_named_without_the_others_values(tmp_path: Path) -> None:
    given = load(tmp_path, f"{MINIMAL}database_url: 'postgresql+asyncpg://${{DB_PASSWORD}}@${{DB_HOST}}/kvshelf'\n")
    with pytest.raises(ConfigError, match="environment variable DB_HOST, which is not set") as caught:
        config.database_url(given, {"DB_PASSWORD": "hidden"})
    assert "hidden" not in str(caught.value)


@pytest.mark.usefixtures("open_umask")
def test_the_secret_is_made_once_and_for_its_owner_alone(minimal: Config) -> None:
    secret = config.server_secret(minimal, {})
    assert stat.S_IMODE(minimal.secret_path.stat().st_mode) == 0o600
    assert len(secret) == 64
    assert config.server_secret(minimal, {}) == secret


def test_two_gateways_have_different_secrets(tmp_path: Path) -> None:
    one, other = (load(tmp_path, MINIMAL.replace("data_path: data", f"data_path: {name}")) for name in ("one", "other"))
    assert config.server_secret(one, {}) != config.server_secret(other, {})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_a_secret_that_others_can_reach_is_refused(minimal: Config, mode: int) -> None:
    config.server_secret(minimal, {})
    minimal.secret_path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        config.server_secret(minimal, {})


def test_a_lost_secret_is_refused_rather_than_made_anew(minimal: Config) -> None:
    minimal.data_path.mkdir()
    (minimal.data_path / "kvshelf.db").touch()
    with pytest.raises(ConfigError, match=r"secret is gone.*put the file back.*openssl rand"):
        config.server_secret(minimal, {})
    assert not minimal.secret_path.exists()
    assert "secret is gone" in config.secret_problems(minimal, {})[0]
    assert config.server_secret(minimal, {SECRET_VARIABLE: STRONG}) == STRONG.encode()
    assert config.secret_problems(minimal, {SECRET_VARIABLE: STRONG}) == []


@pytest.mark.parametrize("weak", ["", "change-me", STRONG[:31], "a" * 64, "abcabc" * 12, STRONG[:30] + "  \n"])
def test_a_weak_secret_is_refused_wherever_it_comes_from(minimal: Config, weak: str) -> None:
    minimal.secret_path.parent.mkdir()
    minimal.secret_path.touch(0o600)
    minimal.secret_path.write_text(weak)
    with pytest.raises(ConfigError, match="too weak") as of_file:
        config.server_secret(minimal, {})
    with pytest.raises(ConfigError, match="too weak") as of_environment:
        config.server_secret(minimal, {SECRET_VARIABLE: weak.strip()})
    assert str(of_file.value).startswith(str(minimal.secret_path))
    assert str(of_environment.value).startswith(SECRET_VARIABLE)
    assert len(weak) < 9 or weak not in f"{of_file.value}{of_environment.value}"


def test_the_environments_secret_stands_before_the_files(minimal: Config) -> None:
    assert config.server_secret(minimal, {SECRET_VARIABLE: STRONG}) == STRONG.encode()
    assert not minimal.secret_path.exists()


def test_a_newline_after_the_secret_is_no_part_of_it(minimal: Config) -> None:
    minimal.secret_path.parent.mkdir()
    minimal.secret_path.touch(0o600)
    minimal.secret_path.write_text(f"{STRONG}\n")
    assert config.server_secret(minimal, {}) == STRONG.encode()


def test_two_workers_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "kvshelf.yaml"
    workers = "[{name: a, url: 'http://h:1'}, {name: a, url: 'http://h:2'}]"
    file.write_text(f"data_path: x\nmodel: {{name: m, path: p, context_tokens: 9}}\nengine: {{workers: {workers}}}\n")
    with pytest.raises(ConfigError, match="name` of its own"):
        config.load(file)


def test_the_answers_of_several_documents_must_fit_the_context(tmp_path: Path) -> None:
    text = MINIMAL.replace("context_tokens: 8192", "context_tokens: 4096")
    assert load(tmp_path, text).gathering.max_documents == 1
    assert load(tmp_path, f"{text}gathering: {{max_documents: 12}}\n").gathering.part_tokens == 256
    [problem] = problems(tmp_path, f"{text}gathering: {{max_documents: 13}}\n")
    assert "3328 in all" in problem
    assert "only 3072 fit" in problem
    short = "ingestion: {answer_reserve_tokens: 10}\n"  # nobody may name several: no matter how long a part would be
    assert load(tmp_path, f"{text.replace('4096', '100')}{short}").gathering.part_tokens > 90


@pytest.mark.parametrize("name", ["demo.yaml", "single-node.yaml", "two-hosts.example.yaml"])
async def test_the_configurations_that_ship_are_good(name: str) -> None:
    folder = Path(__file__).parents[2] / "configs"
    loaded = config.load(folder / name)
    assert loaded.catalog is not None
    assert await catalog_file.load(loaded.catalog, Extractor(loaded.extraction))
    assert loaded.tenants is None or limits_file.load(loaded.tenants).tenants


def test_the_example_of_two_hosts_has_workers_on_both() -> None:
    engine = config.load(Path(__file__).parents[2] / "configs" / "two-hosts.example.yaml").engine
    assert len(engine.workers) > len(engine.kv_servers) == 2
    assert set(engine.hosts.values()) == {server.name for server in engine.kv_servers}


def test_a_second_look_is_off_until_it_is_named_and_asks_two_at_least(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).routing.second_look is None
    look = load(tmp_path, f"{MINIMAL}routing: {{second_look: {{time_limit_s: 0.5}}}}\n").routing.second_look
    assert look == SecondLook(candidates=2, time_limit_s=0.5, lead_below=0.0)
    [problem] = problems(tmp_path, f"{MINIMAL}routing: {{second_look: {{candidates: 1}}}}\n")
    assert problem.startswith("`routing.second_look.candidates`")


def test_the_storage_of_limits_is_named_by_a_url_whose_password_comes_from_the_environment(tmp_path: Path) -> None:
    assert config.limits_storage(load(tmp_path, MINIMAL), {}) is None
    given = load(tmp_path, f"{MINIMAL}limits_storage: 'valkey://:${{PASSWORD}}@cache:6379/1'\n")
    assert config.limits_storage(given, {"PASSWORD": "hidden"}) == "valkey://:hidden@cache:6379/1"
    with pytest.raises(ConfigError, match="`limits_storage` names the environment variable PASSWORD"):
        config.limits_storage(given, {})
    [problem] = problems(tmp_path, f"{MINIMAL}limits_storage: 'http://cache'\n")
    assert problem.startswith("`limits_storage`")
