"""The one middleware around an application: whose host is meant, what every answer carries, and in which pieces it goes out.

Around all of Litestar, so that its own refusals pass here too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.edge.limits import PIECE_BYTES, Limits
from gateway.errors import JSON, WrongHost, encoded, status_of

log = structlog.get_logger("door")

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)
"""Of every answer that does not say otherwise: none is to be kept, framed, or taken for what it does not say it is."""


def door(app: ASGIApp, limits: Limits) -> ASGIApp:
    """The application as it is served: every request has an id, in its log lines and in `x-request-id` on the answer."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http",):
            await app(scope, receive, send)
            return
        made, whole = secrets.token_hex(16), False
        structlog.contextvars.bind_contextvars(request_id=made)

        async def heard() -> Any:
            """A client that leaves within its body ends the request: to Litestar it would be a failure of the server."""
            nonlocal whole
            message: Any = await receive()
            if message["type"] == "http.disconnect" and not whole:
                raise asyncio.CancelledError
            whole = whole or not message.get("more_body")
            return message

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*_completed(message.get("headers", ())), (b"x-request-id", made.encode())]
            elif len(message.get("body", b"")) > PIECE_BYTES:
                for piece in _pieces(message):
                    await send(piece)
                return
            await send(message)

        try:
            refused = _refusal(scope["headers"], limits)
            if refused is not None:
                await _answer(sent, refused)
                return
            await app(scope, heard, sent)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The client left before its request was whole: nobody to answer, and nothing that failed.
        except Exception as error:
            # A bug in the midst of an answer: uvicorn would log it with its words. It ends the connection all the same.
            log.error("answer_failed", path=scope["path"], exc_info=error)  # noqa: TRY400 - told by our own processor
        finally:
            structlog.contextvars.unbind_contextvars("request_id")

    return guarded


def _refusal(headers: Iterable[tuple[bytes, bytes]], limits: Limits) -> WrongHost | None:
    """Without a `Host` (HTTP/1.0) there is no browser, whom the rule is for."""
    host = next((value for name, value in headers if name == b"host"), None)
    if host is None or limits.hosts.admits(host.decode("latin-1")):
        return None
    return WrongHost(
        f"This server is not the one that the request's Host names. If it should be, add the name to `{limits.hosts_setting}`."
    )


async def _answer(send: Any, error: WrongHost) -> None:
    body = encoded(error)
    fields = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status_of(error)[0], "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _completed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    fields = list(headers)
    names = {name for name, _ in fields}
    return [*fields, *(field for field in HEADERS if field[0] not in names)]


def _pieces(message: Any) -> Iterable[Any]:
    """A long body as several messages: the server waits between them until the client has taken what came before."""
    body, more = memoryview(message["body"]), message.get("more_body", False)
    for start in range(0, len(body), PIECE_BYTES):
        end = start + PIECE_BYTES
        yield {**message, "body": bytes(body[start:end]), "more_body": more or end < len(body)}
