"""A worker over HTTP, against a server that streams as vLLM does, and fails as it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from backends.base import Delta, TokenLogprobs, Usage
from backends.vllm import VllmWorker
from router.errors import EngineFailed, EngineUnavailable
from tests.backends.vllm_server import Answer, FakeVllm, Stream, complete_answer, endless_answer
from tests.fakes.ports import free_port

BODY = (b'{"prompt":[1,2', b',3],"stream":true}')
LEFT_WITHIN_S = 0.25


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """With one connection: a slot that is not given back is missed at once."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as opened:
        yield opened


@pytest.fixture
async def url(vllm: FakeVllm) -> AsyncIterator[str]:
    async with TestServer(vllm.app) as server:  # it cancels a handler whose client is gone
        yield str(server.make_url("/"))


@pytest.fixture
def worker(url: str, session: aiohttp.ClientSession) -> VllmWorker:
    return VllmWorker("w1", url, session)


async def answered(worker: VllmWorker) -> list[Delta]:
    async with worker.complete(BODY) as deltas:
        return [delta async for delta in deltas]


async def failure(worker: VllmWorker) -> EngineFailed:
    with pytest.raises(EngineFailed) as caught:
        await answered(worker)
    return caught.value


async def test_an_answer_is_its_texts_and_then_its_usage(worker: VllmWorker) -> None:
    assert await answered(worker) == [
        Delta("It "),
        Delta("is.", "stop"),
        Delta(usage=Usage(prompt_tokens=900, completion_tokens=2, cached_tokens=896)),
    ]


async def test_a_body_is_sent_in_its_parts_as_json_of_a_known_length(worker: VllmWorker, vllm: FakeVllm) -> None:
    await answered(worker)
    assert vllm.bodies == [b"".join(BODY)]
    assert vllm.requests[0].content_type == "application/json"
    assert vllm.requests[0].content_length == len(b"".join(BODY))


async def test_text_with_line_ends_and_beyond_ascii_arrives_whole(worker: VllmWorker, vllm: FakeVllm) -> None:
    async def answer(stream: Stream) -> None:
        await stream.text("§ 2\n\ndata: – 第二章 \u2028")
        await stream.send("[DONE]")

    vllm.answer = answer
    assert await answered(worker) == [Delta("§ 2\n\ndata: – 第二章 \u2028")]


async def test_events_may_arrive_in_pieces_with_comments_between(worker: VllmWorker, vllm: FakeVllm) -> None:
    async def answer(stream: Stream) -> None:
        for piece in (b": ping\n\nda", b'ta: {"choices": [{"te', b'xt": "It"}]}\n', b"\nevent: x\r\ndata:[DONE]\r\n\r\n"):
            await stream.raw(piece)
            await asyncio.sleep(0)

    vllm.answer = answer
    assert await answered(worker) == [Delta("It")]


async def test_log_probabilities_are_passed_on(worker: VllmWorker, vllm: FakeVllm) -> None:
    logprobs = {"text_offset": [0], "tokens": ["It"], "token_logprobs": [-0.5], "top_logprobs": [{"It": -0.5, "Is": -1.5}]}

    async def answer(stream: Stream) -> None:
        await stream.text("It", logprobs=logprobs)
        await stream.text("", logprobs={"text_offset": [0], "tokens": ["?"], "token_logprobs": [None], "top_logprobs": [None]})
        await stream.send("[DONE]")

    vllm.answer = answer
    assert [delta.logprobs for delta in await answered(worker)] == [
        TokenLogprobs(["It"], [-0.5], [{"It": -0.5, "Is": -1.5}]),
        TokenLogprobs(["?"], [None], [None]),
    ]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(5, 1, 0)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(5, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5, 0, 0)),
    ],
)
async def test_usage_without_details_counts_nothing_as_cached(
    worker: VllmWorker, vllm: FakeVllm, usage: dict[str, Any], expected: Usage
) -> None:
    async def answer(stream: Stream) -> None:
        await stream.send({"choices": [{"text": "It"}], "usage": usage})
        await stream.send("[DONE]")

    vllm.answer = answer
    assert await answered(worker) == [Delta("It", usage=expected)]


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            lambda stream: stream.send({"error": {"message": "prompt: [1, 2, 3]", "type": "InternalServerError", "code": 500}}),
            "Worker w1 failed (InternalServerError); its log says why.",
        ),
        (lambda stream: stream.send("{"), "Worker w1 sent something unreadable"),
        (lambda stream: stream.send({"choices": [{"text": 5}]}), "Worker w1 sent something unreadable"),
        (lambda stream: stream.raw(b"data: " + b"x" * 2_000_000 + b"\n\n"), "Worker w1 broke off"),
        (lambda stream: asyncio.sleep(0), "Worker w1 ended its answer early"),
    ],
    ids=["error event", "no JSON", "another shape", "endless line", "early end"],
)
async def test_an_answer_that_goes_wrong_says_whether_a_token_had_come(
    worker: VllmWorker, vllm: FakeVllm, fault: Answer, words: str, *, started: bool
) -> None:
    async def answer(stream: Stream) -> None:
        await stream.text("It" if started else "")
        await fault(stream)

    vllm.answer = answer
    error = await failure(worker)
    assert str(error).startswith(words)
    assert error.started is started


