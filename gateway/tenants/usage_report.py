"""A report of what was used: what is asked for, and the tables that it is given as. For HTTP and the command line alike."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.usage import BY, COUNTS, Used

DAYS = 30
"""What is told of where no first day is given."""
MOST = 100_000
"""Rows of one report."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so (OWASP, "CSV Injection")."""


class Wanted(msgspec.Struct, frozen=True):
    """Days `since` to `until`, both included, as 2026-11-24; grouped by some of `BY`."""

    since: str
    until: str
    by: tuple[str, ...]


def wanted(since: str | None, until: str | None, by: str | None, *, today: str) -> Wanted:
    """From what was given in words. Raises InvalidRequest that says what may be."""
    last = _day(until, "to") if until is not None else datetime.date.fromisoformat(today)
    first = _day(since, "from") if since is not None else last - datetime.timedelta(days=min(DAYS - 1, last.toordinal() - 1))
    if first > last:
        raise InvalidRequest(f"`from` {first} is after `to` {last}.", param="from")
    names = tuple(name.strip() for name in by.split(",")) if by is not None else BY
    if unknown := [name for name in names if name not in BY]:
        raise InvalidRequest(
            f"`by` may have {', '.join(BY)}, with commas between them; {unknown[0][:50]!r} is none of them.", param="by"
        )
    return Wanted(first.isoformat(), last.isoformat(), tuple(dict.fromkeys(names)))


def checked(rows: list[Used]) -> list[Used]:
    """`rows`, of which MOST and one more were asked for. Raises InvalidRequest where there are more than one report has."""
    if len(rows) > MOST:
        raise InvalidRequest(f"There are more than {MOST:,} rows. Ask for fewer days, or group `by` less.", param="by")
    return rows


def plain(rows: Sequence[Used], by: Sequence[str]) -> list[dict[str, Any]]:
    """Each row with what it is grouped by, and the counts."""
    return [{**{name: getattr(row, name) for name in (*by, *COUNTS)}, "saved_s": round(row.saved_s, 3)} for row in rows]


def as_csv(rows: Sequence[Used], by: Sequence[str]) -> str:
    """With a line of names first. What a spreadsheet would take for a formula has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*by, *COUNTS))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in plain(rows, by))
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _day(text: str, param: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"`{param}` must be a day as 2026-11-24; {text[:50]!r} is none.", param=param) from None
