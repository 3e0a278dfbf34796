"""Which versions leave RAM first, and what holding one is worth: the replacement policies, by name.

A policy is told what is asked, what comes and what goes; it answers with victims and moves nothing. It is pure: `now`
is seconds of a clock that never goes back, and nothing is left to chance. `kvshelf simulate` compares them all.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from router.policy_density import Density
from router.policy_frequency import Gdsf, Lfu
from router.policy_order import HORIZON_S, K
from router.policy_recency import Arc, Lru

DEFAULT = "kvshelf"
"""What `kvshelf simulate` finds best on the average of its traces, and nowhere worse than `lru`."""


class Policy(Protocol[K]):
    """Keys are hashable (at run time a version's salt), sizes in bytes of RAM.

    A question's course: `used`; then, if its key is not in RAM, `victims`, `removed` for each of them, `added`. A `cost_s` is
    how many seconds longer a question will wait for the key once it has left RAM: to restore it from disk, where what was
    just read lies as well, or, for the last copy there is, to read it anew.
    """

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        """The key was asked, whether it is in RAM or not."""

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        """The key is in RAM now: restored, read or promoted. A key that was here already changes its size."""

    def removed(self, key: K) -> None:
        """The key left RAM and may come back: its history is kept, within bounds. One that isn't here is no error."""

    def forget(self, key: K) -> None:
        """The key is gone for good. One that was never known is no error."""

    def replaced(self, old: K, new: K) -> None:
        """A document has a new version: `old` is gone for good, and what was learned of it holds for `new`, which is not in RAM yet."""

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        """What to evict for so many bytes, the least worth first: none of them needless. Changes nothing.

        Empty where nothing is needed, and where everything in RAM that is not exempt would not be enough.
        """

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        """Seconds of waiting that holding the key is expected to save within the horizon; 0 for a key of which nothing is known.

        At most the key's cost: after one question that had to wait, the key would be in RAM again.
        """

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""


class Choice(msgspec.Struct, frozen=True):
    """How RAM is managed: the order in which versions leave, and whether likely ones are brought ahead of being asked."""

    make: Callable[[int], Policy[str]]
    prefetch: bool = False


CHOICES: Mapping[str, Choice] = MappingProxyType(
    {
        "lru": Choice(Lru),
        "lfu": Choice(Lfu),
        "gdsf": Choice(Gdsf),
        "arc": Choice(Arc),
        "density": Choice(Density),
        "gdsf+prefetch": Choice(Gdsf, prefetch=True),
        "kvshelf": Choice(Density, prefetch=True),
    }
)


def policy(name: str, capacity_bytes: int) -> Policy[str]:
    """A new policy of this name for a RAM tier of this size. Raises KeyError for a name that isn't in `CHOICES`."""
    return CHOICES[name].make(capacity_bytes)
