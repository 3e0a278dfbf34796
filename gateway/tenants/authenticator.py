"""Whose request it is: the key in its header, recognised against the stored records.

Recognised keys are believed for CACHE_S, so a revoked one stops within that time.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from backends.base import ApiKey, Store
from gateway.errors import Forbidden, Unauthorized
from gateway.tenants import keys
from router.documents import TenantId
from router.limits import NO_RATES, Rates

CACHE_S = 1.0
CACHE_SIZE = 10_000

_HOW = "Send `Authorization: Bearer <key>`; `kvshelf keys create` makes one."


class Principal(msgspec.Struct, frozen=True):
    """Who is asking."""

    tenant: TenantId
    key_id: str
    scopes: tuple[str, ...]
    limits: Rates = NO_RATES
    """The key's own, beside those of its tenant."""

    def need(self, scope: str) -> None:
        """Raises Forbidden without this scope."""
        if scope not in self.scopes:
            raise Forbidden(f"This key may not do that: it lacks the scope {scope!r}.")


class Authenticator:
    def __init__(self, store: Store, server_secret: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._server_secret = server_secret
        self._clock = clock
        self._cache: dict[str, tuple[float, ApiKey | None]] = {}
        self._looking: dict[str, asyncio.Task[ApiKey | None]] = {}

    async def recognise(self, header: str | None) -> Principal:
        """Who an `Authorization` header belongs to. Raises Unauthorized that says what is wrong, never whose it is."""
        if not header:
            raise Unauthorized(f"No API key. {_HOW}")
        scheme, _, key = header.partition(" ")
        public_id, secret = keys.parse(key.strip()) if scheme.lower() == "bearer" else (None, None)
        if public_id is None or secret is None:
            raise Unauthorized(f"This is not a kvshelf key, or it was mistyped or cut. {_HOW}")
        record = await self._record(public_id)
        # Compared also where there is no record: a wrong key takes the time of a wrong secret.
        expected = record.secret_hash if record else "0" * 64
        right = hmac.compare_digest(keys.secret_hash(self._server_secret, secret), expected)
        if record is None or not right or record.revoked_at is not None:
            raise Unauthorized("This API key is unknown or was revoked.")
        return Principal(record.tenant, record.public_id, record.scopes, record.limits)

    async def _record(self, public_id: str) -> ApiKey | None:
        """The stored record, at most CACHE_S old. A key in steady use is looked up ahead of that, and once for all who ask."""
        known = self._cache.get(public_id)
        age_s = self._clock() - known[0] if known is not None else CACHE_S
        if known is None or age_s >= CACHE_S:
            return await asyncio.shield(self._look_up(public_id))
        if age_s >= CACHE_S / 2:
            self._look_up(public_id)
        return known[1]

    def _look_up(self, public_id: str) -> asyncio.Task[ApiKey | None]:
        task = self._looking.get(public_id)
        if task is None:
            task = self._looking[public_id] = asyncio.create_task(self._fetch(public_id))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever awaits it hears of it
        return task

    async def _fetch(self, public_id: str) -> ApiKey | None:
        started = self._clock()
        try:
            record = await self._store.key(public_id)
        finally:
            del self._looking[public_id]
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[public_id] = (started, record)
        return record


class KeyMiddleware(AbstractAuthenticationMiddleware):
    """Puts the Principal in `scope["auth"]` for every route that does not opt out."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        super().__init__(app)
        self._authenticator = authenticator

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        principal = await self._authenticator.recognise(connection.headers.get("authorization"))
        return AuthenticationResult(user=principal.tenant, auth=principal)
