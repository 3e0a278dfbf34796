"""Labelled questions: one JSON object a line, `{"question": …, "document": id or null}`, with a `kind` if you like."""

from __future__ import annotations

from pathlib import Path

import msgspec

from router.evaluation import Labelled


class BadQuestions(Exception):
    """The file can't be used; the message names the line and says how to mend it."""


_decoder = msgspec.json.Decoder(Labelled)


def read(path: Path) -> tuple[Labelled, ...]:
    """Raises BadQuestions."""
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadQuestions(f"{path} can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_decoder.decode(line))
        except msgspec.MsgspecError as error:
            raise BadQuestions(
                f'{path}, line {number}: {error}. A line is {{"question": "…", "document": "its id"}}, or null for no document.'
            ) from error
    if not found:
        raise BadQuestions(f"{path} holds no question.")
    return tuple(found)
