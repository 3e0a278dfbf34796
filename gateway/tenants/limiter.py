"""Lets requests in, or refuses them: what each may use is taken first, and given back where it comes to nothing.

1. Every request takes one of its minute's, of its tenant and of its key.
2. A question takes a place among those under way, until it is over.
3. Once it is laid out it reserves the tokens that it may take: what has to be computed of its prompt, and its longest answer.
4. At its end what it did take is settled. What was refused, cancelled before the first token, or failed by no fault of the
   client's gives everything back, the request as well.
5. A document takes what its reading computes, from the budgets alone: it may be longer than a minute's tokens, and how fast it
   is read is the gateway's business. `gateway/shelf/charges.py` gives back what came to nothing.

A request that a client got wrong stays a request: it was work, and would else be free to send without end.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from gateway.errors import BudgetSpent, LimitReached
from gateway.tenants.authenticator import Principal
from gateway.tenants.counters import Counters
from gateway.tenants.limits_file import TenantLimits
from observability.telemetry import LIMIT, TENANT, Telemetry
from router.counts import Taken
from router.documents import TenantId
from router.limits import Charge, Rates, Standing, duration, minute, standing, tightest

Account = tuple[str, Rates]
"""Whose limits: `tenant/acme` or `key/0123abcd`."""
Headers = list[tuple[bytes, bytes]]


class Hold:
    """Tokens that a question or a reading holds: reserved, and settled once."""

    __slots__ = ("_charges", "_counters", "_pending", "_shared")

    def __init__(self, counters: Counters, charges: Sequence[Charge], *, shared: bool, spent: bool = False) -> None:
        """`spent`: they count as that from the start, and so are saved; otherwise only once they are settled."""
        self._counters = counters
        self._charges = charges
        self._shared = shared
        self._pending = not (shared or spent)
        if self._pending:
            counters.reserved(charges, 1)

    def settle(self, tokens: int) -> None:
        """So many were taken: the rest is given back, or what is lacking taken as well. Again, it settles anew."""
        back = [replace(charge, amount=charge.amount - tokens) for charge in self._charges]
        if self._pending:
            self._counters.reserved(self._charges, -1)
        self._pending = False
        self._counters.give(back, shared=self._shared)
        self._charges = [replace(charge, amount=tokens) for charge in self._charges]

    def part(self, tokens: int) -> Hold:
        """So many of what is spent as a hold of its own, and no more than there are; the rest stays with this one."""
        rest = [max(charge.amount - tokens, 0) for charge in self._charges]
        taken = [replace(charge, amount=charge.amount - left) for charge, left in zip(self._charges, rest, strict=True)]
        self._charges = [replace(charge, amount=left) for charge, left in zip(self._charges, rest, strict=True)]
        return Hold(self._counters, taken, shared=self._shared, spent=True)


class Admission:
    """One request that was let in, with what it took."""

    def __init__(self, limiter: Limiter, tenant: TenantId, accounts: Sequence[Account]) -> None:
        self.requests: Standing | None = None
        self.tokens: Standing | None = None
        """What was left when it was looked at last."""
        self._limiter = limiter
        self._tenant = tenant
        self._accounts = accounts
        self._taken: Sequence[Charge] = ()
        self._shared = False
        self._holds: list[Hold] = []

    @property
    def headers(self) -> Headers:
        """`x-ratelimit-*` as they stand."""
        return [*_headers(b"requests", self.requests), *_headers(b"tokens", self.tokens)]

    async def enter(self) -> None:
        """Take a request. Raises LimitReached."""
        counters, now = self._limiter.counters, self._limiter.counters.now()
        window = minute(now)
        requests = [
            Charge(f"requests/{whose}", rates.requests_per_minute, 1, window)
            for whose, rates in self._accounts
            if rates.requests_per_minute is not None
        ]
        tokens = [
            Charge(f"tokens/{whose}", rates.tokens_per_minute, 0, window)
            for whose, rates in self._accounts
            if rates.tokens_per_minute is not None
        ]
        if not requests and not tokens:
            return
        charges = [*requests, *tokens]
        taken, self._shared = await counters.take(charges)
        standings = [standing(charge, used, now) for charge, used in zip(charges, taken.used, strict=True)]
        self.requests, self.tokens = tightest(standings[: len(requests)]), tightest(standings[len(requests) :])
        if taken.refused is not None:
            raise self._refusal(charges, taken, now, headers=self.headers)
        self._taken = requests

    @asynccontextmanager
    async def question(self) -> AsyncIterator[None]:
        """A question's time under way. Raises LimitReached where there are too many."""
        accounts = [(f"streams/{whose}", rates.streams) for whose, rates in self._accounts if rates.streams is not None]
        if not accounts:
            yield
            return
        counters, lease = self._limiter.counters, secrets.token_hex(8)
        refused = await counters.begin(accounts, lease)
        if refused is not None:
            account, limit = accounts[refused]
            self.refund()
            raise self._limiter.refused(
                self._tenant,
                "streams",
                LimitReached(
                    f"{_whose(account)} has {limit} questions under way, as many as it may have at once. Ask again when one is answered.",
                    limit=limit,
                    retry_after_s=1,
                ),
            )
        try:
            yield
        finally:
            counters.end([account for account, _ in accounts], lease)

    async def reserve(self, prompt_tokens: int, answer_tokens: int) -> Hold | None:
        """Hold what the question may take at most; None where no tokens are limited. Raises LimitReached."""
        counters, now = self._limiter.counters, self._limiter.counters.now()
        charges = []
        for whose, rates in self._accounts:
            if rates.tokens_per_minute is not None:
                charges.append(Charge(f"tokens/{whose}", rates.tokens_per_minute, prompt_tokens + answer_tokens, minute(now)))
        minutes = len(charges)
        for whose, rates in self._accounts:
            if rates.token_budget is not None:
                charges.append(counters.budget(whose, rates, prompt_tokens + answer_tokens))
        if not charges:
            return None
        taken, shared = await counters.take(charges)
        if minutes:
            found = zip(charges[:minutes], taken.used, strict=False)
            self.tokens = tightest(standing(charge, used, now) for charge, used in found)
        if taken.refused is not None:
            parts = f"{prompt_tokens} of its prompt, {answer_tokens} of the longest answer that it asks for"
            raise self._refusal(charges, taken, now, f"The question may take {prompt_tokens + answer_tokens} tokens ({parts})")
        self._holds.append(hold := Hold(counters, charges, shared=shared))
        return hold

    async def reserve_reading(self, tokens: int) -> Hold | None:
        """Take so many from the budgets, for a document of this length that is to be read; None where there are no budgets.

        Raises BudgetSpent. They count as spent at once: a restart, which reads on, forgets what might be given back.
        """
        counters, now = self._limiter.counters, self._limiter.counters.now()
        charges = [counters.budget(whose, rates, tokens) for whose, rates in self._accounts if rates.token_budget is not None]
        if not charges:
            return None
        taken, shared = await counters.take(charges)
        if taken.refused is not None:
            raise self._refusal(charges, taken, now, f"The document has {tokens} tokens to be read")
        return Hold(counters, charges, shared=shared, spent=True)

    def refund(self) -> None:
        """It came to nothing, and costs nothing."""
        for hold in self._holds:
            hold.settle(0)
        self._limiter.counters.give(self._taken, shared=self._shared)
        self._taken = ()

    def _refusal(
        self, charges: Sequence[Charge], taken: Taken, now: float, needs: str = "", headers: Headers | None = None
    ) -> LimitReached:
        """`needs`: what had no room, in words."""
        number = taken.refused or 0
        charge, used = charges[number], taken.used[number]
        left, wait_s = used.left(charge, now), used.wait_s(charge, now)
        kind, _, whose = charge.account.partition("/")
        again = f"Try again in {duration(wait_s)}." if wait_s is not None else ""
        error: LimitReached
        if kind == "requests":
            error = LimitReached(f"{_whose(whose)} may make {charge.limit} requests a minute. {again}", limit=charge.limit)
        elif kind == "tokens":
            again = again or "It never will be less: give a smaller `max_tokens`, or have the operator raise the limit."
            error = LimitReached(
                f"{needs}, and of the {charge.limit} a minute of {_whose(whose).lower()} {left} are left. {again}",
                limit=charge.limit,
            )
        else:
            period = whose.split("/")[0]
            never = f" It is more than a whole {period}'s." if wait_s is None else ""
            error = BudgetSpent(
                f"{needs}, and of the budget of {_whose(whose.partition('/')[2]).lower()}, {charge.limit} tokens a {period}, "
                f"{left} are left. A new {period} begins in {duration(max(charge.window.end - now, 0))} (UTC).{never}",
                limit=charge.limit,
            )
        error.retry_after_s = max(math.ceil(wait_s), 1) if wait_s is not None else None
        error.more = {name.decode(): value.decode() for name, value in headers or []}
        return self._limiter.refused(self._tenant, kind, error)