async def test_bytes_that_can_not_be_read_are_not_shown(worker: VllmWorker, vllm: FakeVllm) -> None:
    """aiohttp quotes them in its error: they may be an answer's."""

    async def answer(stream: Stream) -> None:
        await stream.text("It")
        assert stream.request.transport is not None
        stream.request.transport.write(b"the canary of an answer in the place of a chunk's size\r\n")

    vllm.answer = answer
    with pytest.raises((EngineFailed, EngineUnavailable)) as caught:
        await answered(worker)
    assert "canary" not in str(caught.value)


async def test_a_worker_that_dies_in_the_middle_has_failed(worker: VllmWorker, vllm: FakeVllm) -> None:
    read = asyncio.Event()

    async def answer(stream: Stream) -> None:
        await stream.text("It ")
        await read.wait()
        stream.cut()

    vllm.answer = answer
    async with worker.complete(BODY) as deltas:
        assert (await anext(deltas)).text == "It "
        read.set()
        with pytest.raises(EngineFailed, match="broke off") as caught:
            await anext(deltas)
    assert caught.value.started


async def test_a_worker_that_falls_silent_has_failed(url: str, session: aiohttp.ClientSession, vllm: FakeVllm) -> None:
    vllm.answer = endless_answer
    error = await failure(VllmWorker("w1", url, session, stall_timeout_s=0.1))
    assert "broke off" in str(error)
    assert error.started
    await asyncio.wait_for(vllm.gone.wait(), LEFT_WITHIN_S)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_worker_that_refuses_work_now_is_unavailable(worker: VllmWorker, vllm: FakeVllm, status: int) -> None:
    vllm.refusal = web.json_response({"error": {"message": "The engine is asleep.", "code": status}}, status=status)
    with pytest.raises(EngineUnavailable, match=rf"refuses work now \({status}, no known reason\)\.$"):
        await answered(worker)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"error": {"message": "[1, 2, 3] is too large", "type": "BadRequestError"}}, "BadRequestError"),
        ({"error": {"message": "wrong", "type": None}}, "no known reason"),
        ({"error": {"message": "wrong", "type": "the prompt: 1, 2, 3"}}, "no known reason"),
        ({"detail": "Not Found"}, "no known reason"),
        ({"error": "plain words"}, "no known reason"),
    ],
)
async def test_a_worker_that_refuses_the_request_has_failed(
    worker: VllmWorker, vllm: FakeVllm, refusal: dict[str, Any], words: str
) -> None:
    vllm.refusal = web.json_response(refusal, status=400)
    error = await failure(worker)
    assert str(error) == f"Worker w1 answered 400 ({words}); its log says why."
    assert not error.started


async def test_a_refusal_of_any_length_becomes_a_short_sentence(worker: VllmWorker, vllm: FakeVllm) -> None:
    vllm.refusal = web.Response(status=500, body=b"\xff<html>" + b"x" * 100_000)
    assert len(str(await failure(worker))) < 400


async def test_a_worker_that_is_not_there_is_unavailable(session: aiohttp.ClientSession) -> None:
    worker = VllmWorker("w1", f"http://127.0.0.1:{free_port()}", session)
    with pytest.raises(EngineUnavailable, match="Worker w1 can't be reached"):
        await answered(worker)
    assert "can't be reached at http://127.0.0.1:" in (await worker.check() or "")


async def test_a_worker_that_hangs_up_before_it_answers_is_unavailable(worker: VllmWorker, vllm: FakeVllm) -> None:
    vllm.hangs_up = "at once"
    with pytest.raises(EngineUnavailable, match="can't be reached"):
        await answered(worker)


async def test_a_worker_that_hangs_up_while_it_says_what_is_wrong_has_failed(worker: VllmWorker, vllm: FakeVllm) -> None:
    vllm.hangs_up = "after the status"
    assert str(await failure(worker)).startswith("Worker w1 answered 500 (")


async def leave_after_the_first_token(worker: VllmWorker) -> None:
    async with worker.complete(BODY) as deltas:
        async for _ in deltas:
            break


async def leave_unread(worker: VllmWorker) -> None:
    async with worker.complete(BODY):
        pass


async def fail_inside(worker: VllmWorker) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with worker.complete(BODY) as deltas:
            await anext(deltas)
            raise ZeroDivisionError


async def be_cancelled(worker: VllmWorker) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with worker.complete(BODY) as deltas:
            async for _ in deltas:
                reading.set()

    task = asyncio.ensure_future(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [leave_after_the_first_token, leave_unread, fail_inside, be_cancelled])
async def test_leaving_early_closes_the_connection_and_gives_its_slot_back(
    worker: VllmWorker, vllm: FakeVllm, leave: Callable[[VllmWorker], Awaitable[None]]
) -> None:
    vllm.answer = endless_answer
    await leave(worker)
    await asyncio.wait_for(vllm.gone.wait(), LEFT_WITHIN_S)
    vllm.answer = complete_answer
    assert len(await asyncio.wait_for(answered(worker), 5)) == 3


async def test_a_healthy_worker_has_no_problem(worker: VllmWorker, vllm: FakeVllm) -> None:
    assert await worker.check() is None
    vllm.health_status = 503
    assert await worker.check() == "its /health answers 503"
    assert repr(worker).startswith("<VllmWorker w1 http://127.0.0.1:")
