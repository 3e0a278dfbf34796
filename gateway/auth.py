"""API keys: made, read and recognised. Only a keyed hash of a key's secret is ever stored.

    kvs_live_<public id>_<secret><checksum>

The public id finds the record, the secret (256 bits) proves the holder, the checksum tells a typing error from a
wrong key without a look-up. Recognised keys are believed for CACHE_S, so a revoked one stops within that time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from backends.base import ApiKey, Store
from gateway.errors import Forbidden, Unauthorized
from router.documents import TenantId

CACHE_S = 1.0
CACHE_SIZE = 10_000

SCOPES = ("ask", "documents", "share")
"""ask questions and see the catalog · add, change and remove the tenant's own documents · the same for shared ones"""

_PREFIX = "kvs_live"
_HOW = "Send `Authorization: Bearer <key>`; `kvshelf keys create` makes one."


class Principal(msgspec.Struct, frozen=True):
    """Who is asking."""

    tenant: TenantId
    key_id: str
    scopes: tuple[str, ...]

    def need(self, scope: str) -> None:
        """Raises Forbidden without this scope."""
        if scope not in self.scopes:
            raise Forbidden(f"This key may not do that: it lacks the scope {scope!r}.")


def new_key(server_secret: bytes, tenant: TenantId, *, name: str, scopes: tuple[str, ...], now: float) -> tuple[str, ApiKey]:
    """(the key, to be shown once; the record to store)."""
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    body = f"{_PREFIX}_{public_id}_{secret}"
    record = ApiKey(
        public_id=public_id, tenant=tenant, name=name, secret_hash=_hash(server_secret, secret), scopes=scopes, created_at=now
    )
    return body + _checksum(body), record


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
        public_id, secret = _parse(key.strip()) if scheme.lower() == "bearer" else (None, None)
        if public_id is None or secret is None:
            raise Unauthorized(f"This is not a kvshelf key, or it was mistyped or cut. {_HOW}")
        record = await self._record(public_id)
        # Compared also where there is no record: a wrong key takes the time of a wrong secret.
        expected = record.secret_hash if record else "0" * 64
        right = hmac.compare_digest(_hash(self._server_secret, secret), expected)
        if record is None or not right or record.revoked_at is not None:
            raise Unauthorized("This API key is unknown or was revoked.")
        return Principal(record.tenant, record.public_id, record.scopes)

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


def _parse(key: str) -> tuple[str, str] | tuple[None, None]:
    """(public id, secret), or Nones where the key is malformed or its checksum does not fit."""
    body, checksum = key[:-8], key[-8:]
    if not body.startswith(f"{_PREFIX}_") or not hmac.compare_digest(_checksum(body).encode(), checksum.encode()):
        return None, None
    public_id, _, secret = body[len(_PREFIX) + 1 :].partition("_")
    return public_id, secret


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def _hash(server_secret: bytes, secret: str) -> str:
    return hmac.new(server_secret, b"api key\0" + secret.encode(), hashlib.sha256).hexdigest()
