"""The course of a question. The hot path: a raw ASGI handler, since a client that leaves must stop the engine at once.

1. The key gave a Principal (`gateway/tenants/`). Should it end meanwhile, so does the answer.
2. The body is parsed; what is not supported is refused by name.
3. The document: named, or found by the classifier, among what the tenant may see; in doubt, by a second look.
4. A worker is asked (`gateway/asking/asker.py`). Nothing is sent to the client before the first delta.
   Several documents are asked each by itself, and their answers joined (`gateway/asking/gathering.py`).
5. The answer is streamed, or gathered; a failure after the first delta is one error event.
6. Whatever happens, the span and metrics are written, and what was used is booked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, nullcontext

import msgspec
import structlog
from litestar.exceptions import MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from backends.base import Delta, Usage
from gateway.api.asgi import disconnected, entity, no_cache, read_body
from gateway.api.chat_api import ChatRequest, Shaper, parse
from gateway.api.jobs_api import edition_view, reading_view
from gateway.api.limits_api import admission_of
from gateway.asking.asker import Asker
from gateway.asking.bookings import Bookings
from gateway.asking.course import Chosen, Course
from gateway.asking.gathering import Gatherer, Source
from gateway.asking.question import Question
from gateway.asking.second_look import SecondLook
from gateway.errors import JSON, NotReady, Unrouted, envelope, status_of
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.tenants.authenticator import Principal
from gateway.tenants.limiter import Admission
from gateway.tenants.streams import Streams, key_ended
from gateway.upkeep.prefetcher import Prefetcher
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.documents import Document, Version, VersionState
from router.errors import InvalidRequest, KvshelfError, NotFound
from router.matching import Ambiguous, NoMatch, Route

log = structlog.get_logger("chat")


class ChatHandler:
    def __init__(
        self,
        shelf: Shelf,
        classifier: Classifier,
        second_look: SecondLook,
        asker: Asker,
        gatherer: Gatherer,
        bookings: Bookings,
        prefetcher: Prefetcher,
        streams: Streams,
        telemetry: Telemetry,
        *,
        model: str,
        max_body_bytes: int,
        allow_cache_bypass: bool,
    ) -> None:
        self._shelf = shelf
        self._classifier = classifier
        self._second_look = second_look
        self._asker = asker
        self._gatherer = gatherer
        self._bookings = bookings
        self._prefetcher = prefetcher
        self._streams = streams
        self._telemetry = telemetry
        self._model = model
        self._max_body_bytes = max_body_bytes
        self._allow_cache_bypass = allow_cache_bypass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /v1/chat/completions`. Raises KvshelfError for whatever goes wrong before the first delta."""
        if scope.get("method") != "POST":
            raise MethodNotAllowedException(headers={"allow": "POST"})
        principal: Principal = scope["auth"]
        raw = await read_body(receive, self._max_body_bytes)
        admission = admission_of(scope)
        async with admission.question() if admission is not None else nullcontext():
            await self._ask(principal, raw, admission, scope, receive, send)

    async def _ask(
        self, principal: Principal, raw: bytes, admission: Admission | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        with self._telemetry.span(names.QUESTION_SPAN) as span, self._streams.watched(principal) as key_is_over:
            course = Course(span, principal, admission)
            answering = asyncio.ensure_future(self._answer(principal, raw, no_cache(scope), course, send))
            gone = asyncio.ensure_future(disconnected(receive))
            try:
                await asyncio.wait((answering, gone, key_is_over), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    course.outcome = "key_ended" if key_is_over.done() else "client_gone"
                    answering.cancel()
                    await asyncio.wait((answering,))
                if not answering.cancelled():
                    answering.result()
                elif key_is_over.done():
                    await _end(course, send)
            finally:
                for task in (answering, gone):
                    task.cancel()
                await asyncio.gather(answering, gone, return_exceptions=True)
                if admission is not None and course.first_token_s is None and not _clients_fault(answering):
                    admission.refund()
                course.report(self._telemetry)
                self._bookings.ended(course)

    async def _answer(self, principal: Principal, raw: bytes, bypass: bool, course: Course, send: Send) -> None:
        request = parse(raw)
        if request.model not in (None, self._model):
            raise NotFound(f"There is no model {request.model[:120]!r}; this gateway serves {self._model!r}.", param="model")
        if bypass and not self._allow_cache_bypass:
            raise InvalidRequest("`cache-control: no-cache` is not allowed here (`allow_cache_bypass` in the configuration).")
        question = Question(request.turns, request.system, request.answer_tokens, request.sampling, bypass)
        if len(request.named) > 1:
            await self._answer_of_several(principal, request, question, course, send)
            return
        chosen = course.chosen = await self._choose(principal, request, course.admission)
        self._bookings.asked(chosen)
        async with self._asker.ask(question, chosen, course) as deltas:
            self._bookings.begun(principal.tenant, chosen)
            course.outcome = await self._send_answer(request, [chosen], deltas, course, send)
        await self._bookings.answered(chosen, course)

    async def _answer_of_several(
        self, principal: Principal, request: ChatRequest, question: Question, course: Course, send: Send
    ) -> None:
        self._gatherer.check_number(len(request.named))
        documents = [self._shelf.catalog.find(principal.viewer, name) for name in request.named]
        with ExitStack() as leases:
            several = []
            for document in documents:
                several.append(await self._part(principal, request, document, None))
                leases.enter_context(self._asker.lease(several[-1].version))
            course.several = several
            async with self._gatherer.ask(question, several, course) as gathered:
                course.outcome = await self._send_answer(request, several, gathered.deltas, course, send, gathered.sources)

    async def _choose(self, principal: Principal, request: ChatRequest, admission: Admission | None) -> Chosen:
        """The document and the version that answers. Raises NotFound, Unrouted or NotReady."""
        score: float | None = None
        if request.named:
            document = self._shelf.catalog.find(principal.viewer, request.named[0])
        else:
            decision = await self._classifier.find(
                self._shelf.catalog, principal.viewer, request.questions, leading=self._prefetcher.hint
            )
            decision = await self._second_look.take(decision, principal.viewer, request.questions[-1], admission)
            if not isinstance(decision, Route):
                raise _unrouted(decision)
            document, score = self._shelf.catalog.find(principal.viewer, decision.document), decision.score
        return await self._part(principal, request, document, score)

    async def _part(self, principal: Principal, request: ChatRequest, document: Document, score: float | None) -> Chosen:
        """What answers for the document: itself, or the volume that the question is about. Raises NotReady."""
        while True:
            catalog = self._shelf.catalog
            document = catalog.find(principal.viewer, document.id)
            if document.current is not None or not document.volumes:
                return Chosen(document, await self._answering(document), score)
            best = await self._classifier.volume(catalog, principal.viewer, document, request.questions)
            # The document may have got other volumes meanwhile: then it is one of these.
            now, volume = (self._shelf.catalog.get(document.owner, name) for name in (document.id, best.id))
            if now is not None and now.current is None and volume is not None and best.id in now.volumes:
                return Chosen(volume, await self._answering(volume), score, now.volumes.index(best.id) + 1)

    async def _answering(self, document: Document) -> Version:
        """The version that answers for it. Raises NotReady."""
        # A stale document is read by its question, if nothing else has done it yet: late, but never refused.
        stale = self._shelf.is_stale(document)
        version = await self._shelf.renew(document.owner, document.id) if stale else document.answering
        if version is not None and (version.state is VersionState.READY or (stale and version.state is not VersionState.FAILED)):
            return version
        job = reading_view(document, version) if version is not None else edition_view(self._shelf.catalog, document)
        if job is None or job.state == VersionState.FAILED:
            why = job.error if job is not None else "it has no content"
            raise NotReady(
                f"Document {document.name!r} could not be read: {why}", job=job.id if job is not None else "", retry_after_s=60
            )
        raise NotReady(
            f"Document {document.name!r} is being read ({job.read_tokens} of {job.prefix_tokens} tokens).",
            job=job.id,
            retry_after_s=2,
        )

    async def _send_answer(
        self,
        request: ChatRequest,
        chosen: Sequence[Chosen],
        deltas: AsyncIterator[Delta],
        course: Course,
        send: Send,
        sources: Sequence[Source] = (),
    ) -> str:
        """Send it, whole or as a stream; how that ended. Raises KvshelfError only while nothing was sent."""
        asked = ",".join(one.document.name for one in chosen)
        shaper = Shaper(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._model)
        headers = [
            (b"x-document-id", asked.encode()),
            (b"x-cache-tier", course.tier.value.encode()),
            (b"x-worker", course.worker.name.encode() if course.worker else b""),
        ]
        headers += [(b"x-route-score", f"{one.score:.4f}".encode()) for one in chosen if one.score is not None]
        if course.queued_s:
            headers.append((b"x-queue-ms", str(round(1000 * course.queued_s)).encode()))
        if any(one.volume is not None for one in chosen):
            headers.append((b"x-document-volume", ",".join(str(one.volume or "") for one in chosen).encode()))
        if not request.stream:
            gathered = [delta async for delta in deltas]
            payload = shaper.whole(gathered, _total(course.usage, sources), sources)
            course.sent = "head"
            await send({"type": "http.response.start", "status": 200, "headers": [*headers, *entity(JSON, len(payload))]})
            await send({"type": "http.response.body", "body": payload, "more_body": False})
            return "ok"
        headers.append((b"cache-control", b"no-cache"))
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"content-type", b"text/event-stream")]})
        course.sent = "stream"
        await send({"type": "http.response.body", "body": shaper.opening(sources), "more_body": True})
        try:
            async for delta in deltas:
                if delta.text or delta.finish_reason:
                    await send({"type": "http.response.body", "body": shaper.chunk(delta), "more_body": True})
        except KvshelfError as error:
            # The status line is gone: one event says it, and no [DONE] follows.
            log.warning("answer_broken_off", document=asked, error=str(error))
            await _send_error(error, send)
            return "broken_off"
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        ending = (shaper.usage(_total(course.usage, sources)) if include_usage else b"") + shaper.end()
        await send({"type": "http.response.body", "body": ending, "more_body": False})
        return "ok"


