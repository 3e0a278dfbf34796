"""Splits a text that is longer than the model reads into volumes, at headings where it has some.

Pure: a text, a limit and a count of tokens in, volumes out; the same every time. `gateway/shelf/volumes.py` keeps them.

1. A volume is as many whole sections, one after another, as fit. Sections are those of the highest level of heading.
2. A section that doesn't fit by itself becomes volumes of its own, by the same rule one level further down: headings,
   then paragraphs, lines, sentences, words, characters. What little stands before it (a title, a short section) goes with
   its beginning; otherwise it is not packed together with others, so that a change inside it leaves their volumes as they are.
3. A volume that begins further down is led by the text's title and the headings that it stands under.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import msgspec

from router.descriptors import guess_title
from router.errors import DocumentTooLong

HEADING_CHARACTERS = 120
"""So much is told of a heading that a volume stands under; a line that merely looks like one may be long."""
NAMED_CHARACTERS = 60
"""So much is told of it where volumes are listed."""
LEVELS = 6

Count = Callable[[str], int]
"""How many tokens a volume of this text takes in all. Adding text adds tokens, more or less."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+|[。！？]+")
_WORD = re.compile(r"\s+")
_TEXT_CUTS = (_PARAGRAPH, _LINE, _SENTENCE, _WORD)


class Volume(msgspec.Struct, frozen=True):
    """`body` is a slice of the text: those of all volumes, one after another, are the text. `headings` says what is in it."""

    lead: str
    body: str
    headings: str

    @property
    def text(self) -> str:
        """What the model reads."""
        return (self.lead + self.body).strip()


class _Heading(msgspec.Struct, frozen=True):
    at: int
    level: int
    words: str


def split(text: str, limit: int, count: Count) -> tuple[Volume, ...]:
    """The volumes of `clean_text`'s text, none of which takes more than `limit` tokens; one where all of it fits.

    Costs a few countings of the whole text. Raises DocumentTooLong where not even a character fits.
    """
    splitter = _Splitter(text, limit, count)
    slices = list[tuple[int, int]]()
    for start, end in splitter.pack(0, len(text), 1):
        if slices and not text[start:end].strip():  # a volume is read without the space at its end
            start = slices.pop()[0]
        slices.append((start, end))
    return tuple(splitter.volume(start, end) for start, end in slices)


