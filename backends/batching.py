"""Embedding for many requests at once: calls that arrive while a batch is embedded go together into the next one.

Fits `backends.base.Embedder`, around any other. `Line` decides whose texts are next; `BatchingEmbedder` has them embedded
and hands the vectors out. Nothing waits for company: an idle embedder begins at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from itertools import accumulate

import numpy as np

from backends.base import Embedder, Vectors
from backends.embedding import EmbedderUnavailable

MAX_WAITING = 512

# A batch is either questions or a piece of a document, and a question waits for at most one piece. On one core here 16 short
# questions take 65 ms (130 one by one), two passages 120; in larger batches a text takes no less time.
BATCH_TEXTS = 16
BATCH_CHARACTERS = 1_600
QUESTION_BATCHES = 4
"""So many batches of questions go ahead of a document that waits; then a piece of it has its turn."""


class EmbedderOverloaded(EmbedderUnavailable):
    code = "embedding_overloaded"


class Call:
    """What one caller wants embedded. It is over once `answer` is done, be it because the caller has left."""

    def __init__(self, texts: Sequence[str], answer: asyncio.Future[Vectors]) -> None:
        self.texts = tuple(texts)
        self.answer = answer
        self._taken = 0
        self._vectors: list[Vectors] = []

    @property
    def is_question(self) -> bool:
        return len(self.texts) == 1

    @property
    def is_taken(self) -> bool:
        return self._taken == len(self.texts)

    def take(self) -> tuple[str, ...]:
        """The next of its texts, as many as make a batch."""
        texts = self.texts[self._taken : self._taken + BATCH_TEXTS]
        piece = texts[: fitting(texts)]
        self._taken += len(piece)
        return piece

    def receive(self, vectors: Vectors) -> None:
        """Those of the piece that was taken last."""
        self._vectors.append(vectors)
        if self.is_taken and not self.answer.done():
            self.answer.set_result(np.concatenate(self._vectors))

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Share = tuple[Call, tuple[str, ...]]
"""A call's part of a batch."""


class Line:
    """Who waits, in the order of arrival: questions, which are calls of one text, and all others, here called documents."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._questions: list[Call] = []
        self._documents: list[Call] = []
        self._ahead = 0
        """Batches of questions that went ahead of the documents since the last piece."""

    def __repr__(self) -> str:
        return f"<Line of {self.questions} questions and {self.documents} documents>"

    @property
    def questions(self) -> int:
        self._forget_those_over()
        return len(self._questions)

    @property
    def documents(self) -> int:
        self._forget_those_over()
        return len(self._documents)

    def add(self, call: Call) -> None:
        """Raises EmbedderOverloaded for a question where `max_waiting` wait already. Documents are never refused."""
        if not call.is_question:
            self._documents.append(call)
            return
        if len(self._questions) >= self._max_waiting and self.questions >= self._max_waiting:
            raise EmbedderOverloaded(f"The embedding model is overloaded: {self._max_waiting} questions wait for it already.")
        self._questions.append(call)

    def take(self) -> list[Share]:
        """The next batch; empty if nobody waits."""
        self._forget_those_over()
        if self._questions and (not self._documents or self._ahead < QUESTION_BATCHES):
            self._ahead = self._ahead + 1 if self._documents else 0
            count = fitting([call.texts[0] for call in self._questions[:BATCH_TEXTS]])
            batch, self._questions = self._questions[:count], self._questions[count:]
        else:
            self._ahead = 0
            batch = self._documents[:1]
        shares = [(call, call.take()) for call in batch]
        self._documents = [call for call in self._documents if not call.is_taken]
        return shares

    def fail(self, error: Exception) -> None:
        """Everybody who waits."""
        for call in (*self._questions, *self._documents):
            call.fail(error)

    def _forget_those_over(self) -> None:
        self._questions = [call for call in self._questions if not call.answer.done()]
        self._documents = [call for call in self._documents if not call.answer.done()]


class BatchingEmbedder:
    def __init__(self, embedder: Embedder, *, max_waiting: int = MAX_WAITING) -> None:
        """`max_waiting`: more questions than this don't wait, but get EmbedderOverloaded. `embedder` stays its owner's to close."""
        self.name = embedder.name
        self._embedder = embedder
        self._line = Line(max_waiting=max_waiting)
        self._batch: list[Share] = []
        self._running: asyncio.Task[Vectors] | None = None
        self._is_idle = True
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<BatchingEmbedder {self.name}: embeds {sum(len(piece) for _, piece in self._batch)} texts, {self._line!r}>"

    @property
    def waiting(self) -> int:
        """Questions that wait for the next batch."""
        return self._line.questions

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises EmbedderOverloaded, EmbedderUnavailable once this is closed, or what the batch failed with."""
        if self._is_closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        call = Call(texts, loop.create_future())
        self._line.add(call)
        if self._is_idle:
            self._is_idle = False
            # At the end of this turn of the loop, with all that arrived in it. A batch has no request's log context.
            loop.call_soon(self._begin, context=Context())
        return await call.answer

    def close(self) -> None:
        """Whoever waits gets EmbedderUnavailable, now and from now on."""
        self._is_closed = True
        self._line.fail(_closed())
        for call, _ in self._batch:
            call.fail(_closed())
        if self._running is not None:
            self._running.cancel()

    def _begin(self) -> None:
        """The next batch, where there is one."""
        self._batch = self._line.take()
        self._is_idle = not self._batch
        self._running = None
        if self._batch:
            texts = [text for _, piece in self._batch for text in piece]
            self._running = asyncio.ensure_future(self._embedder.embed(texts))
            self._running.add_done_callback(self._finish)

    def _finish(self, running: asyncio.Task[Vectors]) -> None:
        """Hand out what became of the batch, to its callers alone."""
        error = _closed() if running.cancelled() else running.exception()
        if error is not None:
            for call, _ in self._batch:
                call.fail(error)
        else:
            ends = accumulate(len(piece) for _, piece in self._batch)
            for (call, _), vectors in zip(self._batch, np.split(running.result(), list(ends)[:-1]), strict=True):
                call.receive(vectors)
        self._begin()


def fitting(texts: Sequence[str]) -> int:
    """How many of the first BATCH_TEXTS texts make a batch; a single one always does."""
    totals = accumulate(len(text) for text in texts[:BATCH_TEXTS])
    return max(1, sum(total <= BATCH_CHARACTERS for total in totals))


def _closed() -> EmbedderUnavailable:
    return EmbedderUnavailable("The embedding model was closed.")
