"""Calls of many put together: who is next, what each gets, and that nobody hangs. The embedder is a fake that is told when to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

from backends.base import Vectors
from backends.batching import BATCH_CHARACTERS, BATCH_TEXTS, QUESTION_BATCHES, BatchingEmbedder, EmbedderOverloaded
from backends.embedding import EmbedderUnavailable
from tests.fakes.embedder import FakeEmbedder


class HeldEmbedder(FakeEmbedder):
    """Embeds only when it is told to, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.running: asyncio.Future[None] | None = None
        """The batch that is being embedded: to be finished with a result, or with an error."""

    def embed(self, texts: Sequence[str]) -> Coroutine[Any, Any, Vectors]:
        assert self.running is None, "two batches at once"
        self.batches.append(list(texts))
        self.running = asyncio.get_running_loop().create_future()
        return self._embed(texts, self.running)

    async def _embed(self, texts: Sequence[str], running: asyncio.Future[None]) -> Vectors:
        try:
            await running
        finally:
            self.running = None
        return await super().embed(texts)

    async def finish(self, error: BaseException | None = None) -> None:
        """End the batch that runs, and let the next one begin."""
        assert self.running is not None
        if error is None:
            self.running.set_result(None)
        else:
            self.running.set_exception(error)
        await turns()


async def turns(number: int = 5) -> None:
    """Let everything happen that can happen now."""
    for _ in range(number):
        await asyncio.sleep(0)


class Callers:
    """An embedder with callers, each a task."""

    def __init__(self, *, max_waiting: int = 512) -> None:
        self.held = HeldEmbedder()
        self.embedder = BatchingEmbedder(self.held, max_waiting=max_waiting)
        self.tasks: list[asyncio.Task[Vectors]] = []

    async def call(self, *texts: str) -> asyncio.Task[Vectors]:
        task = asyncio.create_task(self.embedder.embed(texts))
        self.tasks.append(task)
        await turns()
        return task

    async def finish_all(self) -> None:
        while self.held.running is not None:
            await self.held.finish()


def assert_ended(error: type[BaseException] | BaseException, *tasks: asyncio.Task[Vectors]) -> None:
    for task in tasks:
        found = task.exception()
        assert found is error if isinstance(error, BaseException) else type(found) is error


def question(number: int, length: int = 40) -> str:
    return f"question {number} ".ljust(length, "?")


