"""The course of a question. The hot path: a raw ASGI handler, since a client that leaves must stop the engine at once.

1. The key gave a Principal (`gateway/auth.py`).
2. The body is parsed; what is not supported is refused by name.
3. The document: named, or found by the classifier, among what the tenant may see.
4. A worker is asked (`gateway/asking/asker.py`). Nothing is sent to the client before the first delta.
5. The answer is streamed, or gathered; a failure after the first delta is one error event.
6. Whatever happens, the span and metrics are written.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import msgspec
import structlog
from litestar.exceptions import MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from backends.base import Delta
from gateway.api.asgi import disconnected, entity, no_cache, read_body, send_in_time
from gateway.api.chat_api import ChatRequest, Shaper, parse
from gateway.asking.asker import Asker, Question
from gateway.asking.course import Chosen, Course
from gateway.auth import Principal
from gateway.errors import JSON, NotReady, Unrouted, envelope
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.tiers.uses import Uses
from gateway.upkeep.prefetcher import Prefetcher
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.documents import VersionState
from router.errors import InvalidRequest, KvshelfError, NotFound
from router.matching import Ambiguous, NoMatch, Route

log = structlog.get_logger("chat")


class ChatHandler:
    def __init__(
        self,
        shelf: Shelf,
        classifier: Classifier,
        asker: Asker,
        uses: Uses,
        prefetcher: Prefetcher,
        telemetry: Telemetry,
        *,
        model: str,
        max_body_bytes: int,
        allow_cache_bypass: bool,
        ttl_refresh: bool,
    ) -> None:
        self._shelf = shelf
        self._classifier = classifier
        self._asker = asker
        self._uses = uses
        self._prefetcher = prefetcher
        self._telemetry = telemetry
        self._model = model
        self._max_body_bytes = max_body_bytes
        self._allow_cache_bypass = allow_cache_bypass
        self._ttl_refresh = ttl_refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /v1/chat/completions`. Raises KvshelfError for whatever goes wrong before the first delta."""
        if scope.get("method") != "POST":
            raise MethodNotAllowedException(headers={"allow": "POST"})
        principal: Principal = scope["auth"]
        principal.need("ask")
        raw = await read_body(receive, self._max_body_bytes)
        with self._telemetry.tracer.start_as_current_span(names.QUESTION_SPAN) as span:
            course = Course(span)
            answering = asyncio.ensure_future(self._answer(principal, raw, no_cache(scope), course, send))
            gone = asyncio.ensure_future(disconnected(receive))
            try:
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    course.outcome = "client_gone"
                    answering.cancel()
                    await asyncio.wait((answering,))
                if not answering.cancelled():
                    answering.result()
            finally:
                for task in (answering, gone):
                    task.cancel()
                await asyncio.gather(answering, gone, return_exceptions=True)
                course.report(self._telemetry, principal.tenant)

    async def _answer(self, principal: Principal, raw: bytes, bypass: bool, course: Course, send: Send) -> None:
        request = parse(raw)
        if request.model not in (None, self._model):
            raise NotFound(f"There is no model {request.model!r}; this gateway serves {self._model!r}.", param="model")
        chosen = course.chosen = await self._choose(principal, request)
        if bypass and not self._allow_cache_bypass:
            raise InvalidRequest("`cache-control: no-cache` is not allowed here (`allow_cache_bypass` in the configuration).")
        self._uses.used((chosen.document.owner, chosen.document.id))
        question = Question(request.turns, request.system, request.answer_tokens, request.sampling, bypass)
        async with self._asker.ask(question, chosen, course) as deltas:
            # Not before: what is planned now would compete with the question for the disk.
            self._prefetcher.asked(principal.tenant, chosen.document, chosen.version)
            course.outcome = await self._send_answer(request, chosen, deltas, course, send)
        key = (chosen.document.owner, chosen.document.id)
        self._uses.book(key, course.tokens)
        if self._ttl_refresh and course.outcome == "ok":
            await self._shelf.refresh(*key, self._shelf.now())

    async def _choose(self, principal: Principal, request: ChatRequest) -> Chosen:
        """The document and the version that answers. Raises NotFound, Unrouted or NotReady."""
        score: float | None = None
        if request.document is not None:
            document = self._shelf.catalog.find(principal.tenant, request.document)
        else:
            decision = await self._classifier.find(
                self._shelf.catalog, principal.tenant, request.question, leading=self._prefetcher.hint
            )
            if not isinstance(decision, Route):
                raise _unrouted(decision)
            document, score = self._shelf.catalog.find(principal.tenant, decision.document), decision.score
        # A stale document is read by its question, if nothing else has done it yet: late, but never refused.
        stale = self._shelf.is_stale(document)
        version = await self._shelf.renew(document.owner, document.id) if stale else document.answering
        if version is not None and (version.state is VersionState.READY or (stale and version.state is not VersionState.FAILED)):
            return Chosen(document, version, score)
        if version is None or version.state is VersionState.FAILED:
            why = version.error if version is not None else "it has no content"
            raise NotReady(
                f"Document {document.id!r} could not be read: {why}", job=version.id if version else "", retry_after_s=60
            )
        raise NotReady(
            f"Document {document.id!r} is being read ({version.read_tokens} of {version.prefix_tokens} tokens).",
            job=version.id,
            retry_after_s=2,
        )

    async def _send_answer(
        self, request: ChatRequest, chosen: Chosen, deltas: AsyncIterator[Delta], course: Course, send: Send
    ) -> str:
        """Send it, whole or as a stream; how that ended. Raises KvshelfError only while nothing was sent."""
        shaper = Shaper(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._model)
        headers = [
            (b"x-document-id", chosen.document.id.encode()),
            (b"x-cache-tier", course.tier.value.encode()),
            (b"x-worker", course.worker.name.encode() if course.worker else b""),
        ]
        if chosen.score is not None:
            headers.append((b"x-route-score", f"{chosen.score:.4f}".encode()))
        if not request.stream:
            gathered = [delta async for delta in deltas]
            course.usage = next((d.usage for d in reversed(gathered) if d.usage), course.usage)
            payload = shaper.whole(gathered, course.usage)
            await send_in_time(
                send, {"type": "http.response.start", "status": 200, "headers": [*headers, *entity(JSON, len(payload))]}
            )
            await send_in_time(send, {"type": "http.response.body", "body": payload, "more_body": False})
            return "ok"
        headers.append((b"cache-control", b"no-cache"))
        await send_in_time(
            send, {"type": "http.response.start", "status": 200, "headers": [*headers, (b"content-type", b"text/event-stream")]}
        )
        await send_in_time(send, {"type": "http.response.body", "body": shaper.opening(), "more_body": True})
        try:
            async for delta in deltas:
                course.usage = delta.usage or course.usage
                if delta.text or delta.finish_reason:
                    await send_in_time(send, {"type": "http.response.body", "body": shaper.chunk(delta), "more_body": True})
        except KvshelfError as error:
            # The status line is gone: one event says it, and no [DONE] follows.
            log.warning("answer_broken_off", document=chosen.document.id, error=str(error))
            event = b"data: " + msgspec.json.encode(envelope(error)) + b"\n\n"
            await send_in_time(send, {"type": "http.response.body", "body": event, "more_body": False})
            return "broken_off"
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        ending = (shaper.usage(course.usage) if include_usage else b"") + shaper.end()
        await send_in_time(send, {"type": "http.response.body", "body": ending, "more_body": False})
        return "ok"


def _unrouted(decision: Ambiguous | NoMatch) -> Unrouted:
    candidates = [{"document": m.document, "title": m.title, "score": m.score} for m in decision.candidates]
    if isinstance(decision, Ambiguous):
        words = "Several documents fit this question about equally. Name one of the candidates in `document`."
        return Unrouted(words, code="document_ambiguous", candidates=candidates)
    words = "No document fits this question well enough. Name one in `document` if you know which it is about."
    return Unrouted(words, code="document_not_found", candidates=candidates)
