"""What routing reads of a document: its title, summary and questions as given, and passages taken from its text.

Pure text in, texts out. Embedding them is `backends/embedding.py`'s work, scoring `router/matching.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.characters import shown
from router.documents import Descriptor

PASSAGE_CHARACTERS = 800
"""About 200 word pieces: what a small embedding model (256 at most) reads without cutting."""
MAX_PASSAGES = 400
TITLE_WITHIN = 2_000
"""Where a title is looked for: so many characters from the beginning."""

# Greedy up to the last letter: it must stay linear in a line that somebody fills with spaces.
_HEADING = re.compile(r"^(#{1,6})\s+(.*[^\s#]#*|)[\s#]*$")


def routing_texts(descriptor: Descriptor, text: str) -> tuple[str, ...]:
    """The texts that stand for a document when questions are matched, most telling first."""
    about = ". ".join(part for part in (descriptor.title, descriptor.summary, ", ".join(descriptor.tags)) if part)
    return (about, *descriptor.questions, *passages(text))


def passages(text: str) -> tuple[str, ...]:
    """The text in pieces of at most about PASSAGE_CHARACTERS, each led by the headings it stands under.

    Where there are more than MAX_PASSAGES, evenly spread ones are kept: a long document must not drown the others.
    """
    found = list(_packed(text))
    if len(found) > MAX_PASSAGES:
        found = [found[number * len(found) // MAX_PASSAGES] for number in range(MAX_PASSAGES)]
    return tuple(found)


def guess_title(text: str, otherwise: str) -> str:
    """The first heading, else the first line, else `otherwise`; at most 120 characters."""
    for line in text.lstrip()[:TITLE_WITHIN].splitlines():
        heading = _HEADING.match(line)
        words = shown(heading[2] if heading else line)  # on one line: a manual page's first line is set in columns
        if words:
            return words[:120]
    return otherwise


def _packed(text: str) -> Iterator[str]:
    """Paragraphs under one heading, packed together up to the size."""
    for heading, paragraphs in _sections(text):
        lead = f"{heading[-PASSAGE_CHARACTERS // 2 :]}\n" if heading else ""
        piece = ""
        for paragraph in paragraphs:
            for part in _cut(paragraph, PASSAGE_CHARACTERS):
                if piece and len(piece) + len(part) > PASSAGE_CHARACTERS:
                    yield lead + piece
                    piece = ""
                piece = f"{piece}\n{part}" if piece else part
        if piece:
            yield lead + piece


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """(path of headings, paragraphs), in order."""
    path: list[tuple[int, str]] = []
    paragraphs: list[str] = []
    for block in re.split(r"\n\s*\n|\n(?=#{1,6}\s)|(?<=\n)(?=#{1,6}\s)", text):
        first, _, rest = block.strip().partition("\n")
        heading = _HEADING.match(first)
        if heading:
            if paragraphs:
                yield " > ".join(words for _, words in path), paragraphs
            level = len(heading[1])
            # No more of it than is told, else a long one is copied to each section below it.
            path = [(depth, words) for depth, words in path if depth < level] + [(level, heading[2][-PASSAGE_CHARACTERS:])]
            paragraphs = [rest.strip()] if rest.strip() else []
        elif block.strip():
            paragraphs.append(block.strip())
    if paragraphs:
        yield " > ".join(words for _, words in path), paragraphs


def _cut(paragraph: str, size: int) -> Iterator[str]:
    """`paragraph` in pieces of at most `size`, at line or sentence ends where there are some, else between words."""
    start, stop = 0, len(paragraph)  # never a copy of the rest: a paragraph may be all of a long text
    while stop - start > size:
        end = start + size
        ends = (max(paragraph.rfind("\n", start, end), paragraph.rfind(". ", start, end) + 1), paragraph.rfind(" ", start, end))
        at = next((one for one in ends if one > start + size // 4), end)
        if part := paragraph[start:at].strip():
            yield part
        start = at
        while start < stop and paragraph[start].isspace():
            start += 1
    if part := paragraph[start:].strip():
        yield part
