"""The limits at the door: every request with a key takes one of its minute's, and every answer says what is left."""

from __future__ import annotations

from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.tenants.authenticator import Principal
from gateway.tenants.limiter import Admission, Limiter

_ADMISSION = "admission"


class LimitsMiddleware:
    """Comes after the KeyMiddleware. Routes without a key have no limits."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope.get("auth")
        admission = await self._limiter.admit(principal) if isinstance(principal, Principal) else None
        if admission is None:
            await self._app(scope, receive, send)
            return
        scope["state"][_ADMISSION] = admission

        async def with_limits(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *admission.headers]
            await send(message)

        await self._app(scope, receive, with_limits)


def admission_of(scope: Scope) -> Admission | None:
    """What the request took; None where nothing of it is limited."""
    found: Admission | None = scope["state"].get(_ADMISSION)
    return found
