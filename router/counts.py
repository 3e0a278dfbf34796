"""What every account has used, counted in this process. No await between looking and taking, so never one too many.

Several charges are taken together or not at all. What is given back goes to the window that it was taken in, and is
forgotten with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from router.limits import Charge, Used, Window

FORGET_AT_LEAST = 1024
"""So many accounts are kept before the idle ones among them are looked for."""


class _Account(msgspec.Struct, gc=False):
    number: int
    end: float
    """When nothing of it counts any more, in seconds since the epoch."""
    current: int = 0
    before: int = 0


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What was used by each charge's account before and with it. `refused`: the charge that had no room; nothing was taken then."""

    used: Sequence[Used]
    refused: int | None = None


class Counts:
    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._forget_at = FORGET_AT_LEAST

    def __repr__(self) -> str:
        return f"<Counts of {len(self._accounts)} accounts>"

    def take(self, charges: Sequence[Charge], now: float) -> Taken:
        """Add all of them, or none: where one has no room, `refused` says which."""
        used = [self.used(charge.account, charge.window) for charge in charges]
        for number, charge in enumerate(charges):
            if used[number].refuses(charge, now):
                return Taken(used, number)
        for number, charge in enumerate(charges):
            if charge.amount:
                self._rolled(charge.account, charge.window).current += charge.amount
                used[number] = Used(used[number].current + charge.amount, used[number].before)
        if len(self._accounts) > self._forget_at:
            self._forget(now)
        return Taken(used)

    def give(self, charges: Iterable[Charge]) -> None:
        """Take `amount` off each one's account again (or add it, where it is negative), in the window that it was taken in."""
        for charge in charges:
            account = self._accounts.get(charge.account)
            if account is None:
                continue
            if account.number == charge.window.number:
                account.current -= charge.amount
            elif account.number == charge.window.number + 1 and charge.window.sliding:
                account.before -= charge.amount

    def used(self, account: str, window: Window) -> Used:
        """In this window and the one before it. Changes nothing."""
        found = self._accounts.get(account)
        if found is None:
            return Used()
        if found.number >= window.number:  # beyond it only where the clock was put back
            return Used(found.current, found.before)
        return Used(0, found.current) if found.number == window.number - 1 and window.sliding else Used()

    def saved(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """(account, its window's number, what is used in it) of the accounts that begin so."""
        for name, account in self._accounts.items():
            if name.startswith(prefix) and account.current:
                yield name, account.number, account.current

    def load(self, saved: Iterable[tuple[str, int, int]], windows: Mapping[str, Window]) -> None:
        """Take up what was `saved`, of the accounts that are in the same window still (`windows`: each one's, now)."""
        for name, number, current in saved:
            window = windows.get(name)
            if window is not None and window.number == number:
                self._rolled(name, window).current += current

    # --- inside

    def _rolled(self, name: str, window: Window) -> _Account:
        """The account, at this window."""
        account = self._accounts.get(name)
        if account is None or account.number < window.number:
            used = self.used(name, window)
            lasts_s = window.end - window.start if window.sliding else 0.0
            account = self._accounts[name] = _Account(window.number, window.end + lasts_s, used.current, used.before)
        return account

    def _forget(self, now: float) -> None:
        """Drop the accounts of which nothing counts any more."""
        self._accounts = {name: account for name, account in self._accounts.items() if account.end > now}
        self._forget_at = max(FORGET_AT_LEAST, 2 * len(self._accounts))
