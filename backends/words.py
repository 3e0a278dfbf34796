"""A text's words as the lexical side of routing compares them: in lower case, stemmed, without English stop words."""

from __future__ import annotations

import re
import sys
import threading

import Stemmer

_WORD = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*")
_JOINT = re.compile(r"[.'-]")
_VERSION = re.compile(r"v(\d+)")
ENGLISH = (
    "a about all also am an and any are as at be because been being but by can could did do does each else for from had has have he "
    "her his how i if in into is it its just may me might must my no not of on or other our shall she should so some such than that "
    "the their them then there these they this to too us very was we were what when where which while who whom why will with would "
    "you your"
)
STOP_WORDS = frozenset(ENGLISH.split())


class _Stemmers(threading.local):
    """One a thread: a stemmer keeps state while it works."""

    def __init__(self) -> None:
        self.english = Stemmer.Stemmer("english")


_STEMMERS = _Stemmers()


def content_words(text: str) -> list[str]:
    """The words that can tell one text from another, as often as they occur.

    What is joined by hyphens, points or apostrophes counts whole and in its parts, and v2 as 2: "GPL v2" is GPL-2.
    """
    found = []
    for match in _WORD.finditer(text.lower()):
        parts = _JOINT.split(match[0])
        for word in (match[0], *parts) if len(parts) > 1 else parts:
            version = _VERSION.fullmatch(word)
            plain = version[1] if version else word
            if plain not in STOP_WORDS:
                found.append(plain)
    return [sys.intern(word) for word in _STEMMERS.english.stemWords(found)]  # kept for every document: each word once
