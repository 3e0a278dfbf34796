"""Spans and metrics reach an OpenTelemetry collector where one is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from observability import telemetry as names
from observability.telemetry import Telemetry


class Collector:
    """What was posted to which path."""

    def __init__(self) -> None:
        self.received: dict[str, list[bytes]] = {}
        self.app = web.Application()
        self.app.router.add_post("/{path:.*}", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.received.setdefault(request.path, []).append(await request.read())
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    async with TestServer(collector.app) as server:
        yield collector, str(server.make_url("/"))


async def test_spans_and_metrics_are_exported_at_the_latest_when_the_gateway_ends(collector: tuple[Collector, str]) -> None:
    received, url = collector[0].received, collector[1]
    telemetry = Telemetry(otlp_endpoint=url)
    with telemetry.span(names.QUESTION_SPAN) as span:
        span.set_attribute(names.DOCUMENT, "lease")
        telemetry.questions.add(1, {names.TIER: "gpu"})
    await asyncio.to_thread(telemetry.close)  # it posts from a thread, and the collector answers from this loop
    # Protobuf keeps strings as they are.
    assert any(b"kvshelf.question" in body and b"lease" in body for body in received["/v1/traces"])
    assert any(b"kvshelf.questions" in body for body in received["/v1/metrics"])


async def test_without_an_endpoint_nothing_is_sent_and_prometheus_has_it_all_the_same(collector: tuple[Collector, str]) -> None:
    telemetry = Telemetry()
    telemetry.questions.add(1, {names.TIER: "gpu"})
    text = telemetry.prometheus().decode()
    await asyncio.to_thread(telemetry.close)
    assert 'kvshelf_questions_total{kvshelf_tier="gpu"} 1.0' in text
    assert collector[0].received == {}
