"""A share of RAM: what the versions of one owner may take of it. For more of them its own leave, and nobody else's.

Who is limited, and to how much, is `gateway/tiers/ram_quotas.py`'s.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import msgspec

from router.policies import Policy
from router.policy_order import K


class Share(msgspec.Struct, frozen=True):
    """`keys`: the owner's versions, in RAM or not. `room_bytes`: what more of them may come; negative where there is too much."""

    keys: Container[object]
    room_bytes: int


class Outside:
    """What must not leave for a share: whatever isn't its owner's, and of that what is exempt anyway."""

    def __init__(self, share: Share, exempt: Container[object] = ()) -> None:
        self._keys, self._exempt = share.keys, exempt

    def __contains__(self, key: Any) -> bool:
        return key not in self._keys or key in self._exempt


def own_victims(share: Share, need_bytes: int, policy: Policy[K], now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
    """What of its own has to leave so that the share has room for so many bytes, the least worth first.

    Empty where there is room already, and where everything that may go would not be enough.
    """
    return policy.victims(need_bytes - share.room_bytes, now, Outside(share, exempt))
