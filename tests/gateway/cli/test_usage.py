"""`kvshelf usage`: what is in the gateway's database, for people, spreadsheets and programs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backends.store.sql_store import SqlStore
from gateway import config
from gateway.__main__ import main
from router.usage import Used

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

    async def fill() -> None:
        settings = config.load(path)
        config.server_secret(settings)  # made before the database, as at a gateway's first start
        store = SqlStore(config.database_url(settings))
        await store.open()
        rows = [
            Used(tenant=tenant, key="k1", document="lease", day=f"2026-11-{day:02}", questions=day, prompt_tokens=6400 * day)
            for tenant in ("acme", "zoo")
            for day in (1, 2)
        ]
        await store.add_usage(rows)
        await store.close()

    asyncio.run(fill())
    return path


def usage(config_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["usage", str(config_path), *arguments], env={"COLUMNS": "200"})


def test_a_table_for_people(config_path: Path) -> None:
    result = usage(config_path, "--from", "2026-11-01", "--to", "2026-11-30", "--by", "tenant")
    assert result.exit_code == 0
    assert [line.split()[:5] for line in result.output.splitlines() if line.strip().startswith(("acme", "zoo"))] == [
        ["acme", "3", "0", "0", "19,200"],
        ["zoo", "3", "0", "0", "19,200"],
    ]


def test_csv_and_json_have_the_same(config_path: Path) -> None:
    chosen = ("--from", "2026-11-01", "--to", "2026-11-01", "--tenant", "zoo", "--by", "tenant,document")
    (row,) = csv.DictReader(io.StringIO(usage(config_path, *chosen, "--csv").output))
    (same,) = json.loads(usage(config_path, *chosen, "--json").output)
    assert (row["tenant"], row["document"], row["questions"]) == ("zoo", "lease", "1")
    assert {name: str(value) for name, value in same.items()} == row


def test_what_makes_no_sense_is_explained(config_path: Path) -> None:
    result = usage(config_path, "--by", "salary")
    assert result.exit_code == 1
    assert "'salary' is none of them" in result.output
