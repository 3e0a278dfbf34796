"""The shapes of an answer, as `/schema` describes them. `gateway/api/chat_api.py` makes the bytes, for speed without these."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.api.chat_api import ChatRequest
from gateway.api.description import EVENTS, GIVES, TAKES, Takes


class Alternative(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class Token(Alternative, frozen=True):
    top_logprobs: list[Alternative]


class Logprobs(msgspec.Struct, frozen=True):
    content: list[Token]
    refusal: None


class AnswerMessage(msgspec.Struct, frozen=True):
    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(msgspec.Struct, frozen=True):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: str


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class TokenUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class AnswerSource(msgspec.Struct, frozen=True):
    """One of several documents that were asked, and what it answered."""

    document: str
    title: str
    version: str
    answer: str
    finish_reason: str | None
    tier: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: TokenUsage
    sources: list[AnswerSource] | UnsetType = UNSET
    """Of a question over several documents."""


CHAT: dict[str, Any] = {TAKES: Takes(ChatRequest), GIVES: {200: (ChatCompletion, EVENTS)}}
"""With `stream: true` the answer is a stream of events."""
