"""A question over several documents: what each of them answered as one text, and whether that will fit the context.

The text stands where a document does in the prompt (`router/prompts.py`), so its words are reference material and no
instructions; the client's conversation comes behind it, as it does behind a document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from router.errors import DocumentTooLong

TASK = (
    "The document above is a list of answers, each from a document of its own, by name. Put them together into one answer to "
    "the user's last question, and say which document each part of it comes from."
)
"""Told before the client's own system text."""
NO_ANSWER = "(no answer)"
CUT = " …"
_HEADING = re.compile(r"^[ \t]*#+[ \t]*", re.MULTILINE)


class Part(msgspec.Struct, frozen=True):
    """What one document answered. `cut`: the answer was longer than a part may be."""

    document: str
    title: str
    answer: str
    cut: bool = False


def joined(parts: Sequence[Part]) -> str:
    """The parts under each other, in their order, each below its document's name."""
    return "\n\n".join(f"## {_name(part)}\n\n{_below(part.answer.strip()) or NO_ANSWER}{CUT if part.cut else ''}" for part in parts)


def _below(answer: str) -> str:
    """The answer with its headings as plain lines: a document can't have it speak in another one's name."""
    return _HEADING.sub("", answer)


def system(clients: str) -> str:
    """The system text of the joining question. `clients`: the client's own."""
    return f"{TASK}\n\n{clients}" if clients else TASK


def check_room(*, parts: int, part_tokens: int, around: int, context: int, asked: int | None) -> None:
    """See that the joined answers and their question will fit, before anything is asked.

    `around` counts what stands around the answers: template, names, messages. Where the client does not say how long the
    answer may be (`asked`), it gets as much room as a part at least. Raises DocumentTooLong.
    """
    answer = asked or part_tokens
    tokens = around + parts * part_tokens + answer
    if tokens > context:
        raise DocumentTooLong(
            f"The model's context is {context} tokens; the answers of {parts} documents may take {parts * part_tokens}, your "
            f"messages and what is around them {around}, the answer {answer}: {tokens} in all. Name fewer documents, or shorten "
            f"the conversation{' or `max_tokens`' if asked else ''}.",
            tokens=tokens,
            limit=context,
            param="documents",
        )


def _name(part: Part) -> str:
    title = " ".join(part.title.split())
    return f"{part.document}: {title}" if title not in ("", part.document) else part.document
