"""Every guard of SECURITY.md: how to take it out, and the tests that must fail then.

`make bench ARGS=guards` takes each out by itself, in a copy, and shows what caught it.
"""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """`old` stands exactly once in the file `path`; with `new` in its place the guard is gone, and `tests` must fail."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Pytest node ids: files, or single tests."""
