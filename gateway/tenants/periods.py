"""The calendar's days and months as windows, in UTC."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Literal

from router.limits import Window

Calendar = Literal["day", "month"]


class Periods:
    """The windows of now. Each is worked out once, until it is over."""

    def __init__(self) -> None:
        self._windows: dict[Calendar, Window] = {}

    def window(self, period: Calendar, now: float) -> Window:
        known = self._windows.get(period)
        if known is None or not known.start <= now < known.end:
            known = self._windows[period] = _window(period, now)
        return known

    def of_saved(self, saved: Iterable[tuple[str, int, int]], now: float) -> Mapping[str, Window]:
        """The window that each saved account (its name begins `budget/day/` or `budget/month/`) is in now."""
        periods: dict[str, Calendar] = {"day": "day", "month": "month"}
        found = {}
        for account, _, _ in saved:
            period = periods.get(account.split("/")[1])
            if period is not None:
                found[account] = self.window(period, now)
        return found


def _window(period: Calendar, now: float) -> Window:
    """Days are numbered from the epoch, months from the year 0."""
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        start = today.timestamp()
        return Window(round(start / 86400), start, start + 86400, sliding=False)
    first = today.replace(day=1)
    after = (first + datetime.timedelta(days=31)).replace(day=1)
    return Window(first.year * 12 + first.month - 1, first.timestamp(), after.timestamp(), sliding=False)
