"""What is known of one question while it is answered, and what is told of it afterwards: one span and the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec
from opentelemetry.trace import Span, StatusCode

from backends.base import Delta, Usage, Worker
from gateway.tenants.authenticator import Principal
from gateway.tenants.limiter import Admission
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.documents import Document, TenantId, Version
from router.residency import Tier
from router.tokens import TokenSplit, split


class Chosen(msgspec.Struct, frozen=True):
    """The document that answers, which may be a volume of the one that was asked: its `volume`th.

    `score` is the classifier's, None where the document was named.
    """

    document: Document
    version: Version
    score: float | None
    volume: int | None = None

    @property
    def routing(self) -> str:
        return "named" if self.score is None else "found"


class Course:
    def __init__(self, span: Span, principal: Principal, admission: Admission | None = None, *, part: bool = False) -> None:
        """`admission`: what the request may take, None for no limits. `part`: of a question over several documents."""
        self.span = span
        self.principal = principal
        self.admission = admission
        self.started = time.perf_counter()
        self.part = part
        self.chosen: Chosen | None = None
        """None for a question over several documents, whose course is that of the joining question."""
        self.several: Sequence[Chosen] = ()
        """Those that such a question is asked of; `tier` is then the slowest of theirs."""
        self.worker: Worker | None = None
        self.tier = Tier.NONE
        self.queued_s = 0.0
        """How long it waited for a worker to have room."""
        self.first_token_s: float | None = None
        self.usage = Usage()
        """Of the whole answer: known at its end."""
        self.prompt_tokens = 0
        """Of what was sent; `believed_tokens` of it were believed to be cached."""
        self.believed_tokens = 0
        self.generated = 0
        """Tokens of the answer that have come."""
        self.gpu_tokens = 0
        """How much of the prefix was believed to be on the worker's GPU tier when it was asked."""
        self.outcome = "error"
        self.sent: Literal["nothing", "head", "stream"] = "nothing"
        """What the client has of the answer: nothing, an answer that is sent whole, or the beginning of a stream."""

    def first_token(self) -> None:
        self.first_token_s = time.perf_counter() - self.started

    def follow(self, delta: Delta) -> bool:
        """Take in what this delta tells; whether it is a token more (in which case nothing else is)."""
        if delta.usage is not None:
            self.usage = delta.usage
            return False
        self.generated += 1
        return True

    @property
    def tenant(self) -> TenantId:
        return self.principal.tenant

    @property
    def taken(self) -> Usage:
        """What it took, however it ended: of an answer that was broken off what had come, nothing of one that had not begun."""
        if self.usage.prompt_tokens or self.first_token_s is None:
            return self.usage
        return Usage(self.prompt_tokens, self.generated, self.believed_tokens)

    @property
    def refused(self) -> bool:
        """Whether it was given no token, and not because its client left. Known at its end."""
        return self.first_token_s is None and self.outcome not in ("ok", "client_gone", "given_up")

    @property
    def routing(self) -> str:
        """How the document was chosen: `several`, `part` (one of these), `named`, `found`, or `none`."""
        if self.several:
            return "several"
        return "part" if self.part else self.chosen.routing if self.chosen else "none"

    @property
    def met_too_little(self) -> bool:
        """Whether the prefix, believed to be whole in some tier, was met in part only. False until the usage is known."""
        believed = self.tier in (Tier.GPU, Tier.RAM, Tier.DISK)
        known = self.usage.prompt_tokens > 0 and self.chosen is not None
        return believed and known and self.usage.cached_tokens < (self.chosen.version.prefix_tokens if self.chosen else 0)

    @property
    def computed(self) -> int:
        """The tokens of `taken` that had to be computed."""
        taken = self.taken
        return max(taken.prompt_tokens - taken.cached_tokens, 0) + taken.completion_tokens

    @property
    def tokens(self) -> TokenSplit:
        """Where the prompt's tokens came from; nothing until the usage is known."""
        prefix = self.chosen.version.prefix_tokens if self.chosen else 0
        usage = self.usage
        return split(prompt=usage.prompt_tokens, cached=usage.cached_tokens, prefix=prefix, on_gpu=self.gpu_tokens)

    def report(self, telemetry: Telemetry) -> None:
        """Write the span's attributes and the metrics, however the question ended."""
        tier, routing = self.tier.value, self.routing
        telemetry.questions.add(1, {names.ROUTING: routing, names.TIER: tier, names.OUTCOME: self.outcome})
        telemetry.answer.record(time.perf_counter() - self.started, {names.OUTCOME: self.outcome})
        span = self.span
        span.set_attributes({names.TENANT: self.tenant, names.ROUTING: routing, names.TIER: tier, names.OUTCOME: self.outcome})
        documents = self.several or ([self.chosen] if self.chosen is not None else [])
        if documents:
            span.set_attribute(names.DOCUMENT, ",".join(chosen.document.name for chosen in documents))
        if self.chosen is not None and self.chosen.score is not None:
            span.set_attribute(names.SCORE, self.chosen.score)
        if self.worker is not None:
            span.set_attribute(names.WORKER, self.worker.name)
        if self.first_token_s is not None:
            if not self.several:  # which waits for its parts' whole answers, whatever their tier
                telemetry.first_token.record(self.first_token_s, {names.TIER: tier})
            span.set_attribute(names.FIRST_TOKEN_S, self.first_token_s)
        self._report_usage(telemetry)
        if self.outcome not in ("ok", "client_gone", "key_ended"):
            span.set_status(StatusCode.ERROR)

    def _report_usage(self, telemetry: Telemetry) -> None:
        usage = self.usage
        if not usage.prompt_tokens:
            return
        telemetry.prompt_tokens.add(usage.prompt_tokens)
        telemetry.cached_tokens.add(usage.cached_tokens)
        tokens = self.tokens
        for origin, count in (("recomputed", tokens.recomputed), ("restored", tokens.restored), ("reused", tokens.reused)):
            telemetry.question_tokens.add(count, {names.ORIGIN: origin})
        telemetry.completion_tokens.add(usage.completion_tokens)
        self.span.set_attributes(
            {
                names.PROMPT_TOKENS: usage.prompt_tokens,
                names.CACHED_TOKENS: usage.cached_tokens,
                names.COMPLETION_TOKENS: usage.completion_tokens,
            }
        )
        if self.chosen is None:
            return
        if self.met_too_little or (self.tier is Tier.NONE and usage.cached_tokens >= self.chosen.version.prefix_tokens):
            telemetry.tier_misbeliefs.add(1, {names.TIER: self.tier.value})
