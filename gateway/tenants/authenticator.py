"""Whose request it is: the key in its header, recognised against the stored records.

Recognised keys are believed for CACHE_S, so a revoked one stops within that time. When each was used last is written now and
then, never on a request's way.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

import msgspec
import structlog

from backends.base import Store
from backends.records import ApiKey
from gateway.errors import Forbidden, Unauthorized
from gateway.saving import regularly
from gateway.tenants import keys
from router.documents import TenantId
from router.errors import StoreUnavailable
from router.limits import NO_RATES, Rates
from router.viewers import Viewer

log = structlog.get_logger("keys")

CACHE_S = 1.0
CACHE_SIZE = 10_000
AGAIN_S = 0.05
"""What is refused by a record older than this is looked up again: its secret may be new, its expiry later."""
USED_EVERY_S = 60.0
"""How often it is written when keys were used last."""

_HOW = "Send `Authorization: Bearer <key>`; `kvshelf keys create` makes one."
_NO_HASH = "0" * 64
"""What no secret hashes to, as far as anybody can find out."""


class Principal(msgspec.Struct, frozen=True):
    """Who is asking. `proof`: the keyed hash of the secret that was sent, which never leaves the gateway."""

    viewer: Viewer
    key_id: str
    scopes: tuple[str, ...]
    proof: str
    limits: Rates = NO_RATES
    """The key's own, beside those of its tenant."""

    def __repr__(self) -> str:
        return f"<Principal {self.key_id} of {self.tenant}>"

    @property
    def tenant(self) -> TenantId:
        return self.viewer.tenant

    def need(self, *scopes: str) -> None:
        """Raises Forbidden without any of these scopes."""
        if not any(scope in self.scopes for scope in scopes):
            raise Forbidden(f"This key may not do that: it lacks the scope {' or '.join(map(repr, scopes))}.")


class _Known(msgspec.Struct, frozen=True):
    """A record as it was at `at`, None for no such key, and what it sees."""

    at: float
    record: ApiKey | None
    viewer: Viewer | None


class Authenticator:
    def __init__(
        self,
        store: Store,
        server_secret: bytes,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._server_secret = server_secret
        self._clock = clock
        self._now = now
        self._cache: dict[str, _Known] = {}
        self._looking: dict[str, asyncio.Task[_Known]] = {}
        self._used: dict[str, float] = {}

    async def recognise(self, header: str | None) -> Principal:
        """Who an `Authorization` header belongs to. Raises Unauthorized that says what is wrong, never whose it is."""
        parsed = claimed(header)
        known = await self._known(parsed.public_id)
        proof, now = keys.secret_hash(self._server_secret, parsed.secret), self._now()
        good = _is_good(known.record, parsed.environment, proof, now)
        if not good and self._clock() - known.at >= AGAIN_S:
            known = await asyncio.shield(self._look_up(parsed.public_id))
            good = _is_good(known.record, parsed.environment, proof, now)
        record, viewer = known.record, known.viewer
        if record is None or viewer is None or not good:
            raise Unauthorized("This API key is unknown, has expired or was revoked.")
        self._used[record.public_id] = now
        return Principal(viewer, record.public_id, record.scopes, proof, record.limits)

    async def still_good(self, principal: Principal) -> bool:
        """Whether the key would be recognised now. Where the store is away, by what was known of it last."""
        try:
            record = (await self._known(principal.key_id)).record
        except StoreUnavailable:
            known = self._cache.get(principal.key_id)
            if known is None:
                return True
            record = known.record
        return record is not None and _is_good(record, record.environment, principal.proof, self._now())

    def forget(self, public_id: str) -> None:
        """The key was changed here: it need not be believed for any longer."""
        self._cache.pop(public_id, None)

    async def run(self) -> None:
        """Write now and then when keys were used last, and at the end."""
        await regularly(self.save, USED_EVERY_S)

    async def save(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.keys_used(used)
        except StoreUnavailable as error:
            self._used = used | self._used
            log.warning("key_use_not_saved", error=str(error))

    async def _known(self, public_id: str) -> _Known:
        """The stored record, at most CACHE_S old. A key in steady use is looked up ahead of that, and once for all who ask."""
        known = self._cache.get(public_id)
        age_s = self._clock() - known.at if known is not None else CACHE_S
        if known is None or age_s >= CACHE_S:
            return await asyncio.shield(self._look_up(public_id))
        if age_s >= CACHE_S / 2:
            self._look_up(public_id)
        return known

    def _look_up(self, public_id: str) -> asyncio.Task[_Known]:
        task = self._looking.get(public_id)
        if task is None:
            task = self._looking[public_id] = asyncio.create_task(self._fetch(public_id))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever awaits it hears of it
        return task

    async def _fetch(self, public_id: str) -> _Known:
        started = self._clock()
        try:
            record = await self._store.key(public_id)
        finally:
            del self._looking[public_id]
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        known = self._cache[public_id] = _Known(started, record, None if record is None else _viewer(record))
        return known


def claimed(header: str | None) -> keys.Parsed:
    """What an `Authorization` header says, well-formed but not proved. Raises Unauthorized."""
    if not header:
        raise Unauthorized(f"No API key. {_HOW}")
    scheme, _, key = header.partition(" ")
    parsed = keys.parse(key.strip()) if scheme.lower() == "bearer" else None
    if parsed is None:
        raise Unauthorized(f"This is not a kvshelf key, or it was mistyped or cut. {_HOW}")
    return parsed


def _is_good(record: ApiKey | None, environment: str, proof: str, now: float) -> bool:
    fits = _fits(record, proof, now)
    return record is not None and fits and record.lives(now) and record.environment == environment


def _fits(record: ApiKey | None, proof: str, now: float) -> bool:
    """Whether this is the hash of the key's secret, or of its old one while that is good.

    Compared in constant time, twice in any case, also where there is no record: a wrong key takes the time of a wrong secret.
    """
    newer = hmac.compare_digest(proof, record.secret_hash if record is not None else _NO_HASH)
    older = hmac.compare_digest(proof, (record.good_old_hash(now) if record is not None else None) or _NO_HASH)
    return newer or older


def _viewer(record: ApiKey) -> Viewer:
    return Viewer(record.tenant, frozenset(record.documents), frozenset(record.tags))
