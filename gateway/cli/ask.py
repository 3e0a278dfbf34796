"""`kvshelf ask`: a question, answered."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console

from gateway.cli.client import Client, connected, read_events
from router.characters import escaped

ERR = Console(stderr=True, highlight=False)


class Answer(msgspec.Struct):
    """What a question gave, as the client saw it."""

    answer: str = ""
    document: str = ""
    routing: str = "named"
    score: float | None = None
    tier: str = "none"
    cached_tokens: int = 0
    prompt_tokens: int = 0
    first_token_s: float | None = None


async def stream_answer(
    client: Client, question: str, *, document: str | None, max_tokens: int | None, on_text: Any = None, cold: bool = False
) -> Answer:
    """Ask, streaming. `cold`: with no KV reused (where the gateway allows it). Raises ClickException."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {"document": document} if document else {}
    body |= {"max_tokens": max_tokens} if max_tokens else {}
    got = Answer()
    started = time.perf_counter()
    async with client.request(
        "POST", "/v1/chat/completions", json=body, headers={"cache-control": "no-cache"} if cold else {}
    ) as response:
        got.document, got.tier = response.headers["x-document-id"], response.headers["x-cache-tier"]
        if "x-route-score" in response.headers:
            got.routing, got.score = "found", float(response.headers["x-route-score"])
        async for _, event in read_events(response):
            if event == "[DONE]":
                return got
            if "error" in event:
                raise click.ClickException(event["error"]["message"])
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                if text and got.first_token_s is None:
                    got.first_token_s = time.perf_counter() - started
                got.answer += text
                if on_text is not None:
                    on_text(text)
            if event.get("usage"):
                got.prompt_tokens = event["usage"]["prompt_tokens"]
                got.cached_tokens = event["usage"]["prompt_tokens_details"]["cached_tokens"]
    raise click.ClickException("The answer broke off.")


@click.command()
@click.argument("question")
@click.option("-d", "--document", help="Whom to ask; absent, the gateway finds it.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer, in tokens.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@connected
async def ask(client: Client, question: str, document: str | None, max_tokens: int | None, as_json: bool) -> None:
    """Ask QUESTION and stream the answer."""

    def show(text: str) -> None:
        click.echo(escaped(text), nl=False)  # not by rich, which would take ":warning:" for an emoji and set tabs

    got = await stream_answer(client, question, document=document, max_tokens=max_tokens, on_text=None if as_json else show)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(got)))
        return
    routed = got.routing if got.score is None else f"{got.routing}, score {got.score:.2f}"
    first = f"{got.first_token_s:.2f} s" if got.first_token_s is not None else "none"
    click.echo()
    ERR.print(
        f"[dim]{got.document} ({routed}) · {got.tier} · {got.cached_tokens} of {got.prompt_tokens} tokens cached · first token {first}[/dim]"
    )
