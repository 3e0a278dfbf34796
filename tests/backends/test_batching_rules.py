"""The rules of batching, whatever arrives, leaves, fails and is closed, at whichever turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.base import Vectors
from backends.batching import BATCH_CHARACTERS, BATCH_TEXTS, QUESTION_BATCHES, BatchingEmbedder, EmbedderOverloaded
from backends.embedding import EmbedderUnavailable
from tests.backends.test_batching import HeldEmbedder
from tests.fakes.embedder import FakeEmbedder

MAX_WAITING = 20
LENGTHS = st.sampled_from([0, 40, BATCH_CHARACTERS // 2, BATCH_CHARACTERS, 2 * BATCH_CHARACTERS])


class Caller:
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.taken = 0
        """Of its texts, how many were in a batch."""
        self.expects: list[type[BaseException] | BaseException | None] = [None]
        """How it may end; None: with its vectors."""
        self.is_over = False
        """Nothing of it may be embedded any more."""
        self.task: asyncio.Task[Vectors]

    @property
    def waits(self) -> bool:
        return not self.is_over and self.taken < len(self.texts)


class WatchedEmbedder(HeldEmbedder):
    """Tells of each batch at the moment when it is taken."""

    def __init__(self, machine: BatchingMachine) -> None:
        super().__init__()
        self._machine = machine

    def embed(self, texts: Sequence[str]) -> Coroutine[Any, Any, Vectors]:
        self._machine.is_taken(list(texts))
        return super().embed(texts)


class BatchingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.held = WatchedEmbedder(self)
        self.embedder = BatchingEmbedder(self.held, max_waiting=MAX_WAITING)
        self.callers: list[Caller] = []
        """Those who have arrived, in order, and those who are about to."""
        self.line: list[Caller] = []
        self.batch: list[Caller] = []
        self.ahead = 0
        self.failures = 0
        self.is_closed = False

    def waiting(self, *, questions: bool) -> list[Caller]:
        return [caller for caller in self.line if caller.waits and (len(caller.texts) == 1) is questions]

    def is_taken(self, texts: list[str]) -> None:
        """Of `texts` the model takes what it would take itself: the two must be the same."""
        assert not self.is_closed
        questions, documents = self.waiting(questions=True), self.waiting(questions=False)
        if questions and (not documents or self.ahead < QUESTION_BATCHES):
            self.ahead = self.ahead + 1 if documents else 0
            offered = [caller.texts[0] for caller in questions]
            self.batch = questions[: len(texts)]
        else:
            self.ahead = 0
            offered = documents[0].texts[documents[0].taken :]
            self.batch = documents[:1]
        assert texts == offered[: len(texts)]
        assert len(texts) == 1 or (len(texts) <= BATCH_TEXTS and len("".join(texts)) <= BATCH_CHARACTERS)
        more = offered[: len(texts) + 1]
        assert more == texts or len(more) > BATCH_TEXTS or len("".join(more)) > BATCH_CHARACTERS, "there was room for another"
        for caller in self.batch:
            caller.taken += 1 if len(caller.texts) == 1 else len(texts)

    async def arrive(self, caller: Caller) -> Vectors:
        if self.is_closed:
            caller.expects, caller.is_over = [EmbedderUnavailable], True
        elif len(caller.texts) == 1 and len(self.waiting(questions=True)) >= MAX_WAITING:
            caller.expects, caller.is_over = [EmbedderOverloaded], True
        self.line.append(caller)
        return await self.embedder.embed(caller.texts)

    @rule(lengths=st.lists(LENGTHS, min_size=1, max_size=2 * MAX_WAITING))
    def questions(self, lengths: list[int]) -> None:
        for length in lengths:
            self.call([length])

    @rule(lengths=st.lists(LENGTHS, min_size=2, max_size=2 * BATCH_TEXTS))
    def document(self, lengths: list[int]) -> None:
        self.call(lengths)

    def call(self, lengths: list[int]) -> None:
        name = f"caller {len(self.callers)}"
        caller = Caller([f"{name} text {number} ".ljust(length, "x") for number, length in enumerate(lengths)])
        caller.task = self.loop.create_task(self.arrive(caller))
        self.callers.append(caller)

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        if caller.task.cancel():
            caller.expects, caller.is_over = [asyncio.CancelledError], True

    @rule(number=st.integers(1, 6))
    def turn(self, number: int) -> None:
        for _ in range(number):
            self.loop.run_until_complete(asyncio.sleep(0))

    @precondition(lambda self: self.held.running is not None and not self.held.running.done())
    @rule()
    def finish(self) -> None:
        assert self.held.running is not None
        self.held.running.set_result(None)

    @precondition(lambda self: self.held.running is not None and not self.held.running.done())
    @rule()
    def fail(self) -> None:
        assert self.held.running is not None
        self.failures += 1
        error = RuntimeError(f"failure {self.failures}")
        self.held.running.set_exception(error)
        for caller in self.batch:
            if not caller.is_over:
                caller.expects, caller.is_over = [error], True

    @precondition(lambda self: len(self.callers) > 10 and not self.is_closed)
    @rule()
    def close(self) -> None:
        """Those whose batch has just ended may still hear of how."""
        self.embedder.close()
        self.is_closed = True
        for caller in self.line:
            if not caller.task.done() and caller.expects != [asyncio.CancelledError]:
                caller.expects, caller.is_over = [*caller.expects, EmbedderUnavailable], True

    @invariant()
    def everybody_gets_what_is_due(self) -> None:
        for caller in self.callers:
            if not caller.task.done():
                continue
            found = asyncio.CancelledError() if caller.task.cancelled() else caller.task.exception()
            assert any(found is expected or type(found) is expected for expected in caller.expects), (found, caller.expects)
            if found is None:
                assert np.array_equal(caller.task.result(), self.loop.run_until_complete(FakeEmbedder().embed(caller.texts)))

    def teardown(self) -> None:
        """Nobody hangs."""
        for _ in range(10_000):
            if self.held.running is not None and not self.held.running.done():
                self.finish()
            self.turn(1)
            if all(caller.task.done() for caller in self.callers):
                break
        self.turn(5)
        assert all(caller.task.done() for caller in self.callers)
        self.everybody_gets_what_is_due()
        assert self.held.running is None or self.is_closed  # of a batch that was given up before its first step nothing is told
        assert self.embedder.waiting == 0
        self.loop.close()


BatchingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestBatching = BatchingMachine.TestCase
