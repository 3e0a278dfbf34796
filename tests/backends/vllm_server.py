"""A server that speaks vLLM's completions: what it answers, and how it fails, is said by each test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web


class Stream:
    """The server's side of one answer."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})

    async def open(self) -> None:
        await self.response.prepare(self.request)

    async def send(self, event: dict[str, Any] | str) -> None:
        await self.raw(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())

    async def text(self, text: str, **fields: Any) -> None:
        await self.send({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": text, **fields}]})

    async def raw(self, data: bytes) -> None:
        await self.response.write(data)

    def cut(self) -> None:
        """As when the process is killed."""
        assert self.request.transport is not None
        self.request.transport.close()


Answer = Callable[[Stream], Awaitable[None]]

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="smollm2"} 2.0
# HELP vllm:num_requests_waiting_by_reason Number of waiting requests by reason.
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2",reason="capacity"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2",reason="deferred"} 1.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="smollm2"} 0.0625
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="smollm2"} 0.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="smollm2"} 7.0
"""
"""What vLLM 0.32 tells of itself, in short."""


class FakeVllm:
    """Answers as `answer` says; tells when a request came and when its client was gone."""

    def __init__(self) -> None:
        self.answer: Answer = complete_answer
        self.refusal: web.Response | None = None
        self.hangs_up: Literal["at once", "after the status"] | None = None
        self.health_status = 200
        self.metrics = METRICS
        self.metrics_answer: Callable[[], Awaitable[web.Response]] | None = None
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_post("/v1/completions", self.completions)
        self.app.router.add_get("/health", self.health)
        self.app.router.add_get("/metrics", self.tell_metrics)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        stream = Stream(request)
        if self.hangs_up is not None:
            if self.hangs_up == "after the status":  # and having announced a body
                stream.response.set_status(500)
                stream.response.content_length = 100
                await stream.open()
            stream.cut()
            return stream.response
        if self.refusal is not None:
            return self.refusal
        try:
            await stream.open()
            await self.answer(stream)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return stream.response

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.health_status)

    async def tell_metrics(self, _: web.Request) -> web.Response:
        if self.metrics_answer is not None:
            return await self.metrics_answer()
        return web.Response(body=self.metrics.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def complete_answer(stream: Stream) -> None:
    await stream.text("It ")
    await stream.text("is.", finish_reason="stop")
    usage = {"prompt_tokens": 900, "completion_tokens": 2, "total_tokens": 902, "prompt_tokens_details": {"cached_tokens": 896}}
    await stream.send({"id": "cmpl-1", "choices": [], "usage": usage})
    await stream.send("[DONE]")


async def endless_answer(stream: Stream) -> None:
    await stream.text("It ")
    await asyncio.Event().wait()
