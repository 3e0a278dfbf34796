"""Spans and metrics of real requests, the dashboards that show them, and the alerts over them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from backends.base import Memory
from gateway.sections import Routing, SecondLook
from router.errors import EngineFailed
from tests.fakes.engine import FakeHost, FakeKVServer, Fault, key_of
from tests.fakes.gateway import Gateway, config, eventually
from tests.gateway.tiers import SIZE, budget, text

OBSERVABILITY = Path(__file__).parents[2] / "observability"
DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))
ALERTS = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
LEASE = "# Lease\n\nThe deposit is 2,400 euros."
LOOKING = Routing(min_score=0.2, margin=0.02, second_look=SecondLook(lead_below=1))


class SmallServer(FakeKVServer):
    """Its RAM has room for some eight documents of `SIZE`."""

    async def memory(self) -> Memory | None:
        return Memory(sum(len(chunks) for chunks in self.host.ram.values()) * 1000, 8 * SIZE)


async def exposed(gateway: Gateway) -> dict[str, set[str]]:
    """Metric name → its labels, as /metrics has them now."""
    async with gateway.session.get(f"{gateway.admin_url}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def shows(gateway: Gateway, sample: str) -> None:
    """Return once /metrics has this sample, be it 0."""

    async def is_there() -> bool:
        async with gateway.session.get(f"{gateway.admin_url}/metrics") as response:
            return re.search(rf"^{sample}\b", await response.text(), re.MULTILINE) is not None

    await eventually(is_there)


async def use_everything(gateway: Gateway) -> None:
    """What gives every metric a value: readings, named and found questions, a retry, a misbelief, a failure, and moves."""
    await gateway.add(LEASE, id="lease")
    await gateway.ask("What is the deposit?", document="lease")
    await gateway.ask("What is the deposit?")
    shared = [Fault(EngineFailed("fell over"))]
    for worker in gateway.workers:
        worker.faults = shared
    await gateway.ask("What is the deposit?", document="lease")
    await damage(gateway)
    await bring_ahead(gateway)
    await gateway.ask("What is the deposit?")  # there is a second document by now, and so a second look
    for name in "abcdef":  # more than there is room for, in RAM and then on disk
        await gateway.add(text(name), id=name)
    await shows(gateway, "kvshelf_evicted_ram_bytes_total")
    await shows(gateway, "kvshelf_evicted_bytes_total")
    gateway.host.ram.clear()
    gateway.host.disk.clear()
    for worker in gateway.workers:
        worker.gpu.clear()
    await gateway.ask("Why?", document="lease")
    await asyncio.gather(*(gateway.ask("Why?", document="lease") for _ in range(8)))  # more than two workers take at once


async def damage(gateway: Gateway) -> None:
    """A question meets damaged files, and what it was about is written anew."""
    (salt,) = gateway.host.disk
    gateway.host.damaged.update(key_of(chunk) for chunk in gateway.host.disk[salt])
    gateway.host.forget_ram()
    for worker in gateway.workers:
        worker.gpu.clear()
    await gateway.ask("Why?", document="lease")
    await shows(gateway, "kvshelf_repairs_total")


async def bring_ahead(gateway: Gateway) -> None:
    """A pinned document that left RAM is brought back, and then asked; another is evicted by hand."""
    await gateway.json("PATCH", "/v1/documents/lease", json={"pinned": True})
    await gateway.ask("Who?", document="lease")
    gateway.host.forget_ram()
    await gateway.add("# Other\n\nOf no use.", id="other")
    await gateway.ask("Zebras graze?", status=404)  # wakes the planner, and has nothing to wait for
    await shows(gateway, "kvshelf_prefetched_bytes_total")
    await gateway.ask("Who?", document="lease")
    await shows(gateway, "kvshelf_prefetches_total")
    move = await gateway.json("POST", "/v1/documents/other/evict", status=202)
    assert await gateway.finished(move["id"]) == "done"


def queries() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{path.stem}: {panel['title']}")
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


@pytest.fixture(scope="module")
async def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    folder = tmp_path_factory.mktemp("metrics")
    engine = replace(config(folder).engine, at_once=2)
    gateway = Gateway(folder, workers=2, disk=budget(5), routing=LOOKING, engine=engine)
    gateway.kv_servers[0] = SmallServer(gateway.host)
    async with gateway.running():
        await use_everything(gateway)
        return await exposed(gateway)


def check(query: str, metrics: dict[str, set[str]]) -> None:
    """The query is PromQL, and its metrics and labels are among those."""
    parsed = promql_parser.parse(query.replace("$__rate_interval", "1m"))
    bare = re.sub(r"by \([^)]*\)|\{[^}]*\}", "", query)
    names = set(re.findall(r"\bkvshelf_\w+", bare))
    assert parsed is not None
    assert names
    assert names <= set(metrics), f"not exposed: {names - set(metrics)}"
    grouped = [label for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(", ")]
    chosen = re.findall(r"(\w+)[=!]~?\"", query)
    for label in {*grouped, *chosen} - {"instance"}:  # which Prometheus adds
        assert any(label in metrics[name] for name in names), f"no metric of {names} has the label {label}"


@pytest.mark.parametrize("query", queries())
async def test_a_dashboards_query_finds_what_the_gateway_exposes(query: str, metrics: dict[str, set[str]]) -> None:
    check(query, metrics)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for group in ALERTS["groups"] for rule in group["rules"]])
async def test_an_alert_finds_what_the_gateway_exposes_and_says_what_to_do(
    rule: dict[str, Any], metrics: dict[str, set[str]]
) -> None:
    check(rule["expr"], metrics)
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}


async def test_every_metric_that_is_ever_exposed_is_on_a_dashboard_or_in_an_alert(metrics: dict[str, set[str]]) -> None:
    """Else nobody would look at it."""
    shown = " ".join([path.read_text() for path in DASHBOARDS] + [(OBSERVABILITY / "alerts.yaml").read_text()])
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics if name.startswith("kvshelf_")}
    assert {family for family in families if family not in shown} == set()


def test_the_dashboards_exist_and_their_panels_have_titles() -> None:
    assert [path.stem for path in DASHBOARDS] == ["overview", "tiers"]
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert len(panels) >= 10
        assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)


async def test_a_kv_server_that_is_away_and_a_foreign_file_are_gauges(tmp_path: Path) -> None:
    host = FakeHost(foreign=["notes.txt"])
    async with Gateway(tmp_path, host=host).running() as gateway:
        await shows(gateway, r'kvshelf_foreign_files\{kvshelf_host="kv"\} 1')
        await shows(gateway, r'kvshelf_kv_servers_healthy\{kvshelf_host="kv"\} 1')
        gateway.kv_server.problem = "is on strike"
        await shows(gateway, r'kvshelf_kv_servers_healthy\{kvshelf_host="kv"\} 0')


def test_a_wrong_query_would_be_noticed() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum(rate(kvshelf_questions_total[1m])")


async def test_a_question_is_one_span_with_what_happened(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gateway.spans.clear()
    answer = await gateway.ask("What is the deposit?")
    await eventually(gateway.spans.get_finished_spans)  # written when the answer is through
    (span,) = gateway.spans.get_finished_spans()
    assert span.name == "kvshelf.question"
    attributes = dict(span.attributes or {})
    assert attributes.pop("kvshelf.first_token_s") > 0  # type: ignore[operator]
    assert attributes == {
        "kvshelf.tenant": "tenant-a",
        "kvshelf.document": "lease",
        "kvshelf.routing": "found",
        "kvshelf.score": pytest.approx(float(answer["headers"]["x-route-score"])),
        "kvshelf.tier": "ram",
        "kvshelf.worker": "worker-1",
        "kvshelf.outcome": "ok",
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.cached_tokens": answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.usage.output_tokens": 3,
    }


async def test_a_failed_question_is_an_error_span(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gateway.spans.clear()
    gateway.workers[0].faults = [Fault(EngineFailed("fell over"))]
    await gateway.ask("What is the deposit?", document="lease", status=502)
    await eventually(gateway.spans.get_finished_spans)
    (span,) = gateway.spans.get_finished_spans()
    assert not span.status.is_ok
    assert dict(span.attributes or {})["kvshelf.outcome"] == "error"


async def test_a_reading_is_a_span(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    reading = [span for span in gateway.spans.get_finished_spans() if span.name == "kvshelf.reading"]
    assert [dict(span.attributes or {}) for span in reading] == [{"kvshelf.document": "lease", "kvshelf.outcome": "ready"}]


async def test_no_metric_names_a_document_or_a_tenant(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="very-secret-name")
    await gateway.ask("What is the deposit?", document="very-secret-name")
    async with gateway.session.get(f"{gateway.admin_url}/metrics") as response:
        text = await response.text()
    assert "kvshelf_questions_total" in text
    assert "very-secret-name" not in text
    assert "tenant-a" not in text