async def _end(course: Course, send: Send) -> None:
    """End an answer whose key has ended. Raises Unauthorized while nothing was sent."""
    if course.sent == "nothing":
        raise key_ended()
    if course.sent == "stream":
        await _send_error(key_ended(), send)


async def _send_error(error: KvshelfError, send: Send) -> None:
    """The last event of a stream."""
    event = b"data: " + msgspec.json.encode(envelope(error)) + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": False})


def _clients_fault(answering: asyncio.Future[None]) -> bool:
    """Whether nothing came of the question by what the client sent."""
    error = answering.exception() if answering.done() and not answering.cancelled() else None
    return isinstance(error, KvshelfError) and 400 <= status_of(error)[0] < 429


def _total(usage: Usage, sources: Sequence[Source]) -> Usage:
    """What the whole answer took: its own usage and that of its parts."""
    for source in sources:
        usage = usage.plus(source.usage)
    return usage


def _unrouted(decision: Ambiguous | NoMatch) -> Unrouted:
    candidates = [{"document": m.document, "title": m.title, "score": m.score} for m in decision.candidates]
    if isinstance(decision, Ambiguous):
        words = "Several documents fit this question about equally. Name one of the candidates in `document`."
        return Unrouted(words, code="document_ambiguous", candidates=candidates)
    words = "No document fits this question well enough. Name one in `document` if you know which it is about."
    return Unrouted(words, code="document_not_found", candidates=candidates)
