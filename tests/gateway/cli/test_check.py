"""`kvshelf check`: everything that is wrong, at once, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import main
from tests.fakes.tokenizers import CHATML, byte_level

CONFIG = """\
data_path: data
model: {name: small, path: model, context_tokens: 4096}
engine:
  workers:
  - {name: w1, url: "http://127.0.0.1:8101"}
catalog: catalog.yaml
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A configuration with nothing wrong: a model folder with a real tokenizer, a catalog with one document."""
    model = tmp_path / "model"
    model.mkdir()
    byte_level(["<|im_start|>", "<|im_end|>"], merges=0).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
    (tmp_path / "lease.md").write_text("# Lease\n\nThe deposit is 2,400 euros.")
    (tmp_path / "catalog.yaml").write_text("documents:\n- {id: lease, file: lease.md}\n")
    (tmp_path / "kvshelf.yaml").write_text(CONFIG)
    return tmp_path / "kvshelf.yaml"


def check(path: Path) -> Result:
    return CliRunner().invoke(main, ["check", str(path)], env={"COLUMNS": "200"})


def test_nothing_wrong_is_said_and_is_success(good: Path) -> None:
    result = check(good)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{good}: nothing wrong." in result.stdout


def test_every_mistake_in_the_file_is_told_at_once(good: Path) -> None:
    good.write_text(CONFIG.replace("context_tokens: 4096", "context: 1").replace("http://", "ftp://") + "server: {port: 99999}\n")
    result = check(good)
    assert (result.exit_code, result.stdout) == (1, "")
    for words in ("`model.context_tokens`: missing", "`model.context`: unknown field", "`engine.workers[0].url`", "`server.port`"):
        assert words in result.stderr


def test_mistakes_in_what_the_file_names_are_told_at_once(good: Path) -> None:
    (good.parent / "model" / "tokenizer.json").unlink()
    (good.parent / "catalog.yaml").write_text("documents:\n- {id: lease, file: nowhere.md}\n- {id: lease, file: lease.md}\n")
    good.write_text(CONFIG + "database_url: postgresql://kvshelf:${NO_SUCH_VARIABLE}@localhost/kvshelf\n")
    result = check(good)
    assert result.exit_code == 1
    assert "tokenizer.json is missing" in result.stderr
    assert "nowhere.md can't be read" in result.stderr
    assert "NO_SUCH_VARIABLE, which is not set" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("✗")]) == 3


def test_brackets_and_escapes_in_a_mistake_are_shown_as_they_are(good: Path) -> None:
    """They would be markup that nothing opens, or a colour of the terminal."""
    good.write_text(CONFIG + "colour[/b]: red\n")
    result = check(good)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "`colour[/b]`: unknown field" in result.stderr
    (good.parent / "catalog.yaml").write_text('documents:\n- {id: lease, file: lease.md, "a\\e[31m": 1}\n')
    good.write_text(CONFIG)
    result = check(good)
    assert result.exit_code == 1
    assert "\x1b[31m" not in result.stderr


def test_a_template_that_can_not_be_split_is_told(good: Path) -> None:
    settings = {"chat_template": "{{ messages | length }}{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"}
    (good.parent / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    result = check(good)
    assert result.exit_code == 1
    assert "chat template can't be split around a document" in result.stderr


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = check(tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert "nowhere.yaml: can't be read" in result.stderr


def test_an_exposed_secret_is_told_with_the_command_that_mends_it(good: Path) -> None:
    assert check(good).exit_code == 0
    secret = good.parent / "data" / "secret"
    assert not secret.exists()  # looking makes nothing
    secret.parent.mkdir()
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o644)
    result = check(good)
    assert result.exit_code == 1
    assert f"chmod 600 {secret}" in result.stderr


SMALL_MODEL = {"num_hidden_layers": 30, "num_attention_heads": 9, "hidden_size": 576, "num_key_value_heads": 3, "head_dim": 64}


def test_a_budget_that_the_longest_document_does_not_fit_in_is_told_with_one_that_does(good: Path) -> None:
    (good.parent / "model" / "config.json").write_text(json.dumps(SMALL_MODEL))
    for budget_gib, words in (
        (0.05, "(4,096 tokens of 23,040 bytes) takes 0.09 GiB. Raise the budget to 0.1 at least"),
        (0.1, ""),
    ):
        good.write_text(CONFIG + f"disk: {{budget_gib: {budget_gib}}}\n")
        result = check(good)
        assert (result.exit_code, words in result.stderr, bool(result.stderr)) == (1 if words else 0, True, bool(words))


def test_a_budget_is_not_judged_where_the_model_does_not_say_what_a_token_takes(good: Path) -> None:
    good.write_text(CONFIG + "disk: {budget_gib: 0.001}\n")
    assert check(good).exit_code == 0


def test_what_is_wrong_with_the_limits_is_told(good: Path) -> None:
    good.write_text(CONFIG + "tenants: tenants.yaml\nlimits_storage: 'redis://:${KVSHELF_NOT_SET}@cache'\n")
    (good.parent / "tenants.yaml").write_text("defaults: {streams: none}\n")
    result = check(good)
    assert result.exit_code == 1
    assert "`defaults.streams`" in result.stderr
    assert "KVSHELF_NOT_SET" in result.stderr


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_plain_disk_tier_is_warned_of_and_no_problem_of_its_own(good: Path, encrypted: bool) -> None:
    engine = f"  local: {{python: nowhere, disk_path: kv, encrypted: {str(encrypted).lower()}}}\n"
    good.write_text(CONFIG.partition("  workers:")[0] + engine)
    lines = check(good).stderr.splitlines()
    warned = [line for line in lines if line.startswith("! ")]
    assert [line for line in warned if "`engine.local.encrypted` is false" in line] == ([] if encrypted else warned[-1:])
    assert not [line for line in lines if line.startswith("✗") and "encrypted" in line]


def test_a_kv_server_whose_files_are_taken_for_plain_ones_is_warned_of(good: Path) -> None:
    server = "  kv_servers: [{url: 'http://127.0.0.1:8180', disk_path: kv%s}]\n"
    for key, words in (("", "The KV server lmcache has a `disk_path` and no `key_path`"), (", key_path: kv.key", "")):
        good.write_text(CONFIG.replace("catalog:", server % key + "catalog:"))
        result = check(good)
        assert (result.exit_code, words in result.stderr, bool(result.stderr)) == (0, True, bool(words))


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::"])  # noqa: S104
def test_a_listener_that_others_reach_is_told_to_have_tls_in_front(good: Path, host: str) -> None:
    good.write_text(f"{CONFIG}server: {{host: '{host}'}}\n")
    result = check(good)
    assert result.exit_code == 0
    assert f"! `server.host` is {host}: others can reach it" in result.stderr
    assert "TLS" in result.stderr


def test_a_key_that_others_can_read_is_told_with_the_command_that_mends_it(good: Path) -> None:
    key = good.parent / "kv.key"
    key.write_bytes(b"k" * 32)
    good.write_text(
        CONFIG.replace("catalog:", f"  kv_servers: [{{url: 'http://127.0.0.1:8180', disk_path: kv, key_path: {key}}}]\ncatalog:")
    )
    for mode, code in ((0o644, 1), (0o640, 1), (0o600, 0)):
        key.chmod(mode)
        result = check(good)
        assert (result.exit_code, f"chmod 600 {key}" in result.stderr) == (code, bool(code))


def test_the_local_engines_key_is_looked_at_too(good: Path) -> None:
    good.write_text(CONFIG.partition("  workers:")[0] + "  local: {python: nowhere, disk_path: kv}\n")
    key = good.parent / "data" / "kv.key"
    key.parent.mkdir()
    key.write_bytes(b"k" * 32)
    for mode in (0o644, 0o600):
        key.chmod(mode)
        assert (f"chmod 600 {key}" in check(good).stderr) == (mode == 0o644)
