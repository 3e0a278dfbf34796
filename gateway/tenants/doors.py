"""What stands before every route: a key that is recognised and has the scope that the route names.

A route that names none is open to nobody; one for everybody says so (`PUBLIC`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from gateway.errors import Forbidden, Unauthorized
from gateway.tenants.audit import NOBODY, Actor, AuditLog
from gateway.tenants.authenticator import Authenticator, Principal, claimed

PUBLIC = {"exclude_from_auth": True}
_NEEDS = "needs"


def needs(*scopes: str) -> dict[str, Any]:
    """For a route's `opt`: any one of these scopes opens it."""
    return {_NEEDS: scopes}


class KeyMiddleware(AbstractAuthenticationMiddleware):
    """Puts the Principal in `scope["auth"]` for every route that does not opt out."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        super().__init__(app)
        self._authenticator = authenticator

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        principal = await self._authenticator.recognise(connection.headers.get("authorization"))
        principal.need(*connection.scope["route_handler"].opt.get(_NEEDS, ()))
        return AuthenticationResult(user=principal.tenant, auth=principal)


class AdminKeyMiddleware(KeyMiddleware):
    """The operators' door: who is refused stands in the audit log."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, audit: AuditLog) -> None:
        super().__init__(app, authenticator)
        self._audit = audit

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        try:
            return await super().authenticate_request(connection)
        except (Unauthorized, Forbidden) as error:
            by, details = NOBODY, dict[str, str]()
            with suppress(Unauthorized):
                claim = claimed(connection.headers.get("authorization")).public_id
                by, details = (claim, {}) if isinstance(error, Forbidden) else (NOBODY, {"claimed": claim})
            actor = Actor(by, origin_of(connection))
            method = connection.scope.get("method", "")
            await self._audit.refused(actor, f"{method} {connection.scope['path']}", str(error), **details)
            raise


def actor_of(connection: ASGIConnection[Any, Any, Principal, Any]) -> Actor:
    """Who acts, after the key was recognised."""
    return Actor(connection.auth.key_id, origin_of(connection))


def origin_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    return connection.client.host if connection.client is not None else "unknown"
