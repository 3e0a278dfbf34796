"""What a text costs, for `test_linear.py`: run as a script, so that something that does not end can be ended.

usage: linear.py CHARACTERS    stdout: for each function and shape of text, processor seconds for it and for four times as much
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from backends.extract import text_of
from backends.words import content_words
from router import characters, descriptors, documents, naming, prompts, volumes

SHAPES: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "one digit": lambda n: "1" * n,
    "capitals": lambda n: "A" * n,
    "ideographs": lambda n: "契" * n,
    "spaces": lambda n: "x" + " " * n + "x",
    "newlines": lambda n: "x" + "\n" * n + "x",
    "newlines and spaces": lambda n: "x" + "\n " * (n // 2) + "x",
    "vertical tabs": lambda n: "x\x0b" * (n // 2),
    "#": lambda n: "#" * n,
    "# and spaces": lambda n: "# " * (n // 2),
    "a heading of one letter": lambda n: "# " + "a" * n,
    "a heading of #": lambda n: "# a" + "#" * n + "b",
    "sections under a long heading": lambda n: "# " + "a" * (n // 2) + "\n\n" + "## b\n\nc\n\n" * (n // 20),
    "headings": lambda n: "# a\n" * (n // 4),
    "headings of every level": lambda n: "".join(f"{'#' * (number % 6 + 1)} a\n\nb\n\n" for number in range(n // 12)),
    "joined letters": lambda n: "a-" * (n // 2),
    "joined numbers": lambda n: "a1-" * (n // 3),
    "apostrophes": lambda n: "a'" * (n // 2),
    "points": lambda n: "." * n,
    "sentences": lambda n: ". " * (n // 2),
    "fences": lambda n: "```\n" * (n // 4),
    "codes": lambda n: "AB12 " * (n // 5),
    "words": lambda n: "ab " * (n // 3),
    "other words": lambda n: " ".join(map(str, range(n // 7))),
    "overrides": lambda n: "\u202e" * n,
    "tags": lambda n: "</document>" * (n // 11),
    "half tags": lambda n: "< " * (n // 2),
}
READERS: dict[str, Callable[[str], object]] = {
    "text_of": lambda text: text_of(text.encode()),
    "clean_text": prompts.clean_text,
    "enclosed": prompts.enclosed,
    "guess_title": lambda text: descriptors.guess_title(text, ""),
    "passages": descriptors.passages,
    "identifiers": naming.identifiers,
    "name_terms": lambda text: naming.name_terms("a-b", [text]),
    "content_words": content_words,
    "split": lambda text: volumes.split(text, len(text) // 4 + 50, len),
    "assigned": lambda text: volumes.assigned((text, "b"), (text, "c")),
    "shown": characters.shown,
    "escaped": characters.escaped,
    "slug": documents.slug,
}


def seconds(read: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    read(text)
    return time.process_time() - started


if __name__ == "__main__":
    size = int(sys.argv[1])
    for shape, made in SHAPES.items():
        short, long = made(size), made(4 * size)
        for name, read in READERS.items():
            sys.stdout.write(json.dumps([name, shape, seconds(read, short), seconds(read, long)]) + "\n")
            sys.stdout.flush()
