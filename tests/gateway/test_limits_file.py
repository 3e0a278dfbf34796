"""The file of limits: taken up when it changes, the last good state kept where it is bad; budgets over a restart; operators' view."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.strict_yaml import ConfigError
from gateway.tenants import limits_file
from router.limits import Limits, Rates
from tests.fakes.gateway import booked, eventually
from tests.gateway.limited import LEASE, START, Limited


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    async with Limited(tmp_path).running() as running:
        await running.add(LEASE, id="lease")
        yield running


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        limits_file.load(path)
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    text = (
        "defaults: {streams: -1, wieght: 2}\n"
        "tenants:\n"
        "  acme: {requests_per_minut: 3, disk_gib: 0, ram_gib: -1, budget_period: week}\n"
        "  other: 7\n"
    )
    found = problems(tmp_path, text)
    assert [problem.partition("`: ")[0].strip("`") for problem in found] == [
        "defaults.wieght",
        "defaults.streams",
        "tenants.acme.requests_per_minut",
        "tenants.acme.budget_period",
        "tenants.acme.disk_gib",
        "tenants.acme.ram_gib",
        "tenants.other",
    ]
    assert "did you mean `weight`?" in found[0]
    [problem] = problems(tmp_path, "tenants: {Acme Inc: {}}\n")
    assert "can't be a tenant id" in problem


async def test_defaults_are_everybodys_and_what_is_named_stands_before_them(limited: Limited) -> None:
    limited.write("defaults: {requests_per_minute: 5, streams: 2}\ntenants: {tenant-a: {streams: 3}}\n")

    async def holds() -> bool:
        return bool((await limited.used())["limits"] == {"requests_per_minute": 5, "streams": 3})

    await eventually(holds)
    other = await limited.new_key("tenant-b")
    async with limited.request("GET", "/v1/models", key=other) as response:
        assert response.headers["x-ratelimit-limit-requests"] == "5"
    assert (await limited.used("tenant-b"))["limits"] == {"requests_per_minute": 5, "streams": 2}


async def test_a_bad_file_changes_nothing_and_is_said(limited: Limited) -> None:
    await limited.limit(requests_per_minute=50)
    limited.write("tenants: {tenant-a: {requests: 1}}\n")

    async def is_said() -> bool:
        return "unknown field" in str((await limited.health())["problems"].get("tenants", ""))

    await eventually(is_said)
    assert (await limited.health())["status"] == "degraded"
    assert (await limited.used())["limits"] == {"requests_per_minute": 50}
    limited.limits_path.unlink()

    async def is_missed() -> bool:
        return "can't be read" in str((await limited.health())["problems"].get("tenants", ""))

    await eventually(is_missed)
    assert (await limited.used())["limits"] == {"requests_per_minute": 50}
    await limited.limit(requests_per_minute=60)
    assert (await limited.health())["status"] == "ready"


async def test_a_gateway_starts_with_a_bad_file_and_says_so(tmp_path: Path) -> None:
    gateway = Limited(tmp_path)
    gateway.write("tenants: [\n")
    async with gateway.running():
        assert "not valid YAML" in (await gateway.health())["problems"]["tenants"]
        async with gateway.request("GET", "/v1/models") as response:
            assert response.status == 200


async def test_a_budget_outlasts_a_restart_and_ends_with_its_day(tmp_path: Path) -> None:
    limits = {"token_budget": 1000}
    first = Limited(tmp_path, limits)
    async with first.running():
        await first.add(LEASE, id="lease")
        await first.ask("What is the deposit?", document="lease", max_tokens=10)
        spent = (await first.used())["used"]["budget"]["used"]
        assert spent > 0
    second = Limited(tmp_path, limits, store=first.store, host=first.host)
    async with second.running():
        assert (await second.used())["used"]["budget"] == {
            "period": "day",
            "used": spent,
            "reserved": 0,
            "resets_at": 1_700_006_400.0,
        }
    third = Limited(tmp_path, limits, store=first.store, host=first.host)
    third.clock.at = START + 86_400
    async with third.running():
        assert (await third.used())["used"]["budget"]["used"] == 0


async def test_a_saved_budget_that_can_not_be_read_begins_anew(tmp_path: Path) -> None:
    gateway = Limited(tmp_path, {"token_budget": 1000})
    await gateway.store.open()
    await gateway.store.put_state("token budgets", b"\xc1", 0.0)
    async with gateway.running():
        assert (await gateway.used())["used"]["budget"]["used"] == 0


async def test_operators_see_limits_and_use_of_tenants_and_keys(limited: Limited) -> None:
    await limited.limit(requests_per_minute=50, documents=9)
    narrow = await limited.new_key("tenant-a", limits=Rates(tokens_per_minute=900, streams=1))
    await limited.ask("What is the deposit?", document="lease", max_tokens=10, key=narrow)
    await booked()
    found = await limited.used()
    assert found["limits"] == {"requests_per_minute": 50, "documents": 9}
    assert found["used"] == {"requests": 1, "tokens": None, "streams": None, "budget": None}
    assert found["documents"] == 1
    assert found["disk_bytes"] == found["ram_bytes"] == {"kv": limited.host_bytes}
    used = {key["id"]: (key["limits"], key["used"]) for key in found["keys"]}
    assert used[narrow.split("_")[2]] == (
        {"tokens_per_minute": 900, "streams": 1},
        {"requests": None, "tokens": 28, "streams": 0, "budget": None},
    )
    assert len(used) == 2


@pytest.mark.parametrize(("scopes", "code"), [(("ask", "documents", "share"), 403), (("admin",), 200)])
async def test_only_a_key_for_operators_sees_the_tenants(limited: Limited, scopes: tuple[str, ...], code: int) -> None:
    key = await limited.new_key("tenant-a", scopes=scopes)
    for url, expected in ((limited.admin_url, code), (limited.url, 404)):
        async with limited.session.get(f"{url}/admin/tenants", headers={"authorization": f"Bearer {key}"}) as response:
            assert response.status == expected
    async with limited.session.get(f"{limited.admin_url}/admin/tenants") as response:
        assert response.status == 401


async def test_refusals_are_metrics_by_limit_and_tenant_without_key_ids(limited: Limited) -> None:
    await limited.limit(requests_per_minute=1, documents=1)
    await limited.json("POST", "/v1/documents", json={"text": "# Another\n\nOne.", "id": "other"}, status=403)
    await limited.json("GET", "/v1/models", status=429)
    lines = [line for line in (await limited.metrics()).splitlines() if line.startswith("kvshelf_limit_refusals_total")]
    labels = {line.partition("{")[2].partition("}")[0] for line in lines}
    assert labels == {
        'kvshelf_limit="documents",kvshelf_tenant="tenant-a"',
        'kvshelf_limit="requests",kvshelf_tenant="tenant-a"',
    }


def test_limits_without_a_file_are_none() -> None:
    assert limits_file.TenantLimits(None).of("anybody") == Limits()  # type: ignore[arg-type]
