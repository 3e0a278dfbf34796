"""What is used of the limits: taken and given back, in this process or, where a storage is configured, by all gateways together.

1. In this process nothing is waited for between looking and taking. In the storage both are one script.
2. Giving back never waits: in the storage it happens in the background, and again until it is done.
3. While the storage is away each gateway counts for itself; `problem` says so.
4. Budgets outlast a restart: in the storage, else in the store's states, saved now and then and at the end. What is reserved
   is not saved: a question that a crash cut off was never answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from backends.base import Store
from backends.shared_counts import Away, SharedCounts
from gateway.tenants.periods import Periods
from router.counts import Counts, Taken
from router.errors import StoreUnavailable
from router.limits import Charge, Rates

log = structlog.get_logger("limits")

STATE = "token budgets"
BUDGET = "budget/"
"""What the accounts of budgets begin with."""
TEND_EVERY_S = 5.0
"""Budgets are saved, leases renewed and what is owed is given back this often. A third of a lease at most."""


class Counters:
    def __init__(self, store: Store, shared: SharedCounts | None, *, now: Callable[[], float]) -> None:
        """`shared`: None where this gateway counts alone."""
        self.problem: str | None = None
        self.now = now
        self._periods = Periods()
        self._store = store
        self._shared = shared
        self._counts = Counts()
        self._reserved: Counter[tuple[str, int]] = Counter()
        """Of each budget's account and window: taken, and not settled yet."""
        self._streams: Counter[str] = Counter()
        self._leases: dict[str, tuple[str, ...]] = {}
        self._owed: list[Charge] = []
        """To be given back to the storage."""
        self._giving: set[asyncio.Task[None]] = set()
        self._releasing: set[asyncio.Task[None]] = set()
        self._away_until = 0.0
        self._saved: bytes | None = None

    def __repr__(self) -> str:
        return f"<Counters {self._counts!r}, {self._streams.total()} streams, {len(self._owed)} owed>"

    async def take(self, charges: Sequence[Charge]) -> tuple[Taken, bool]:
        """All of them or none, and whether it was in the shared storage (as `give` is to be told)."""
        shared = self._reachable()
        if shared is not None:
            taking = asyncio.ensure_future(shared.take(charges, self.now()))
            try:
                return await asyncio.shield(taking), True
            except asyncio.CancelledError:
                # It may be taken all the same, and nobody is left to give it back.
                taking.add_done_callback(lambda done: self._give_back_late(done, charges))
                raise
            except Away as error:
                self._lost(error)
        return self._counts.take(charges, self.now()), False

    def give(self, charges: Sequence[Charge], *, shared: bool) -> None:
        """Take each one's amount off its account, or add it where it is negative."""
        if shared:
            self._owe(charges)
        else:
            self._counts.give(charges)

    def budget(self, whose: str, rates: Rates, amount: int) -> Charge:
        """Against the budget of this account (`tenant/acme`), in the day or month of now."""
        period = rates.budget_period or "day"
        return Charge(f"{BUDGET}{period}/{whose}", rates.token_budget or 0, amount, self._periods.window(period, self.now()))

    def reserved(self, charges: Iterable[Charge], sign: int) -> None:
        """So much of these budgets is taken (or, with -1, was), but not spent yet."""
        for charge in charges:
            if charge.account.startswith(BUDGET):
                self._reserved[charge.account, charge.window.number] += sign * charge.amount

    def reserved_of(self, charge: Charge) -> int:
        return self._reserved[charge.account, charge.window.number]

    # --- questions under way

    async def begin(self, accounts: Sequence[tuple[str, int]], lease: str) -> int | None:
        """Count a question (`lease`, its name) for these accounts with their limits; else the number of the one that has too many.

        Ends with `end`. Also where it raises CancelledError nothing stays counted.
        """
        for number, (account, limit) in enumerate(accounts):
            if self._streams[account] >= limit:
                return number
        names = tuple(account for account, _ in accounts)
        self._streams.update(names)
        try:
            refused = await self._lease(accounts, names, lease)
        except BaseException:
            self.end(names, lease)
            raise
        if refused is not None:
            self.end(names, lease)
        return refused

    def end(self, accounts: Sequence[str], lease: str) -> None:
        for account in accounts:
            self._streams[account] -= 1
            if not self._streams[account]:
                del self._streams[account]
        if self._leases.pop(lease, None) is not None and self._shared is not None:
            self._in_background(self._release(self._shared, accounts, lease), self._releasing)

    async def streams(self, account: str) -> int:
        """How many questions of the account are under way."""
        if (shared := self._reachable()) is not None:
            try:
                return await shared.leases(account, self.now())
            except Away as error:
                self._lost(error)
        return self._streams[account]

    # --- beside the requests

    async def load(self) -> None:
        """Take up the budgets that an earlier run saved, and meet the shared storage."""
        if self._shared is not None:
            try:
                await self._shared.open()
            except Away as error:
                self._lost(error)
        kept = await self._store.state(STATE)
        try:
            saved = msgspec.msgpack.decode(kept, type=list[tuple[str, int, int]]) if kept else []
        except msgspec.MsgspecError as error:
            log.warning("budgets_unreadable", error=str(error))
            return
        self._counts.load(saved, self._periods.of_saved(saved, self.now()))

    async def save(self) -> None:
        """Keep what was spent of the budgets that are counted here."""
        spent = [(account, number, used - self._reserved[account, number]) for account, number, used in self._counts.saved(BUDGET)]
        value = msgspec.msgpack.encode(spent)
        if value == self._saved or (not spent and self._saved is None):
            return
        try:
            await self._store.put_state(STATE, value, self.now())
            self._saved = value
        except StoreUnavailable as error:
            log.warning("budgets_not_saved", error=str(error))

    async def run(self) -> None:
        """Save budgets, renew leases and give back what is owed, now and then; budgets once more at the end."""
        try:
            while True:
                await asyncio.sleep(TEND_EVERY_S)
                await self.save()
                await self._renew()
                if self._owed:
                    self._owe(())
                self._reserved = +self._reserved
        finally:
            await self.save()

    async def close(self) -> None:
        """Return once what is owed was given back, as far as the storage can be reached."""
        while under_way := self._giving | self._releasing:
            await asyncio.gather(*under_way, return_exceptions=True)

    # --- inside

    def _reachable(self) -> SharedCounts | None:
        """The shared storage; None where there is none, or it was away just now."""
        if self._shared is None or (self._away_until and time.monotonic() < self._away_until):
            return None
        return self._shared

    def _lost(self, error: Away) -> None:
        if self.problem is None:
            log.error("limits_storage_away", error=str(error), consequence="each gateway counts for itself")
        self.problem = f"the storage can't be reached, each gateway counts for itself: {error}"
        self._away_until = time.monotonic() + TEND_EVERY_S

    def _found(self) -> None:
        if self.problem is not None:
            log.info("limits_storage_back")
        self.problem, self._away_until = None, 0.0

    def _owe(self, charges: Iterable[Charge]) -> None:
        self._owed += [charge for charge in charges if charge.amount]
        if self._owed and (shared := self._reachable()) is not None:
            owed, self._owed = self._owed, []
            self._in_background(self._give_back(shared, owed), self._giving)

    async def _give_back(self, shared: SharedCounts, owed: list[Charge]) -> None:
        while owed:
            try:
                await shared.give(owed[:1], self.now())
            except Away as error:
                self._lost(error)
                self._owed += owed
                return
            self._found()
            del owed[0]

    def _give_back_late(self, taking: asyncio.Future[Taken], charges: Sequence[Charge]) -> None:
        if not taking.cancelled() and taking.exception() is None and taking.result().refused is None:
            self._owe(charges)

    async def _lease(self, accounts: Sequence[tuple[str, int]], names: tuple[str, ...], lease: str) -> int | None:
        shared = self._reachable()
        if shared is None or not accounts:
            return None
        if self._releasing:  # who asks again as soon as it has its answer finds its place free
            await asyncio.wait(tuple(self._releasing))
        self._leases[lease] = names  # before it is asked for: released also where the answer is not waited for
        try:
            return await shared.lease(accounts, lease, self.now())
        except Away as error:
            self._lost(error)
            return None

    async def _release(self, shared: SharedCounts, accounts: Sequence[str], lease: str) -> None:
        with suppress(Away):  # else it expires
            await shared.release(accounts, lease)

    async def _renew(self) -> None:
        shared = self._reachable()
        if shared is None:
            return
        try:
            if self.problem is not None:
                await shared.open()
                self._found()
            for lease, accounts in tuple(self._leases.items()):
                if lease in self._leases:
                    await shared.renew(accounts, lease, self.now())
        except Away as error:
            self._lost(error)

    def _in_background(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
