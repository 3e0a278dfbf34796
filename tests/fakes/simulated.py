"""Simulated time, and an engine in it: how long questions wait for one another, in milliseconds of ours and exactly alike each time.

The engine computes as vLLM does: in steps of a whole batch, so many sequences at a time and so many tokens of prompts in a step;
what comes beyond waits in the order in which it came. No text, no cache: a request is told what of it has to be computed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backends.settings import SPARE

T = TypeVar("T")

SEQUENCES = 8 + SPARE
STEP_TOKENS = 256
STEP_S = 0.03
TOKEN_S = 1 / 900
"""Roughly the machine of the README's figures: 6,400 tokens are read in 7 s."""


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc] - one of several, by the system
    """Doesn't wait: the time that it would have waited has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everybody waits for something that nobody will do")
        if not events and timeout:
            self.now += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now


def simulated(course: Coroutine[Any, Any, T]) -> T:
    """What this gives, in a time of its own. Only sleeping takes time; it may wait for nothing outside."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(course)


def now() -> float:
    """Seconds since the simulation began."""
    return asyncio.get_running_loop().time()


@dataclass
class _Request:
    compute: int
    generate: int
    tokens: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    """One for each token of the answer."""


class SimulatedEngine:
    def __init__(self) -> None:
        self._running: list[_Request] = []
        self._waiting: deque[_Request] = deque()
        self._stepping: asyncio.Task[None] | None = None
        self.steps = 0
        self.computed = 0

    async def answer(self, *, compute: int, generate: int) -> _Request:
        """A request, once it has its first token. `compute`: the tokens of its prompt that are in no cache."""
        request = _Request(compute, generate)
        self._waiting.append(request)
        if self._stepping is None:
            self._stepping = asyncio.create_task(self._steps())
        await request.tokens.get()
        return request

    async def _steps(self) -> None:
        while self._running or self._waiting:
            while self._waiting and len(self._running) < SEQUENCES:
                self._running.append(self._waiting.popleft())
            left = STEP_TOKENS
            answering = []
            for request in self._running:
                taken = min(request.compute, left)
                request.compute -= taken
                left -= taken
                if not request.compute:
                    answering.append(request)
            await asyncio.sleep(STEP_S + (STEP_TOKENS - left) * TOKEN_S)
            self.steps += 1
            self.computed += STEP_TOKENS - left
            for request in answering:
                request.generate -= 1
                request.tokens.put_nowait(None)
            self._running = [request for request in self._running if request.generate > 0]
        self._stepping = None


def p(share: float, values: Iterable[float]) -> float:
    """The value that this share of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