def passages(number: int, length: int = BATCH_CHARACTERS // 2) -> list[str]:
    return [f"passage {one} ".ljust(length, ".") for one in range(number)]


async def test_the_first_question_begins_at_once_and_those_that_come_meanwhile_go_together() -> None:
    callers = Callers()
    for number in range(4):
        await callers.call(question(number))
    assert callers.held.batches == [[question(0)]]
    assert repr(callers.embedder) == "<BatchingEmbedder words: embeds 1 texts, <Line of 3 questions and 0 documents>>"
    await callers.finish_all()
    assert callers.held.batches[1:] == [[question(1), question(2), question(3)]]
    expected = await FakeEmbedder().embed([question(number) for number in range(4)])
    assert np.array_equal(np.concatenate([task.result() for task in callers.tasks]), expected)


async def test_those_that_come_in_one_turn_go_together_from_the_first_on() -> None:
    callers = Callers()
    asking = [asyncio.ensure_future(callers.embedder.embed([question(number)])) for number in range(3)]
    await turns()
    await callers.finish_all()
    assert len(callers.held.batches) == 1
    assert [len(await one) for one in asking] == [1, 1, 1]


async def test_a_document_goes_in_pieces_and_questions_go_before_the_next_one() -> None:
    callers, texts = Callers(), passages(5)
    document = await callers.call(*texts)
    await callers.call(question(0))
    await callers.call(question(1))
    await callers.finish_all()
    assert callers.held.batches == [texts[:2], [question(0), question(1)], texts[2:4], texts[4:]]
    assert np.array_equal(await document, await FakeEmbedder().embed(texts))


async def test_a_document_has_its_turn_although_questions_never_end() -> None:
    callers, texts = Callers(), passages(6)
    await callers.call(*texts)
    for number in range(4 * QUESTION_BATCHES):
        await callers.call(question(number))
        await callers.held.finish()
    kinds = ["piece" if batch[0].startswith("passage") else "questions" for batch in callers.held.batches]
    turn = ["piece", *["questions"] * QUESTION_BATCHES]
    assert kinds[: 2 * len(turn)] == turn * 2
    await callers.finish_all()


async def test_one_document_is_read_to_its_end_before_the_next() -> None:
    callers = Callers()
    first = await callers.call(*passages(4))
    second = await callers.call("another", "short", "one")
    await callers.held.finish()
    await callers.held.finish()
    assert (first.done(), second.done()) == (True, False)
    await callers.finish_all()
    assert [len(batch) for batch in callers.held.batches] == [2, 2, 3]


async def test_a_batch_of_questions_has_a_limit_in_number_and_in_length() -> None:
    callers = Callers()
    await callers.call("the first, alone")
    for number in range(BATCH_TEXTS + 1):
        await callers.call(question(number))
    for number in range(3):
        await callers.call(question(number, 10 * BATCH_CHARACTERS))
    await callers.finish_all()
    assert [len(batch) for batch in callers.held.batches] == [1, BATCH_TEXTS, 1, 1, 1, 1]


async def test_a_question_too_many_is_refused_and_a_document_is_not() -> None:
    callers = Callers(max_waiting=2)
    for number in range(3):
        await callers.call(question(number))
    assert callers.embedder.waiting == 2
    assert_ended(EmbedderOverloaded, await callers.call(question(3)))
    assert "overloaded" in str(callers.tasks[-1].exception())
    assert issubclass(EmbedderOverloaded, EmbedderUnavailable)
    document = await callers.call(*passages(2))
    await callers.finish_all()
    assert len(await document) == 2
    last = await callers.call(question(4))
    await callers.finish_all()
    assert len(await last) == 1


async def test_who_has_left_is_not_embedded_and_takes_no_place() -> None:
    callers = Callers(max_waiting=2)
    for number in range(3):
        await callers.call(question(number))
    document = await callers.call(*passages(2))
    callers.tasks[1].cancel()
    document.cancel()
    await callers.call(question(3))
    await callers.finish_all()
    assert callers.held.batches == [[question(0)], [question(2), question(3)]]


async def test_the_rest_of_a_document_whose_reader_left_is_not_embedded() -> None:
    callers = Callers()
    document = await callers.call(*passages(6))
    document.cancel()
    await callers.finish_all()
    assert callers.held.batches == [passages(6)[:2]]


async def test_a_failure_reaches_the_callers_of_its_batch_and_no_others() -> None:
    callers = Callers()
    first, *others = [await callers.call(question(number)) for number in range(3)]
    document = await callers.call(*passages(4))
    await callers.held.finish()
    error, again = RuntimeError("out of memory"), RuntimeError("again")
    await callers.held.finish(error)
    assert_ended(error, *others)
    await callers.held.finish(again)
    assert_ended(again, document)
    assert len(await first) == 1
    later = await callers.call(question(3))
    await callers.finish_all()
    assert len(await later) == 1
    assert sum(map(len, callers.held.batches)) == 6, "a document that has failed is not read on"


async def test_closing_ends_everybody_who_waits() -> None:
    callers = Callers()
    waiting = [await callers.call(question(number)) for number in range(2)] + [await callers.call(*passages(4))]
    callers.embedder.close()
    await turns()
    assert_ended(EmbedderUnavailable, *waiting)
    assert callers.held.running is None, "nothing is left behind on the loop"
    with pytest.raises(EmbedderUnavailable):
        await callers.embedder.embed(["too late"])
    callers.embedder.close()
    assert callers.held.batches == [[question(0)]]


async def test_an_idle_embedder_can_be_closed() -> None:
    Callers().embedder.close()


async def test_an_embedder_that_gives_up_does_not_cancel_its_callers() -> None:
    """As a thread does that is shut down with work before it."""
    callers = Callers()
    asking = await callers.call("a question")
    await callers.held.finish(asyncio.CancelledError())
    assert_ended(EmbedderUnavailable, asking)


async def test_no_texts_are_embedded_as_the_embedder_does_it() -> None:
    callers = Callers()
    empty = await callers.call()
    await callers.finish_all()
    assert (await empty).shape == (await FakeEmbedder().embed([])).shape


async def test_a_batch_knows_nothing_of_the_request_that_began_it() -> None:
    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    seen = []

    class Curious(FakeEmbedder):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            seen.append(request_id.get())
            return await super().embed(texts)

    request_id.set("r1")
    await BatchingEmbedder(Curious()).embed(["a question"])
    assert seen == ["none"]
