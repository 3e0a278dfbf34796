"""What accounts have used, counted by all gateways together, in Valkey or Redis through the library `limits`.

Taking is one script, so several charges are taken together or not at all, and never one too many, whoever asks at once.
Questions under way are leases that expire: those of a gateway that was killed are free again after LEASE_S.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from router.counts import Taken
from router.errors import KvshelfError
from router.limits import Charge, Used

PREFIX = "kvshelf"
TIMEOUT_S = 1.0
CONNECTIONS = 16
LEASE_S = 30.0

# KEYS: for each charge its window's counter, and the counter of the window before.
# ARGV: for each its limit, amount, the share with which the one before counts, and how long the counter is kept.
# Gives which charge had no room (0: all were taken), then each one's two counters as they are afterwards.
_TAKE = """
local used, refused = {}, 0
for i = 1, #KEYS / 2 do
    local limit, amount, share = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
    local current = tonumber(redis.call('get', KEYS[2 * i - 1]) or '0')
    local before = tonumber(redis.call('get', KEYS[2 * i]) or '0')
    used[2 * i - 1], used[2 * i] = current, before
    local counted = current
    if before > 0 then counted = counted + math.ceil(before * share - 1e-6) end
    if refused == 0 and amount > 0 and counted + amount > limit then refused = i end
end
if refused == 0 then
    for i = 1, #KEYS / 2 do
        local amount = tonumber(ARGV[4 * i - 2])
        if amount > 0 then
            used[2 * i - 1] = redis.call('incrby', KEYS[2 * i - 1], amount)
            redis.call('expire', KEYS[2 * i - 1], ARGV[4 * i])
        end
    end
end
return {refused, unpack(used)}
"""

# KEYS: each account's set of leases. ARGV: now, when the lease expires, its name, how long a set is kept, each account's limit.
_LEASE = """
for i = 1, #KEYS do
    redis.call('zremrangebyscore', KEYS[i], '-inf', ARGV[1])
    if redis.call('zcard', KEYS[i]) >= tonumber(ARGV[4 + i]) then return i end
end
for i = 1, #KEYS do
    redis.call('zadd', KEYS[i], ARGV[2], ARGV[3])
    redis.call('expire', KEYS[i], ARGV[4])
end
return 0
"""


class Away(Exception):
    """The shared storage can't be reached."""


class SharedCounts:
    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`url`: redis://, rediss://, valkey:// or valkeys://, one server, which is away if it takes longer than `timeout_s`.

        Raises KvshelfError where the client is not installed.
        """
        try:
            from limits.aio.storage.redis import RedisStorage
            from limits.errors import StorageError
            from valkey.asyncio import BlockingConnectionPool
            from valkey.exceptions import ValkeyError
        except ImportError as error:
            raise KvshelfError(
                "`limits_storage` needs the client of Valkey and Redis; install it with: pip install 'kvshelf[shared]'"
            ) from error
        pool: Any = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=timeout_s, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        # One client speaks to both kinds of server.
        self._storage = RedisStorage(
            f"async+{url}", wrap_exceptions=True, implementation="valkey", key_prefix=PREFIX, connection_pool=pool
        )
        self._bridge = cast("Any", self._storage.bridge)
        self._client = self._bridge.get_connection()
        self._take = self._client.register_script(_TAKE)
        self._lease = self._client.register_script(_LEASE)
        self._errors = (StorageError, ValkeyError, OSError)

    async def open(self) -> None:
        """Have the server know the scripts; one that comes later is told them at their first use. Raises Away."""
        for script in (_TAKE, _LEASE, self._bridge.SCRIPT_INCR_EXPIRE):
            await self._told(self._client.script_load(script))

    async def close(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def take(self, charges: Sequence[Charge], now: float) -> Taken:
        """As `router.counts.Counts.take`. Raises Away."""
        keys, values = [], []
        for charge in charges:
            window = charge.window
            keys += [self._key(charge, window.number), self._key(charge, window.number - 1)]
            values += [charge.limit, charge.amount, window.share_before(now), _kept_s(charge, now)]
        refused, *used = await self._told(self._take(keys, values))
        found = [Used(current, before) for current, before in zip(used[::2], used[1::2], strict=True)]
        return Taken(found, refused - 1 if refused else None)

    async def give(self, charges: Iterable[Charge], now: float) -> None:
        """Take each one's amount off again, in the window that it was taken in. Raises Away."""
        for charge in charges:
            name = f"{charge.account}/{charge.window.number}"
            await self._told(self._storage.incr(name, _kept_s(charge, now), -charge.amount))

    async def lease(self, accounts: Sequence[tuple[str, int]], lease: str, now: float) -> int | None:
        """Begin a question of these accounts (with their limits); None, or the number of the one that has too many. Raises Away."""
        keys = [self._bridge.prefixed_key(account) for account, _ in accounts]
        limits = [limit for _, limit in accounts]
        refused = await self._told(self._lease(keys, [now, now + LEASE_S, lease, round(2 * LEASE_S), *limits]))
        return refused - 1 if refused else None

    async def renew(self, accounts: Iterable[str], lease: str, now: float) -> None:
        """The question goes on. Raises Away."""
        for account in accounts:
            key = self._bridge.prefixed_key(account)
            await self._told(self._client.zadd(key, {lease: now + LEASE_S}))
            await self._told(self._client.expire(key, round(2 * LEASE_S)))

    async def release(self, accounts: Iterable[str], lease: str) -> None:
        """The question is over. Raises Away."""
        for account in accounts:
            await self._told(self._client.zrem(self._bridge.prefixed_key(account), lease))

    async def leases(self, account: str, now: float) -> int:
        """How many questions of the account are under way. Raises Away."""
        found = await self._told(self._client.zcount(self._bridge.prefixed_key(account), now, "+inf"))
        return int(found)

    def _key(self, charge: Charge, number: int) -> str:
        return str(self._bridge.prefixed_key(f"{charge.account}/{number}"))

    async def _told(self, asking: Any) -> Any:
        try:
            return await asking
        except self._errors as error:
            raise Away(str(error) or type(error).__name__) from error


def _kept_s(charge: Charge, now: float) -> int:
    """How long a counter is of use: until its window is over, or the one after it; and a little for clocks that differ."""
    window = charge.window
    lasts_s = window.end - window.start if window.sliding else 0.0
    return max(round(window.end + lasts_s - now), 0) + 60
