"""The OpenAPI description, `/schema`: what Litestar finds out by itself, completed by what handlers say in their `opt`.

Handlers here read their bodies themselves, so that a refusal is one of ours; `opt={TAKES: Takes(...)}` says what they take, and
`opt={GIVES: {status: ...}}` what they give where that is not their return type. A raw ASGI handler with both is described
like any other. Every route's errors are the one envelope, with the statuses of `gateway/errors.py`.
"""

from __future__ import annotations

import copy
import http
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from litestar import Litestar, Request, Router
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import ASGIRoute
from msgspec import UNSET, UnsetType

from gateway.errors import JSON, STATUSES

TAKES = "takes"
GIVES = "gives"
PUBLIC = "exclude_from_auth"
EVENTS = "text/event-stream"
CSV = "text/csv"
TEXTS = ("text/plain", "text/markdown", "text/html")
EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}, "required": ["data"]}
SCHEMAS = "#/components/schemas/"
KEY = {"type": "http", "scheme": "bearer", "description": "A tenant's key: `kvshelf keys create` makes one."}


class Takes(msgspec.Struct, frozen=True):
    """A JSON body of this type. `text`: or the text itself, as a file; `optional`: or none."""

    type: Any
    text: bool = False
    optional: bool = False


class ErrorView(msgspec.Struct, frozen=True):
    """OpenAI's error object. What follows `code` is there where it helps to mend the request."""

    message: str
    type: str
    param: str | None
    code: str | None
    candidates: list[dict[str, Any]] | UnsetType = UNSET
    """The documents that a question may be about."""
    job: str | UnsetType = UNSET
    """The reading that has to end first."""
    tokens: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET


class ErrorEnvelope(msgspec.Struct, frozen=True):
    error: ErrorView


def described(title: str, opt: dict[str, Any]) -> OpenAPIConfig:
    """As JSON alone: the pages that Litestar can make of it run scripts from elsewhere. `opt`: of its own routes."""
    router = Router("/schema", route_handlers=[], opt=opt, include_in_schema=False)
    return OpenAPIConfig(title=title, version="0.1.0", path="/schema", render_plugins=[_Described()], openapi_router=router)


class _Described(JsonRenderPlugin):
    def __init__(self) -> None:
        super().__init__(path=("/openapi.json", "/"), media_type=JSON)  # type: ignore[arg-type]

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return msgspec.json.encode(completed(openapi_schema, request.app))


def completed(schema: dict[str, Any], app: Litestar) -> dict[str, Any]:
    """The description with bodies, answers, errors and who needs a key."""
    schema = copy.deepcopy(schema)
    handlers = list(_handlers(app))
    parts = _Parts(handlers)
    components = schema.setdefault("components", {})
    components["schemas"] = components.get("schemas", {}) | parts.schemas
    components["securitySchemes"] = {"key": KEY}
    for path, method, handler in handlers:
        operation = schema["paths"].setdefault(path, {}).setdefault(method.lower(), _operation(handler))
        if (takes := handler.opt.get(TAKES)) is not None:
            operation["requestBody"] = parts.body(takes)
        given = {status: found for status, found in operation["responses"].items() if status < "400"}
        if (gives := handler.opt.get(GIVES)) is not None:
            given = {str(status): parts.answer(status, kind) for status, kind in gives.items()}
        public = bool(handler.opt.get(PUBLIC))
        errors = {str(status): parts.answer(status, ErrorEnvelope) for status in STATUSES if not (public and status in (401, 403))}
        operation["responses"] = errors | given
        operation["security"] = [] if public else [{"key": []}]
    return schema


def _handlers(app: Litestar) -> Iterator[tuple[str, str, BaseRouteHandler]]:
    """(path, method, handler) of what is described."""
    for route in app.routes:
        found = getattr(route, "route_handler_map", None)
        if found is not None:
            for method, (handler, _) in found.items():
                if method != "OPTIONS" and handler.resolve_include_in_schema():
                    yield route.path_format, method, handler
        elif isinstance(route, ASGIRoute) and TAKES in route.route_handler.opt:
            yield route.path_format, "POST", route.route_handler


def _operation(handler: BaseRouteHandler) -> dict[str, Any]:
    summary, _, description = (handler.fn.__doc__ or "").strip().partition("\n")
    name = handler.handler_name.rpartition(".")[2]
    return {"operationId": name, "summary": summary, "description": description.strip(), "responses": {}}


class _Parts:
    """Pieces of the description, and the schemas that they refer to."""

    def __init__(self, handlers: Iterable[tuple[str, str, BaseRouteHandler]]) -> None:
        types: list[Any] = [ErrorEnvelope]
        for _, _, handler in handlers:
            types += [handler.opt[TAKES].type] if TAKES in handler.opt else []
            for kind in handler.opt.get(GIVES, {}).values():
                types += [one for one in (kind if isinstance(kind, tuple) else (kind,)) if not isinstance(one, str)]
        types = list(dict.fromkeys(types))
        found, self.schemas = msgspec.json.schema_components(types, ref_template=f"{SCHEMAS}{{name}}")
        self._of = dict(zip(types, found, strict=True))

    def body(self, takes: Takes) -> dict[str, Any]:
        content: dict[str, Any] = {JSON: {"schema": self._of[takes.type]}}
        if takes.text:
            content |= {kind: {"schema": {"type": "string"}} for kind in TEXTS}
            content["application/pdf"] = {"schema": {"type": "string", "format": "binary"}}
        return {"content": content, "required": not takes.optional}

    def answer(self, status: int, kind: Any) -> dict[str, Any]:
        """Of this type, or a text of this media type (EVENTS, CSV). Of several it is one, as it was asked for."""
        content: dict[str, Any] = {}
        for one in kind if isinstance(kind, tuple) else (kind,):
            if isinstance(one, str):
                content[one] = {"schema": EVENT if one is EVENTS else {"type": "string"}}
            else:
                content[JSON] = {"schema": self._of[one]}
        return {"description": http.HTTPStatus(status).phrase, "content": content}
