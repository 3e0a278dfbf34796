"""Errors of the core: each carries what its reader needs to act. Their HTTP status is `gateway/errors.py`'s business."""

from __future__ import annotations


class KvshelfError(Exception):
    """A refusal or failure that kvshelf explains. `code` is stable and made for programs, `str(error)` for people."""

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(KvshelfError):
    """The caller sent something that can't be done; the message says how to mend it."""

    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class DocumentTooLong(InvalidRequest):
    """A document, or a question with its document, does not fit the model's context (all in tokens)."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, tokens: int, limit: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.tokens = tokens
        self.limit = limit


class NotFound(KvshelfError):
    """Unknown, or not visible to the caller: the two look alike on purpose."""

    code = "not_found"


class Conflict(KvshelfError):
    code = "conflict"


class LayoutError(KvshelfError):
    """The chat template or tokenizer can't be split into a document's prefix and a question's suffix."""

    code = "prompt_layout"


class EngineUnavailable(KvshelfError):
    """No worker can answer now. `retry_after_s` is a hint for the client."""

    code = "engine_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(EngineUnavailable):
    """So many questions wait for a worker already that no more may."""

    code = "queue_full"


class WaitedTooLong(EngineUnavailable):
    """A question waited for a worker as long as it may."""

    code = "queue_timeout"


class ShareFull(KvshelfError):
    """So many of the tenant's own questions wait for a worker that no more of them may. `retry_after_s` is a hint."""

    code = "queue_share_full"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineFailed(KvshelfError):
    """A worker accepted the request and then failed. `started`: whether a first token had been received."""

    code = "engine_failed"

    def __init__(self, message: str, *, started: bool = False) -> None:
        super().__init__(message)
        self.started = started


class StoreUnavailable(KvshelfError):
    """The database can't be reached, is full or is not what this kvshelf can use. Nothing of the call was stored."""

    code = "store_unavailable"


class StorageFull(KvshelfError):
    """The disk tier has no room for another document, and nothing there may go. The message says what holds the space."""

    code = "storage_full"


class QuotaExceeded(StorageFull):
    """The tenant has as much as it may have; others have room."""

    code = "quota_exceeded"

    def __init__(self, message: str, *, limit: float) -> None:
        super().__init__(message)
        self.limit = limit
