"""A question over several documents: each answers by itself, from its own KV, and one more question joins the answers.

1. Whether the joined answers will fit the context is known before anything is asked (`router/joining.py`).
2. Each document is asked the client's question, a few at once; its answer is at most `part_tokens` long.
3. The answers are asked about as a text that is no document: nothing of it is kept, and no tenant meets another's.

A part is asked, retried and booked as a question about its document alone. One that fails for good fails the whole, and the
others are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec.structs import replace

from backends.base import Delta, Usage
from gateway.asking.asker import Asker
from gateway.asking.bookings import Bookings
from gateway.asking.course import Chosen, Course
from gateway.asking.question import Question
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.errors import InvalidRequest, KvshelfError
from router.joining import Part, check_room, joined, system
from router.residency import Tier

SLOWEST_FIRST = (Tier.NONE, Tier.UNKNOWN, Tier.DISK, Tier.RAM, Tier.GPU)


class Source(msgspec.Struct, frozen=True):
    """What one document answered, and from where."""

    chosen: Chosen
    answer: str
    finish_reason: str
    tier: Tier
    usage: Usage


class Gathered(msgspec.Struct, frozen=True):
    """The parts, in the order in which the documents were named, and the joining answer's deltas."""

    sources: Sequence[Source]
    deltas: AsyncIterator[Delta]


class Gatherer:
    def __init__(
        self,
        asker: Asker,
        bookings: Bookings,
        telemetry: Telemetry,
        *,
        max_documents: int,
        part_tokens: int,
        at_once: int,
        context_tokens: int,
    ) -> None:
        """`max_documents` 1: questions over several are off. `at_once`: how many documents one question asks at a time."""
        self._asker = asker
        self._bookings = bookings
        self._telemetry = telemetry
        self._max_documents = max_documents
        self._part_tokens = part_tokens
        self._at_once = at_once
        self._context_tokens = context_tokens

    def check_number(self, documents: int) -> None:
        """Raises InvalidRequest where one question may not be asked of so many."""
        if documents <= self._max_documents:
            return
        if self._max_documents == 1:
            raise InvalidRequest(
                "Questions over several documents are not allowed here. Name one document, or have the operator set "
                "`gathering.max_documents` in the configuration to 2 or more.",
                param="documents",
            )
        raise InvalidRequest(
            f"`documents` names {documents} documents; at most {self._max_documents} are allowed here "
            "(`gathering.max_documents` in the configuration).",
            param="documents",
        )

    @asynccontextmanager
    async def ask(self, question: Question, chosen: Sequence[Chosen], course: Course) -> AsyncIterator[Gathered]:
        """What each answered, and the joining answer from its first delta on. `course` is the joining question's.

        The caller holds the versions. Raises KvshelfError for what goes wrong before that delta, naming the document
        whose part it was.
        """
        joining = replace(question, system=system(question.system))
        await self._check_room(joining, chosen)
        sources = await self._gather(question, chosen, course)
        text = joined([_part(source.chosen, source.answer, cut=source.finish_reason == "length") for source in sources])
        async with self._asker.ask_of_text(joining, text, course) as deltas:
            course.tier = min((source.tier for source in sources), key=SLOWEST_FIRST.index)
            yield Gathered(sources, deltas)

    async def _check_room(self, joining: Question, chosen: Sequence[Chosen]) -> None:
        around = await self._asker.prompt_tokens(joining, joined([_part(one, "", cut=True) for one in chosen]))
        check_room(
            parts=len(chosen),
            part_tokens=self._part_tokens,
            around=around,
            context=self._context_tokens,
            asked=joining.answer_tokens,
        )

    async def _gather(self, question: Question, chosen: Sequence[Chosen], course: Course) -> Sequence[Source]:
        part = replace(
            question,
            answer_tokens=None,
            at_most=self._part_tokens,
            sampling=replace(question.sampling, logprobs=None),  # the client is told those of the answer alone
        )
        turns = asyncio.Semaphore(self._at_once)

        async def ask(one: Chosen) -> Source:
            async with turns:
                return await self._ask_one(part, one, course)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(one)) for one in chosen]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first that failed: the others were given up for it
        return [task.result() for task in tasks]

    async def _ask_one(self, part: Question, chosen: Chosen, whole: Course) -> Source:
        with self._telemetry.span(names.PART_SPAN) as span:
            course = Course(span, whole.principal, whole.admission, part=True)
            course.chosen = chosen
            try:
                self._bookings.asked(chosen)
                async with self._asker.ask(part, chosen, course) as answering:
                    self._bookings.begun(whole.tenant, chosen)
                    deltas = [delta async for delta in answering]
                course.outcome = "ok"
                await self._bookings.answered(chosen, course)
            except KvshelfError as error:
                error.args = (f"Document {chosen.document.name!r}: {error}",)
                raise
            except asyncio.CancelledError:
                course.outcome = "client_gone" if whole.outcome == "client_gone" else "given_up"
                raise
            finally:
                course.report(self._telemetry)
                self._bookings.ended(course)
        finish_reason = next((delta.finish_reason for delta in reversed(deltas) if delta.finish_reason), "stop")
        return Source(chosen, "".join(delta.text for delta in deltas), finish_reason, course.tier, course.usage)


def _part(chosen: Chosen, answer: str, *, cut: bool) -> Part:
    return Part(chosen.document.name, chosen.document.descriptor.title, answer, cut)
