"""Limits of tenants and keys: the values, and the rules by which what is used is measured against them.

A tenant's limits hold for all of its keys together, a key's for it alone; both are charged, and whichever is tighter counts.

A minute is the last 60 seconds, not the clock's: what was used in the clock's last minute counts with the share of it that
these still overlap. So nothing is gained by waiting for a boundary, and each counter is two numbers, which can be given back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Gib = Annotated[float, Meta(gt=0)]
Period = Literal["minute", "day", "month"]

MINUTE_S = 60.0
ROUNDING = 1e-6
"""By so much a share of tokens or requests may be off, as seconds since the epoch are."""


class Rates(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key may have limited. None: no limit.

    Tokens are those that the engine has to compute: a prompt's without what is cached, and the answer's. They are reserved
    before a question is sent, the answer as long as it may become, and settled by what its usage says.
    """

    requests_per_minute: Count | None = None
    """Of all of /v1."""
    streams: Count | None = None
    """Questions under way at once, streamed or not."""
    tokens_per_minute: Count | None = None
    token_budget: Count | None = None
    """Tokens in a `budget_period`, those of readings among them: a document that is added takes its own before it is stored.

    A minute's tokens it takes none of: it may be longer than these, and how fast it is read is the gateway's business."""
    budget_period: Literal["day", "month"] | None = None
    """The calendar's, in UTC; a day where a budget says nothing."""

    @property
    def rated(self) -> bool:
        """Whether anything is limited here."""
        return (
            self.requests_per_minute is not None
            or self.streams is not None
            or self.tokens_per_minute is not None
            or self.token_budget is not None
        )


class Limits(Rates, frozen=True, omit_defaults=True):
    """What a tenant may have limited."""

    documents: Count | None = None
    """Of its own, a document in volumes being one; those that the catalog file declares for it count, and are not refused."""
    disk_gib: Gib | None = None
    """What its documents' KV may take on each host's disk: beyond it its own leave, the least recently used first."""
    ram_gib: Gib | None = None
    """What its documents' KV may take of each host's RAM tier: beyond it its own leave for the disk, the least worthy first."""
    weight: Annotated[float, Meta(gt=0)] | None = None
    """Its share of busy workers, beside the others' (1 where nothing is said)."""


NO_RATES = Rates()
UNLIMITED = Limits()


def over(defaults: Limits, own: Limits) -> Limits:
    """A tenant's limits: its own, the defaults for what they don't name."""
    return Limits(
        **{name: given if (given := getattr(own, name)) is not None else getattr(defaults, name) for name in own.__struct_fields__}
    )


class Window(msgspec.Struct, frozen=True, gc=False):
    """A span of time, in seconds since the epoch, whose use is counted together.

    `sliding`: what was used in the window before it, `number` - 1 and as long, counts with the share that is not over.
    """

    number: int
    start: float
    end: float
    sliding: bool

    def share_before(self, now: float) -> float:
        """With which share the window before this one counts."""
        if not self.sliding:
            return 0.0
        return min(max((self.end - now) / (self.end - self.start), 0.0), 1.0)


def minute(now: float) -> Window:
    number = math.floor(now / MINUTE_S)
    return Window(number, number * MINUTE_S, (number + 1) * MINUTE_S, True)


class Charge(msgspec.Struct, frozen=True, gc=False):
    """`amount` of an account in a window, of which no more than `limit` may be used."""

    account: str
    """What is counted and whose it is: `tokens/tenant/acme`."""
    limit: int
    amount: int
    window: Window


class Used(msgspec.Struct, frozen=True, gc=False):
    """What an account has used in a window, and in the one before."""

    current: int = 0
    before: int = 0

    def measured(self, window: Window, now: float) -> int:
        """What counts of it. Rounded up: in doubt a limit is not passed."""
        if not self.before:
            return self.current
        return self.current + math.ceil(self.before * window.share_before(now) - ROUNDING)

    def left(self, charge: Charge, now: float) -> int:
        return max(charge.limit - self.measured(charge.window, now), 0)

    def refuses(self, charge: Charge, now: float) -> bool:
        """Whether the charge has no room. What costs nothing always has."""
        return charge.amount > 0 and self.measured(charge.window, now) + charge.amount > charge.limit

    def wait_s(self, charge: Charge, now: float) -> float | None:
        """How long until the charge has room if nothing else is used; None if it never will."""
        window, room = charge.window, charge.limit - charge.amount
        if room < 0:
            return None
        if self.measured(window, now) <= room:
            return 0.0
        if not window.sliding:
            return max(window.end - now, 0.0)
        period_s = window.end - window.start
        if self.current <= room:  # within this window, once enough of the one before it is over
            return max(window.end - (room - self.current) / self.before * period_s - now, 0.0)
        return max(window.end + period_s - room / self.current * period_s - now, 0.0)  # within the next one

    def reset_s(self, window: Window, now: float) -> float:
        """How long until nothing counts any more."""
        if not self.current and not (window.sliding and self.before):
            return 0.0
        lasts_s = window.end - window.start if window.sliding and self.current else 0.0
        return max(window.end + lasts_s - now, 0.0)


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What is left of a limit, and in how many seconds all of it is."""

    limit: int
    left: int
    reset_s: float


def standing(charge: Charge, used: Used, now: float) -> Standing:
    return Standing(charge.limit, used.left(charge, now), used.reset_s(charge.window, now))


def tightest(standings: Iterable[Standing]) -> Standing | None:
    """The one of several that is reached first; None of none."""
    return min(standings, key=lambda one: (one.left, one.limit), default=None)


def duration(seconds: float) -> str:
    """As OpenAI writes it in `x-ratelimit-reset-*`.

    >>> duration(0.25), duration(7.66), duration(360), duration(90061)
    ('250ms', '7.66s', '6m0s', '25h1m1s')
    """
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE_S:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
