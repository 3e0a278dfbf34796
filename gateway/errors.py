"""Errors as HTTP: one table of statuses, one envelope (OpenAI's). Nothing else in kvshelf knows a status code."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from backends.extract import NotText
from backends.extraction.extractor import ExtractionBusy, Unreadable
from router import errors

log = structlog.get_logger("http")

JSON = "application/json"


class Unauthorized(errors.KvshelfError):
    code = "invalid_api_key"


class Forbidden(errors.KvshelfError):
    code = "forbidden"


class BodyTooLong(errors.InvalidRequest):
    """`limit`: the most bytes of a body, `server.max_body_mib` in the configuration."""

    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is over {limit} bytes. Send less, or have the operator raise `server.max_body_mib`.")
        self.limit = limit


class Malformed(errors.InvalidRequest):
    """What came is not HTTP/1.1, or could be read in two ways."""

    code = "malformed_request"


class UrlTooLong(errors.InvalidRequest):
    code = "url_too_long"


class HeadersTooLong(errors.InvalidRequest):
    code = "headers_too_large"


class TooSlow(errors.KvshelfError):
    """The request was not whole in time."""

    code = "request_timeout"


class WrongHost(errors.KvshelfError):
    """The request is meant for another server, by its `Host`."""

    code = "wrong_host"


class TooManyConnections(errors.KvshelfError):
    code = "too_many_connections"
    retry_after_s = 1


class LimitReached(errors.KvshelfError):
    """A limit of the tenant or the key has no room. `retry_after_s`: when it has; None where it never will.

    `more`: headers of the answer beside it.
    """

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: int, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.more: dict[str, str] = {}


class BudgetSpent(LimitReached):
    code = "insufficient_quota"


class NotReady(errors.Conflict):
    """The document has no version that can answer yet; `job` says how far the reading is."""

    code = "document_not_ready"

    def __init__(self, message: str, *, job: str, retry_after_s: int) -> None:
        super().__init__(message, param="document")
        self.job = job
        self.retry_after_s = retry_after_s


class Unrouted(errors.KvshelfError):
    """The question named no document and none was found, or several were. `candidates` are the best."""

    def __init__(self, message: str, *, code: str, candidates: list[dict[str, Any]]) -> None:
        super().__init__(message, param="document")
        self.code = code
        self.candidates = candidates


# The most special class first: the first that fits counts.
_STATUS: tuple[tuple[type[errors.KvshelfError], int, str], ...] = (
    (Unauthorized, 401, "authentication_error"),
    (Forbidden, 403, "permission_error"),
    (LimitReached, 429, "rate_limit_error"),
    (errors.QuotaExceeded, 403, "permission_error"),
    (BodyTooLong, 413, "invalid_request_error"),
    (NotText, 415, "invalid_request_error"),
    (TooSlow, 408, "invalid_request_error"),
    (UrlTooLong, 414, "invalid_request_error"),
    (WrongHost, 421, "invalid_request_error"),
    (HeadersTooLong, 431, "invalid_request_error"),
    (TooManyConnections, 503, "server_error"),
    (Unreadable, 422, "invalid_request_error"),
    (ExtractionBusy, 503, "server_error"),
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.NotFound, 404, "invalid_request_error"),
    (errors.Conflict, 409, "invalid_request_error"),
    (errors.ShareFull, 429, "rate_limit_error"),
    (errors.StorageFull, 507, "server_error"),
    (errors.EngineUnavailable, 503, "engine_error"),
    (errors.StoreUnavailable, 503, "server_error"),
    (errors.EngineFailed, 502, "engine_error"),
)
STATUSES = tuple(sorted({500, *(status for _, status, _ in _STATUS)}))
"""All that an error may have."""


def status_of(error: errors.KvshelfError) -> tuple[int, str]:
    """(HTTP status, OpenAI's error type)."""
    if isinstance(error, Unrouted):
        return (409 if error.code == "document_ambiguous" else 404), "invalid_request_error"
    return next(((status, kind) for cls, status, kind in _STATUS if isinstance(error, cls)), (500, "server_error"))


def envelope(error: errors.KvshelfError) -> dict[str, Any]:
    """OpenAI's error object, with what else the error knows beside it."""
    body: dict[str, Any] = {"message": str(error), "type": status_of(error)[1], "param": error.param, "code": error.code}
    for extra in ("candidates", "job", "tokens", "limit"):
        if hasattr(error, extra):
            body[extra] = getattr(error, extra)
    return {"error": body}


def encoded(error: errors.KvshelfError) -> bytes:
    return msgspec.json.encode(envelope(error))


def headers(error: errors.KvshelfError) -> dict[str, str]:
    retry_after_s = getattr(error, "retry_after_s", None)
    found = {"retry-after": str(retry_after_s)} if retry_after_s is not None else {}
    if isinstance(error, Unauthorized):
        found["www-authenticate"] = "Bearer"
    if isinstance(error, LimitReached):
        found |= error.more
        if retry_after_s is None or isinstance(error, BudgetSpent):
            found["x-should-retry"] = "false"  # else OpenAI's clients try twice more
    return found


def on_kvshelf_error(_: Request[Any, Any, Any], error: errors.KvshelfError) -> Response[bytes]:
    return Response(encoded(error), status_code=status_of(error)[0], media_type=JSON, headers=headers(error))


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals: unknown routes, methods, bodies that can't be decoded."""
    kind = "invalid_request_error" if error.status_code < HTTP_500_INTERNAL_SERVER_ERROR else "server_error"
    details = [entry.get("message") for entry in error.extra if isinstance(entry, dict)] if isinstance(error.extra, list) else []
    words = ". ".join([error.detail, *filter(None, details), *_HINTS.get(error.status_code, ())])
    if error.status_code >= HTTP_500_INTERNAL_SERVER_ERROR:
        log.error("request_failed", path=request.url.path, error=words, exc_info=error.__cause__ or error)
    body = {"error": {"message": words, "type": kind, "param": None, "code": _CODES.get(error.status_code)}}
    return Response(msgspec.json.encode(body), status_code=error.status_code, media_type=JSON, headers=dict(error.headers or {}))


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A bug: the log gets all of it, the client an id to quote (in `x-request-id`)."""
    log.exception("request_failed", path=request.url.path, exc_info=error)
    body = {
        "error": {
            "message": "Something failed inside the gateway; its log says what.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    return Response(msgspec.json.encode(body), status_code=HTTP_500_INTERNAL_SERVER_ERROR, media_type=JSON)


_HINTS = {413: ("Send less, or have the operator raise `server.max_body_mib`.",)}
_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

HANDLERS: dict[int | type[Exception], Any] = {
    errors.KvshelfError: on_kvshelf_error,
    HTTPException: on_http_error,
    Exception: on_unexpected,
}