def assigned(questions: Sequence[str], texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sample questions of a text, each with the volume that has the most of its words, rare ones counting more."""
    words = [set(_words(text)) for text in texts]
    held_by = Counter(word for of_volume in words for word in of_volume)
    found: list[list[str]] = [[] for _ in texts]
    for question in questions:
        asked = set(_words(question))
        fits = [math.fsum(math.log(len(texts) / held_by[word]) for word in sorted(asked & of_volume)) for of_volume in words]
        found[fits.index(max(fits))].append(question)
    return tuple(map(tuple, found))


class _Splitter:
    def __init__(self, text: str, limit: int, count: Count) -> None:
        self._text = text
        self._limit = limit
        self._count = count
        self._title = guess_title(text, "")
        self._headings = tuple(_headings(text))
        self._starts = [heading.at for heading in self._headings]

    def pack(self, start: int, end: int, kind: int) -> Iterator[tuple[int, int]]:
        """The slices of text[start:end] that fit. `kind`: what to cut at, a heading's level first, then what `_TEXT_CUTS` has."""
        if self._fits(start, end):
            yield start, end
            return
        cuts, finest = self._cuts(start, end, kind), kind > LEVELS + len(_TEXT_CUTS)
        while start < end:
            ends = cuts[bisect_right(cuts, start) :]
            reached = self._reach(start, ends)
            if finest and not reached:
                raise self._no_room(start)
            if reached and (finest or not self._is_preface(start, ends, reached)):
                yield start, ends[reached - 1]
                start = ends[reached - 1]
            else:
                yield from self.pack(start, ends[reached], kind + 1)
                start = ends[reached]

    def volume(self, start: int, end: int) -> Volume:
        return Volume(self._lead(start), self._text[start:end], self._named(start, end))

    def _fits(self, start: int, end: int) -> bool:
        return self._count((self._lead(start) + self._text[start:end]).strip()) <= self._limit

    def _is_preface(self, start: int, ends: Sequence[int], reached: int) -> bool:
        """Whether the first units, which fit together, are short and stand before one that is too long."""
        stop = ends[reached - 1]
        return (
            reached < len(ends) and self._count(self._text[start:stop]) <= self._limit // 4 and not self._fits(stop, ends[reached])
        )

    def _no_room(self, start: int) -> DocumentTooLong:
        tokens = self._count(self._text[start : start + 1])
        message = f"A volume of one character takes {tokens} tokens; at most {self._limit} fit."
        return DocumentTooLong(message, tokens=tokens, limit=self._limit, param="text")

    def _reach(self, start: int, ends: Sequence[int]) -> int:
        """How many of the units that end there fit together, from `start` on: each number tried is twice the one before,
        then halfway between."""
        fitting, step = 0, 1
        while fitting < len(ends):
            tried = min(step, len(ends))
            if not self._fits(start, ends[tried - 1]):
                break
            fitting, step = tried, 2 * step
        else:
            return fitting
        while tried - fitting > 1:
            middle = (fitting + tried) // 2
            fitting, tried = (middle, tried) if self._fits(start, ends[middle - 1]) else (fitting, middle)
        return fitting

    def _cuts(self, start: int, end: int, kind: int) -> Sequence[int]:
        """Where text[start:end] may be cut, and its end."""
        if kind <= LEVELS:
            inside = self._headings[bisect_right(self._starts, start) : bisect_left(self._starts, end)]
            return [*(heading.at for heading in inside if heading.level <= kind), end]
        if kind > LEVELS + len(_TEXT_CUTS):
            return range(start + 1, end + 1)
        matches = _TEXT_CUTS[kind - LEVELS - 1].finditer(self._text, start, end)
        return [*(at for match in matches if (at := match.end()) < end), end]

    def _above(self, start: int) -> list[_Heading]:
        """The headings that the place stands under; not one that begins there."""
        place = bisect_left(self._starts, start)
        begins = place < len(self._starts) and self._starts[place] == start
        level, path = (self._headings[place].level if begins else LEVELS + 1), list[_Heading]()
        for heading in reversed(self._headings[:place]):
            if heading.level < level:
                path.append(heading)
                level = heading.level
        return path[::-1]

    def _lead(self, start: int) -> str:
        """What stands before a volume that begins there; nothing before the first one, nor where it would take half the room."""
        if start == 0:
            return ""
        path = self._above(start)
        has_title = bool(path) and path[0].words[:HEADING_CHARACTERS] == self._title
        lines = [f"# {self._title}"] if self._title and not has_title else []
        lines += [f"{'#' * heading.level} {heading.words[:HEADING_CHARACTERS]}" for heading in path]
        lead = "".join(f"{line}\n\n" for line in lines)
        return lead if self._count(lead) <= self._limit // 2 else ""

    def _named(self, start: int, end: int) -> str:
        """The first and the last of the highest headings in it; of a part of a section that section's, else its first words."""
        inside = self._headings[bisect_left(self._starts, start) : bisect_left(self._starts, end)]
        if len(inside) > 1 and inside[0].at == 0:
            inside = inside[1:]  # the whole text's title
        if inside:
            highest = min(heading.level for heading in inside)
            names = [heading.words[:NAMED_CHARACTERS] for heading in inside if heading.level == highest]
            return names[0] if names[0] == names[-1] else f"{names[0]} – {names[-1]}"
        if path := self._above(start):
            return f"{path[-1].words[:NAMED_CHARACTERS]}, continued"
        words = " ".join(self._text[start : min(end, start + NAMED_CHARACTERS)].split())
        return f"{words} …" if words else "…"


def _headings(text: str) -> Iterator[_Heading]:
    """Markdown's, those in fenced code left out."""
    fence = ""
    starts = [0, *(match.end() for match in _LINE.finditer(text)), len(text) + 1]
    for start, after in pairwise(starts):
        line = text[start : after - 1]
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        level = len(line) - len(line.lstrip("#"))
        if fence or not 1 <= level <= LEVELS or line[level : level + 1] not in (" ", "\t"):
            continue
        if words := line[level:].strip().rstrip("#").strip():
            yield _Heading(start, level, words)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
