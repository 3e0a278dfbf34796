"""OpenAI's chat completions as kvshelf speaks them: the request it accepts, the shapes it answers with.

Fields that are not in `ChatRequest` are refused by name, never passed on. The course of a question is `gateway/api/chat.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backends.base import Delta, TokenLogprobs, Usage
from gateway.asking.gathering import Source
from router.errors import InvalidRequest, UnsupportedParameter
from router.prompts import Message
from router.upstream import Sampling

MAX_STOPS = 4
Stop = Annotated[str, Meta(max_length=1000)]


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    document: str | None = None
    """Whom to ask; absent, the gateway finds it."""
    documents: list[str] | None = None
    """Several to ask, whose answers are joined into one."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | list[Stop] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    n: int | None = None
    user: str | None = None
    """Accepted and ignored: who asks is told by the key."""

    @property
    def named(self) -> tuple[str, ...]:
        """The documents to ask, each once, in the order in which they are named; none where one is to be found."""
        return (self.document,) if self.document is not None else tuple(dict.fromkeys(self.documents or ()))

    @property
    def turns(self) -> list[Message]:
        return [{"role": m.role, "content": m.text} for m in self.messages if m.role in ("user", "assistant")]

    @property
    def system(self) -> str:
        """The client's own system messages: they stand after the document."""
        return "\n\n".join(m.text for m in self.messages if m.role in ("system", "developer"))

    @property
    def questions(self) -> list[str]:
        """What routing goes by: all that the user said, the question last."""
        return [m.text for m in self.messages if m.role == "user"]

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def sampling(self) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(stops) if stops else None,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


_decoder = msgspec.json.Decoder(ChatRequest)
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")


def parse(body: bytes) -> ChatRequest:
    """Raises UnsupportedParameter for a field kvshelf does not know, InvalidRequest for anything else that is wrong."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN.match(str(error))
        if unknown:
            where = f"{unknown[2]}.{unknown[1]}" if unknown[2] else unknown[1]
            raise UnsupportedParameter(f"`{where}` is not supported by kvshelf; leave it out.", param=where) from error
        words, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
        raise InvalidRequest(f"{words}{f' (in `{param}`)' if param else ''}.", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    if request.documents is not None and request.document is not None:
        raise InvalidRequest("Give either `document` or `documents`, not both.", param="documents")
    if request.documents is not None and not request.documents:
        raise InvalidRequest("`documents` is empty: name whom to ask, or leave it out to have a document found.", param="documents")
    if request.n not in (None, 1):
        raise UnsupportedParameter("`n` is not supported beyond 1: ask again for another answer.", param="n")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    if isinstance(request.stop, list) and len(request.stop) > MAX_STOPS:
        raise InvalidRequest(f"`stop` may hold at most {MAX_STOPS} strings.", param="stop")
    if not any(m.role == "user" for m in request.messages):
        raise InvalidRequest("There is no question: `messages` needs one with the role `user`.", param="messages")
    return request


class Shaper:
    """The answer to one request, in OpenAI's shapes. Stateless but for the answer's id and time."""

    def __init__(self, answer_id: str, created: int, model: str) -> None:
        self._base = {"id": answer_id, "created": created, "model": model}
        prefix = {"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._opening = msgspec.json.encode(prefix)[:-1] + b',"choices":['
        # An encoded chunk around its text: one call of the encoder a chunk is what a stream costs.
        self._text_before = b"data: " + self._opening + b'{"index":0,"delta":{"content":'
        self._text_after = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def opening(self, sources: Sequence[Source] = ()) -> bytes:
        """The first event, with the sources of an answer that has several."""
        event = self._event({"role": "assistant", "content": ""}, None, None)
        if not sources:
            return event
        return event.removesuffix(b"}\n\n") + b',"sources":' + msgspec.json.encode(_sources(sources)) + b"}\n\n"

    def chunk(self, delta: Delta) -> bytes:
        """One event of the stream: some text, perhaps the reason why it ended."""
        if delta.finish_reason is None and delta.logprobs is None:
            return self._text_before + msgspec.json.encode(delta.text) + self._text_after
        logprobs = _logprobs([delta.logprobs]) if delta.logprobs else None
        if delta.finish_reason is None or not delta.text:
            return self._event({"content": delta.text} if delta.text else {}, delta.finish_reason, logprobs)
        return self._event({"content": delta.text}, None, logprobs) + self._event({}, delta.finish_reason, None)

    def usage(self, usage: Usage) -> bytes:
        return b"data: " + self._opening + b'],"usage":' + msgspec.json.encode(_usage(usage)) + b"}\n\n"

    @staticmethod
    def end() -> bytes:
        return b"data: [DONE]\n\n"

    def whole(self, deltas: list[Delta], usage: Usage, sources: Sequence[Source] = ()) -> bytes:
        """The answer of a request that did not ask for a stream."""
        logprobs = [delta.logprobs for delta in deltas if delta.logprobs]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(delta.text for delta in deltas), "refusal": None},
            "logprobs": _logprobs(logprobs) if logprobs else None,
            "finish_reason": next((d.finish_reason for d in reversed(deltas) if d.finish_reason), "stop"),
        }
        answer = {**self._base, "object": "chat.completion", "choices": [choice], "usage": _usage(usage)}
        return msgspec.json.encode({**answer, "sources": _sources(sources)} if sources else answer)

    def _event(self, delta: dict[str, Any], finish_reason: str | None, logprobs: dict[str, Any] | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return b"data: " + self._opening + msgspec.json.encode(choice) + b"]}\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _sources(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """kvshelf's own field: clients that don't know it pass it over."""
    return [
        {
            "document": source.chosen.document.name,
            "title": source.chosen.document.descriptor.title,
            "version": source.chosen.version.id,
            "answer": source.answer,
            "finish_reason": source.finish_reason,
            "tier": source.tier.value,
            "prompt_tokens": source.usage.prompt_tokens,
            "completion_tokens": source.usage.completion_tokens,
            "cached_tokens": source.usage.cached_tokens,
        }
        for source in sources
    ]


def _logprobs(parts: list[TokenLogprobs]) -> dict[str, Any]:
    """vLLM's parallel lists as OpenAI's list of tokens."""
    content = []
    for part in parts:
        tops = part.top_logprobs or [None] * len(part.tokens)
        for token, logprob, top in zip(part.tokens, part.token_logprobs, tops, strict=True):
            alternatives = [_token(text, value) for text, value in (top or {}).items()]
            content.append({**_token(token, logprob), "top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob if logprob is not None else -9999.0, "bytes": list(text.encode())}
