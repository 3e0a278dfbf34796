"""What must stay within: keys, the server's secret, documents, questions and answers are in no log line, span, metric or error.

One gateway is driven through success and through every failure that can be had, with the log as it is set up for real, at
its most talkative.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from gateway.logs import set_up_logging, told
from gateway.sections import Gathering
from router.errors import EngineFailed
from tests.fakes.engine import Fault
from tests.fakes.gateway import SECRET, Gateway, booked, eventually
from tests.fakes.store import MemoryStore

DOCUMENT = "canarydocument"
QUESTION = "canaryquestion"
ANSWER = "canaryanswer"
WRONG_KEY = "kvs_live_0123456789abcdef_canarykey"
TEXT = f"# Lease\n\nThe deposit of the {DOCUMENT} is 2,400 euros."
MESSAGES = [{"role": "user", "content": f"What is the deposit of the {QUESTION}?"}]
BUG = f"'{DOCUMENT}' and {QUESTION} and {ANSWER} are not what was expected here"


class Watched:
    """What leaves the gateway but for good answers: its log, and the bodies of its errors."""

    def __init__(self, gateway: Gateway, log: io.StringIO, records: pytest.LogCaptureFixture) -> None:
        self.gateway = gateway
        self._log = log
        self._records = records
        self.errors: list[str] = []

    @property
    def log(self) -> str:
        return self._log.getvalue() + self._records.text

    async def ask(self, *, status: int | None = None, **fields: Any) -> str:
        return await self.request("POST", "/v1/chat/completions", status=status, json={"messages": MESSAGES, **fields})

    async def request(self, method: str, path: str, *, status: int | None = None, key: str | None = None, **more: Any) -> str:
        async with self.gateway.request(method, path, key=key, **more) as response:
            text: str = await response.text()
            assert status in (None, response.status), f"{response.status}: {text}"
            if response.status >= 400 or '"error"' in text:
                self.errors.append(text)
        await booked()
        return text

    def spans(self) -> str:
        """Whatever they hold: attributes, events, status."""
        return "\n".join(span.to_json() for span in self.gateway.spans.get_finished_spans())


@contextmanager
def logging_for_real(log: io.StringIO) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stderr", log)
        set_up_logging("debug")
        try:
            yield
        finally:
            structlog.reset_defaults()


@pytest.fixture
async def watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Watched]:
    log = io.StringIO()
    caplog.set_level(logging.WARNING)  # as set_up_logging has it for what is not ours
    with logging_for_real(log):
        gateway = Gateway(tmp_path, workers=2, gathering=Gathering(max_documents=4, part_tokens=16))
        async with gateway.running():
            for worker in gateway.workers:
                worker.words = ["It is ", ANSWER, "."]
            yield Watched(gateway, log, caplog)


def assert_nothing_left(watched: Watched, *canaries: str) -> None:
    kept = {"the log": watched.log, "the spans": watched.spans(), "the errors": "\n".join(watched.errors)}
    secrets = [SECRET.decode(), SECRET.hex(), watched.gateway.key, watched.gateway.key.rpartition("_")[2], "canarykey"]
    for place, text in kept.items():
        assert text, f"{place}: nothing was looked at"
        found = [canary for canary in (*canaries, *secrets) if canary in text]
        assert not found, f"{place}: {[re.findall(f'.{{0,200}}{canary}.{{0,80}}', text)[:2] for canary in found]}"


async def add(watched: Watched, name: str = "lease") -> None:
    await watched.gateway.add(TEXT, id=name, questions=[f"What is the {DOCUMENT}?"])


async def succeed(watched: Watched) -> None:
    await add(watched)
    await add(watched, "other")
    for stream in (True, False):
        assert ANSWER in await watched.ask(document="lease", stream=stream, status=200)
    await watched.ask(documents=["lease", "other"], status=200)
    await watched.ask()
    await watched.request("POST", "/v1/route", json={"question": MESSAGES[0]["content"]}, status=200)
    move = await watched.gateway.json("POST", "/v1/documents/lease/evict", status=202)
    await watched.gateway.finished(move["id"])


async def be_refused(watched: Watched) -> None:
    """Bad requests. What they are told of is theirs, but no more of it than it takes."""
    await watched.ask(document="nowhere", status=404)
    await watched.ask(document="lease", surprise=QUESTION, status=400)
    await watched.ask(document="lease", temperature=QUESTION, status=400)
    await watched.ask(document="lease", model="other", status=404)
    for body in (
        f'{{"messages": "{QUESTION}',
        f'["{QUESTION}"]',
        f'{{"messages": [{{"role": "user", "content": {{"{QUESTION}": 1}}}}]}}',
    ):
        await watched.request("POST", "/v1/chat/completions", data=body, status=400)
    for path, body in (
        ("/v1/documents", {"text": [TEXT]}),
        ("/v1/documents", {"text": TEXT, "tags": DOCUMENT}),
        ("/v1/route", {"question": [QUESTION]}),
    ):
        await watched.request("POST", path, json=body, status=400)
    await watched.request("POST", "/v1/documents", data=TEXT.encode("utf-16"), headers={"content-type": "text/plain"})
    await watched.request(
        "POST", "/v1/documents", data=TEXT, headers={"content-type": "multipart/form-data; boundary=x"}, status=415
    )
    await watched.gateway.json("POST", "/v1/documents", json={"text": TEXT * 1000, "id": "long"}, status=400)
    await watched.request("GET", "/v1/models", key=WRONG_KEY, status=401)
    await watched.request("GET", f"/v1/nowhere?key={watched.gateway.key}", status=404)
    await watched.request("PUT", f"/v1/models?key={watched.gateway.key}", status=405)


class BrokenStore(MemoryStore):
    """With a bug that speaks of what it was given, once it is told to."""

    broken = False

    async def update_version(self, version: Any) -> None:
        if self.broken:
            raise RuntimeError(BUG)
        await super().update_version(version)

    async def add_version(self, *arguments: Any) -> None:
        if self.broken:
            raise RuntimeError(BUG)
        await super().add_version(*arguments)


async def fail_in_the_engine(watched: Watched) -> None:
    await add(watched)
    for at in (0, 1):
        for stream in (True, False):
            for worker in watched.gateway.workers:
                worker.faults = [
                    Fault(EngineFailed("Worker w failed (InternalServerError); its log says why.", started=at > 0), at=at)
                ]
            await watched.ask(document="lease", stream=stream)
    for worker in watched.gateway.workers:
        worker.problem = "is on fire"
    await watched.ask(document="lease", status=503)


async def meet_a_bug_while_answering(watched: Watched) -> None:
    await add(watched)

    async def break_at(number: int) -> None:
        if number == broken_at:
            raise RuntimeError(BUG)

    for worker in watched.gateway.workers:
        worker.before_delta = break_at
    for broken_at in (0, 1):
        await watched.ask(document="lease", status=500)
        body = {"messages": MESSAGES, "document": "lease", "stream": True}
        async with watched.gateway.request("POST", "/v1/chat/completions", json=body) as response:
            status = response.status
            with suppress(aiohttp.ClientPayloadError):  # cut in the midst of it
                watched.errors.append(await response.text() if status != 200 else "")
                await response.read()
        assert status == (200 if broken_at else 500)
    await watched.ask(documents=["lease", "lease"], status=500)


async def meet_a_bug_while_reading(watched: Watched) -> None:
    def breaks(number: int) -> Awaitable[None]:
        raise RuntimeError(BUG)

    for worker in watched.gateway.workers:
        worker.before_delta = breaks
    await watched.gateway.add(TEXT, id="lease", ready=False)
    await eventually(lambda: "reading_crashed" in watched.log)
    await watched.ask(document="lease", status=409)


async def meet_a_bug_in_routing(watched: Watched) -> None:
    await add(watched)
    await add(watched, "other")

    async def embed(texts: Any) -> Any:
        raise RuntimeError(BUG)

    watched.gateway.embedder.embed = embed  # type: ignore[assignment,method-assign]
    await watched.ask()
    await watched.request("POST", "/v1/route", json={"question": MESSAGES[0]["content"]})


async def lose_the_database(watched: Watched) -> None:
    await add(watched)
    store = watched.gateway.store
    assert isinstance(store, MemoryStore)
    store.fault = "The database can't be used: it is gone."
    await watched.request("POST", "/v1/documents", json={"text": TEXT}, status=503)
    await watched.gateway.health(status=503)
    store.fault = None


@pytest.mark.parametrize(
    "course",
    [
        succeed,
        be_refused,
        fail_in_the_engine,
        meet_a_bug_while_answering,
        meet_a_bug_while_reading,
        meet_a_bug_in_routing,
        lose_the_database,
    ],
)
async def test_nothing_that_must_stay_within_leaves(watched: Watched, course: Callable[[Watched], Awaitable[None]]) -> None:
    await course(watched)
    watched.errors.append("(looked at)")
    await watched.ask(document="nowhere", status=404)  # a span at least
    assert_nothing_left(watched, DOCUMENT, QUESTION, ANSWER)
    metrics = await watched.gateway.metrics()
    assert not [canary for canary in (DOCUMENT, QUESTION, ANSWER, "lease", watched.gateway.key) if canary in metrics]


async def test_a_bug_of_the_store_is_told_without_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, store = io.StringIO(), BrokenStore()
    with logging_for_real(log):
        async with Gateway(tmp_path, store=store).running() as gateway:
            watched = Watched(gateway, log, caplog)
            await add(watched)
            store.broken = True
            await watched.request("POST", "/v1/documents", json={"text": TEXT + " More.", "id": "lease"}, status=500)
            await watched.ask(document="nowhere", status=404)
            assert_nothing_left(watched, DOCUMENT, QUESTION, ANSWER)
    assert "builtins.RuntimeError" in log.getvalue()
    assert "test_canaries.py" in log.getvalue()


def test_an_exception_is_told_by_its_places_and_kinds() -> None:
    try:
        try:
            raise ValueError(BUG)
        except ValueError as error:
            raise RuntimeError(BUG) from error
    except RuntimeError as error:
        lines = told(error).splitlines()
    assert [line for line in lines if not line.startswith("  ")] == ["builtins.ValueError", "builtins.RuntimeError"]
    assert all(re.fullmatch(r"  \S+test_canaries\.py:\d+ in test_an_exception\w+", line) for line in lines if line.startswith("  "))
    assert "No space left on device" in told(OSError(28, "No space left on device"))
