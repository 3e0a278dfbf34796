"""The log: structured lines on standard error, which never hold a key, a question or a document's text.

What was raised is told by where and what it is, and not by its words: those of a library may quote what it was given.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from traceback import extract_tb
from types import TracebackType
from typing import Any

import structlog


def set_up_logging(log_level: str) -> None:
    """Structured lines on standard error: for people on a terminal, JSON elsewhere. Never a key or a document's text."""
    level = logging.getLevelNamesMapping().get(log_level.upper(), logging.INFO)
    renderer: object = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    structlog.configure(
        processors=[*shared, _without_words, renderer],  # type: ignore[list-item]
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it makes itself verbose when imported
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return told(ei[1])


def _without_words(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog's `exc_info`, as `told` tells it."""
    raised = event.pop("exc_info", None)
    error = raised if isinstance(raised, BaseException) else raised[1] if isinstance(raised, tuple) else sys.exc_info()[1]
    if raised and error is not None:
        event["exception"] = told(error)
    return event


def told(error: BaseException | None) -> str:
    """An exception for the log: where it was raised and what it is, but not its words: they may be a document's or a key's.

    Only the operating system's stay.
    """
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        own = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        lines = [*_places(error.__traceback__), f"{type(error).__module__}.{type(error).__qualname__}{own}", *lines]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _places(traceback: TracebackType | None) -> Iterator[str]:
    for frame in extract_tb(traceback):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
