"""Every guard of SECURITY.md: how to take it out, and the tests that must fail then.

`make bench ARGS=guards` takes each out by itself, in a copy, and shows what caught it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import NamedTuple


class Guard(NamedTuple):
    """`old` stands exactly once in the file `path`; with `new` in its place the guard is gone, and `tests` must fail."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Pytest node ids: files, or single tests."""

    def without(self, source: str) -> str:
        """The file without the guard. Raises ValueError where `old` does not stand there exactly once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: stands {source.count(self.old)} times in {self.path}: {self.old!r}")
        return source.replace(self.old, self.new)


def guards() -> list[Guard]:
    """Those of every module here that has some."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return [guard for module in modules for guard in getattr(module, "GUARDS", ())]
