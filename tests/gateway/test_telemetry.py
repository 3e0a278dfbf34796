"""Spans and metrics of real requests, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.errors import EngineFailed
from tests.fakes.engine import Fault
from tests.fakes.gateway import Gateway, eventually

DASHBOARDS = sorted((Path(__file__).parents[2] / "observability" / "dashboards").glob("*.json"))
LEASE = "# Lease\n\nThe deposit is 2,400 euros."


async def exposed(gateway: Gateway) -> dict[str, set[str]]:
    """Metric name → its labels, as /metrics has them now."""
    async with gateway.session.get(f"{gateway.url}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def use_everything(tmp_path: Path, gateway: Gateway) -> None:
    """What gives every metric a value: readings, named and found questions, a retry, a misbelief, a failure."""
    await gateway.add(LEASE, id="lease")
    await gateway.ask("What is the deposit?", document="lease")
    await gateway.ask("What is the deposit?")
    shared = [Fault(EngineFailed("fell over"))]
    for worker in gateway.workers:
        worker.faults = shared
    await gateway.ask("What is the deposit?", document="lease")
    gateway.host.ram.clear()
    gateway.host.disk.clear()
    for worker in gateway.workers:
        worker.gpu.clear()
    await gateway.ask("Why?", document="lease")


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
    async with Gateway(folder, workers=2).running() as gateway:
        await use_everything(folder, gateway)
        return await exposed(gateway)


@pytest.mark.parametrize("query", queries())
async def test_a_dashboards_query_finds_what_the_gateway_exposes(query: str, metrics: dict[str, set[str]]) -> None:
    parsed = promql_parser.parse(query.replace("$__rate_interval", "1m"))
    names = set(re.findall(r"\bkvshelf_\w+", re.sub(r"by \([^)]*\)", "", query)))
    assert parsed is not None
    assert names
    assert names <= set(metrics), f"not exposed: {names - set(metrics)}"
    for labels in re.findall(r"by \(([^)]*)\)", query):
        for label in labels.split(", "):
            assert any(label in metrics[name] for name in names), f"no metric of {names} has the label {label}"


def test_the_overview_dashboard_exists_and_its_panels_have_titles() -> None:
    assert [path.stem for path in DASHBOARDS] == ["overview"]
    panels = json.loads(DASHBOARDS[0].read_text())["panels"]
    assert len(panels) >= 10
    assert len({panel["title"] for panel in panels}) == len(panels)


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
    async with gateway.session.get(f"{gateway.url}/metrics") as response:
        text = await response.text()
    assert "kvshelf_questions_total" in text
    assert "very-secret-name" not in text
    assert "tenant-a" not in text
