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


class FakeVllm:
    """Answers as `answer` says; tells when a request came and when its client was gone."""

    def __init__(self) -> None:
        self.answer: Answer = complete_answer
        self.refusal: web.Response | None = None
        self.hangs_up: Literal["at once", "after the status"] | None = None
        self.health_status = 200
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_post("/v1/completions", self.completions)
        self.app.router.add_get("/health", self.health)

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


async def complete_answer(stream: Stream) -> None:
    await stream.text("It ")
    await stream.text("is.", finish_reason="stop")
    usage = {"prompt_tokens": 900, "completion_tokens": 2, "total_tokens": 902, "prompt_tokens_details": {"cached_tokens": 896}}
    await stream.send({"id": "cmpl-1", "choices": [], "usage": usage})
    await stream.send("[DONE]")


async def endless_answer(stream: Stream) -> None:
    await stream.text("It ")
    await asyncio.Event().wait()
