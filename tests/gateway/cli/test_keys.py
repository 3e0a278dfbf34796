"""`kvshelf keys`: made, listed and revoked in the gateway's database."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backends.store.sql_store import SqlStore
from gateway import config
from gateway.__main__ import main
from gateway.errors import Unauthorized
from gateway.tenants.authenticator import Authenticator, Principal
from router.limits import Rates

CONFIG = """\
data_path: data
model: {name: m, path: /models/m, context_tokens: 8192}
engine:
  workers:
  - {name: w1, url: "http://127.0.0.1:8101"}
"""


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "kvshelf.yaml"
    path.write_text(CONFIG)
    return path


def keys(command: str, config_path: Path, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["keys", command, str(config_path), *arguments], env={"COLUMNS": "200", **environment})


def recognised(config_path: Path, key: str) -> Principal:
    """Who the key belongs to, as the gateway of this configuration would see it. Raises Unauthorized."""

    async def ask() -> Principal:
        settings = config.load(config_path)
        store = SqlStore(config.database_url(settings))
        await store.open()
        try:
            return await Authenticator(store, config.server_secret(settings)).recognise(f"Bearer {key}")
        finally:
            await store.close()

    return asyncio.run(ask())


def test_a_created_key_is_shown_once_and_works(config_path: Path) -> None:
    result = keys("create", config_path, "tenant-a", "--name", "for CI")
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert re.fullmatch(r"kvs_live_[0-9a-f]{16}_[0-9a-f]{72}", key)
    principal = recognised(config_path, key)
    assert (principal.tenant, principal.scopes) == ("tenant-a", ("ask", "read", "write"))
    listed = keys("list", config_path).stdout + keys("list", config_path, "--json").stdout
    assert principal.key_id in listed
    assert key.split("_")[3][:16] not in listed


def test_a_key_has_the_scopes_that_were_asked_for(config_path: Path) -> None:
    result = keys("create", config_path, "tenant-a", "--scope", "ask", "--scope", "share", "--json")
    made = json.loads(result.stdout)
    assert (made["tenant"], made["scopes"]) == ("tenant-a", ["ask", "share"])
    principal = recognised(config_path, made["key"])
    assert (principal.key_id, principal.scopes) == (made["id"], ("ask", "share"))


def test_a_key_has_the_limits_that_were_asked_for(config_path: Path) -> None:
    given = ("--requests-per-minute", "60", "--streams", "2", "--tokens-per-minute", "900", "--token-budget", "5000")
    made = json.loads(keys("create", config_path, "tenant-a", *given, "--budget-period", "month", "--json").stdout)
    limits = recognised(config_path, made["key"]).limits
    assert limits == Rates(requests_per_minute=60, streams=2, tokens_per_minute=900, token_budget=5000, budget_period="month")
    assert "requests-per-minute=60" in keys("list", config_path, COLUMNS="400").stdout
    listed = json.loads(keys("list", config_path, "--json").stdout)
    assert listed[0]["limits"]["token_budget"] == 5000
    plain = json.loads(keys("create", config_path, "tenant-a", "--json").stdout)
    assert recognised(config_path, plain["key"]).limits == Rates()


def test_a_revoked_key_works_no_longer_and_is_still_listed(config_path: Path) -> None:
    made = [json.loads(keys("create", config_path, "tenant-a", "--json").stdout) for _ in range(2)]
    result = keys("revoke", config_path, made[0]["id"])
    assert (result.exit_code, result.stdout) == (0, f"{made[0]['id']}: revoked\n")
    with pytest.raises(Unauthorized, match="revoked"):
        recognised(config_path, made[0]["key"])
    assert recognised(config_path, made[1]["key"]).key_id == made[1]["id"]
    listed = {key["id"]: key for key in json.loads(keys("list", config_path, "--json").stdout)}
    assert listed[made[0]["id"]]["revoked_at"] > 0
    assert listed[made[1]["id"]]["revoked_at"] is None
    assert not any("hash" in field for key in listed.values() for field in key)


def created(config_path: Path, *arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(keys("create", config_path, "tenant-a", *arguments, "--json").stdout)
    return made


def listed_key(config_path: Path, key_id: str) -> dict[str, Any]:
    return next(key for key in json.loads(keys("list", config_path, "--json").stdout) if key["id"] == key_id)


def test_a_key_may_be_narrowed_expire_and_begin_with_another_environment(config_path: Path) -> None:
    made = created(config_path, "--env", "test", "--expire-at", "2099-01-01", "--document", "a", "--document", "b", "--tag", "x")
    assert made["key"].startswith("kvs_test_")
    assert (made["expire_at"], made["documents"], made["tags"]) == ("2099-01-01T00:00:00Z", ["a", "b"], ["x"])
    viewer = recognised(config_path, made["key"]).viewer
    assert (viewer.documents, viewer.tags) == ({"a", "b"}, {"x"})
    table = keys("list", config_path).stdout
    assert re.search(r"a b #x .*active until 2099-01-01 00:00", table)


def test_what_is_changed_counts_and_the_rest_stays(config_path: Path) -> None:
    made = created(config_path, "--name", "old", "--tag", "x", "--expire-at", "2099-01-01T10:00:00+0200")
    assert made["expire_at"] == "2099-01-01T08:00:00Z"
    result = keys("change", config_path, made["id"], "--name", "new", "--scope", "read", "--scope", "admin", "--no-expiry")
    assert (result.exit_code, result.stdout) == (0, f"{made['id']}: changed\n")
    now = listed_key(config_path, made["id"])
    assert (now["name"], now["scopes"], now["expire_at"], now["tags"]) == ("new", ["read", "admin"], None, ["x"])
    assert keys("change", config_path, made["id"], "--all-documents").exit_code == 0
    assert not recognised(config_path, made["key"]).viewer.is_narrow


def test_a_rotated_key_has_two_secrets_until_it_is_finished(config_path: Path) -> None:
    made = created(config_path)
    rotated = keys("rotate", config_path, made["id"]).stdout.strip()
    assert rotated.split("_")[2] == made["id"]
    assert {recognised(config_path, key).key_id for key in (made["key"], rotated)} == {made["id"]}
    assert "active, two secrets" in keys("list", config_path).stdout
    refused = keys("rotate", config_path, made["id"])
    assert refused.exit_code == 1
    assert "--finish" in refused.stderr
    assert "the old secret is good no longer" in keys("rotate", config_path, made["id"], "--finish").stdout
    with pytest.raises(Unauthorized):
        recognised(config_path, made["key"])
    assert recognised(config_path, rotated).key_id == made["id"]
    at_once = keys("rotate", config_path, made["id"], "--keep", "0").stdout.strip()
    with pytest.raises(Unauthorized):
        recognised(config_path, rotated)
    assert recognised(config_path, at_once).key_id == made["id"]


def test_what_was_done_with_keys_is_in_the_audit_log(config_path: Path) -> None:
    made = created(config_path, "--name", "[/x] :key:")
    rotated = keys("rotate", config_path, made["id"], "--keep", "60").stdout.strip()
    keys("change", config_path, made["id"], "--name", "new")
    keys("revoke", config_path, made["id"])

    def audit(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["audit", str(config_path), *arguments], env={"COLUMNS": "200"})

    entries = json.loads(audit("--json").stdout)
    assert [entry["action"] for entry in entries] == ["key.revoke", "key.change", "key.rotate", "key.create"]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert {(entry["actor"], entry["origin"], entry["target"], entry["tenant"]) for entry in entries} == {
        (f"cli:{user}", "cli", made["id"], "tenant-a")
    }
    table = audit()
    assert table.exit_code == 0
    assert "[/x] :key:" in table.stdout
    for secret in (made["key"].split("_")[3], rotated.split("_")[3]):
        assert secret[:16] not in table.stdout + str(entries)
    assert len(json.loads(audit("--json", "--limit", "2").stdout)) == 2
    assert json.loads(audit("--json", "--tenant", "tenant-b").stdout) == []
    assert json.loads(audit("--json", "--since", "2099-01-01").stdout) == []


def test_the_user_of_the_audit_log_is_not_the_environments(config_path: Path) -> None:
    result = keys("create", config_path, "tenant-a", LOGNAME="somebody-else", USER="somebody-else")
    assert result.exit_code == 0
    log = CliRunner().invoke(main, ["audit", str(config_path), "--json"]).stdout
    assert "somebody-else" not in log
    assert json.loads(log)[0]["actor"] == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


def test_the_list_is_a_table_that_shows_names_as_they_are(config_path: Path) -> None:
    assert "tenant" in keys("list", config_path).stdout
    keys("create", config_path, "tenant-a", "--name", "[/x] :key:")
    result = keys("list", config_path)
    assert result.exit_code == 0
    assert re.search(r"tenant-a .*\[/x\] :key: .*ask read write .*all .*\d{4}-\d\d-\d\d .*active", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create", "Tenant A"), 1, "can't be a tenant id"),
        (("create", "*"), 1, "can't be a tenant id"),
        (("create", "tenant-a", "--scope", "everything"), 2, "everything"),
        (("create", "tenant-a", "--env", "Live"), 1, "one to twelve of a-z"),
        (("create", "tenant-a", "--expire-at", "2001-01-01"), 1, "can't expire in the past"),
        (("create", "tenant-a", "--document", "../x"), 1, "../x"),
        (("change", "nowhere", "--name", "x"), 1, "There is no key nowhere."),
        (("change", "nowhere"), 1, "Nothing to change"),
        (("change", "nowhere", "--all-documents", "--tag", "x"), 2, "--all-documents"),
        (("change", "nowhere", "--no-expiry", "--expire-at", "2099-01-01"), 2, "--no-expiry"),
        (("rotate", "nowhere"), 1, "There is no key nowhere."),
        (("rotate", "nowhere", "--finish", "--keep", "5"), 2, "--finish"),
        (("revoke", "nowhere"), 1, "There is no key nowhere."),
        (("create",), 2, "TENANT"),
        (("create", "tenant-a", "--streams", "-1"), 2, "--streams"),
        (("create", "tenant-a", "--budget-period", "day"), 2, "--token-budget"),
    ],
)
def test_what_can_not_be_done_is_a_sentence_and_makes_no_key(
    config_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = keys(arguments[0], config_path, *arguments[1:])
    assert result.exit_code == code
    assert words in result.stderr
    assert json.loads(keys("list", config_path, "--json").stdout) == []


def test_all_that_is_wrong_with_the_configuration_is_told(config_path: Path) -> None:
    config_path.write_text(CONFIG.replace("name: m,", "name: Big M,").replace("data_path", "data_paht"))
    result = keys("list", config_path)
    assert result.exit_code == 1
    assert "`data_paht`: unknown field; did you mean `data_path`?" in result.stderr
    assert "`model.name`" in result.stderr


def test_a_weak_secret_is_refused_before_a_key_is_made(config_path: Path) -> None:
    result = keys("create", config_path, "tenant-a", KVSHELF_SECRET="short")
    assert result.exit_code == 1
    assert "KVSHELF_SECRET: too weak" in result.stderr


def test_a_database_that_is_none_is_a_sentence(config_path: Path) -> None:
    config_path.write_text(CONFIG + "database_url: mysql://localhost/kvshelf\n")
    result = keys("list", config_path)
    assert result.exit_code == 1
    assert "postgresql+asyncpg://" in result.stderr
