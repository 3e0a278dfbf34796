"""How busy a worker says that it is, from its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from backends.base import Load
from backends.vllm import VllmWorker
from tests.backends.vllm_server import METRICS, FakeVllm
from tests.fakes.ports import free_port


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """With one connection: a slot that is not given back is missed at once."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as opened:
        yield opened


@pytest.fixture
async def url(vllm: FakeVllm) -> AsyncIterator[str]:
    async with TestServer(vllm.app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
def worker(url: str, session: aiohttp.ClientSession) -> VllmWorker:
    return VllmWorker("w1", url, session)


async def test_a_worker_tells_how_busy_it_is(worker: VllmWorker, vllm: FakeVllm) -> None:
    assert await worker.load() == Load(running=3, waiting=2, kv_usage=0.0625)
    assert "histogram" in vllm.metrics
    assert await worker.check() is None  # the one connection is free again


async def test_the_requests_of_several_engines_are_added_up_and_the_fullest_kv_counts(worker: VllmWorker, vllm: FakeVllm) -> None:
    second = METRICS.replace('engine="0"', 'engine="1"').replace("} 3.0", "} 4.0").replace("0.0625", "0.5")
    vllm.metrics = "".join(line for line in (METRICS + second).splitlines(keepends=True) if not line.startswith("#"))
    assert await worker.load() == Load(running=7, waiting=4, kv_usage=0.5)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running 5",
        "vllm:num_requests_running{} 5.0",
        "vllm:num_requests_running 5.0 1790000000000",
        'vllm:num_requests_running{model_name="/models/a} 9 \\"b\\" {c",engine="0"} 5e0',
    ],
)
async def test_a_gauge_is_read_whatever_its_labels_and_with_or_without_a_time(
    worker: VllmWorker, vllm: FakeVllm, line: str
) -> None:
    others = [line for line in METRICS.splitlines() if not line.startswith("vllm:num_requests_running")]
    for lines in ([line, *others], [*others, line]):
        vllm.metrics = "\n".join(lines)
        assert await worker.load() == Load(running=5, waiting=2, kv_usage=0.0625)


@pytest.mark.parametrize(
    "metrics",
    [
        "",
        "<html>not here</html>",
        METRICS.replace("vllm:num_requests_running{", "vllm:num_requests{"),
        METRICS.replace("vllm:num_requests_waiting{", "vllm:num_requests{"),
        METRICS.replace("vllm:kv_cache_usage_perc{", "vllm:gpu_cache_usage_perc{"),
        METRICS.replace("} 3.0", "} NaN"),
        METRICS.replace("} 3.0", "} +Inf"),
        METRICS.replace("} 3.0", "} three"),
    ],
)
async def test_metrics_that_do_not_tell_it_all_tell_nothing(worker: VllmWorker, vllm: FakeVllm, metrics: str) -> None:
    vllm.metrics = metrics
    assert await worker.load() is None


async def test_a_worker_that_refuses_breaks_off_or_is_not_there_tells_nothing(
    worker: VllmWorker, vllm: FakeVllm, session: aiohttp.ClientSession
) -> None:
    async def refuse() -> web.Response:
        return web.Response(status=404, text=METRICS)

    async def break_off() -> web.Response:
        return web.Response(text=METRICS, headers={"Content-Encoding": "gzip"})  # which it is not

    for vllm.metrics_answer in (refuse, break_off):
        assert await worker.load() is None
    assert await VllmWorker("w2", f"http://127.0.0.1:{free_port()}", session).load() is None
    vllm.metrics_answer = None
    assert await worker.load() is not None


async def test_a_worker_that_takes_too_long_to_tell_is_not_waited_for(
    url: str, session: aiohttp.ClientSession, vllm: FakeVllm
) -> None:
    async def never() -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    vllm.metrics_answer = never
    assert await asyncio.wait_for(VllmWorker("w1", url, session, check_timeout_s=0.05).load(), 1) is None