class Limiter:
    def __init__(self, tenants: TenantLimits, counters: Counters, telemetry: Telemetry) -> None:
        self.counters = counters
        self._tenants = tenants
        self._telemetry = telemetry

    async def admit(self, principal: Principal) -> Admission | None:
        """Let a request in; None where nothing of it is limited. Raises LimitReached."""
        of_tenant, of_key = self._tenants.of(principal.tenant), principal.limits
        accounts: list[Account] = []
        if of_tenant.rated:
            accounts.append((f"tenant/{principal.tenant}", of_tenant))
        if of_key.rated:
            accounts.append((f"key/{principal.key_id}", of_key))
        if not accounts:
            return None
        admission = Admission(self, principal.tenant, accounts)
        await admission.enter()
        return admission

    def refused(self, tenant: TenantId, kind: str, error: LimitReached) -> LimitReached:
        """The error, counted."""
        self._telemetry.limit_refusals.add(1, {LIMIT: kind, TENANT: tenant})
        return error


def _whose(account: str) -> str:
    return "This key" if "key/" in account else "This tenant"


def _headers(what: bytes, found: Standing | None) -> Headers:
    if found is None:
        return []
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % found.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % found.left),
        (b"x-ratelimit-reset-" + what, duration(found.reset_s).encode()),
    ]
