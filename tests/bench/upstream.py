"""A worker that costs next to nothing: vLLM's completions with the answer ready, to measure what the gateway adds.

python -m tests.bench.upstream PORT
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

WORDS = 16
_CHUNK = b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'
_LAST = b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":".","logprobs":null,"finish_reason":"stop"}]}\n\n'


async def complete(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    # The prompt is not parsed: counting its commas is enough to say that all of it was cached.
    prompt = body.count(b",", 0, body.index(b"]")) or 1
    usage = (
        b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}}\n\n'
    )
    words = 1 if b'"max_tokens":1,' in body else WORDS
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_CHUNK * (words - 1) + _LAST + usage % (prompt, words, prompt) + b"data: [DONE]\n\n")
    return response


async def health(_: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/health", health)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
