"""What the engine writes of a document for routing: what it is asked for, what is made of its answer, and how that is marked.

Done by `gateway/ingestion/describer.py`. Two rules:

1. What people said of a document stands: only what they left empty is written, and what they changed is never written again.
2. A model's text is not trusted. What repeats itself, breaks off, or has numbers or names that the document doesn't have is dropped:
   a descriptor that is wrong leads questions astray, one that is missing leaves them to the passages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from router.documents import Descriptor, Document

Written = Mapping[str, str | tuple[str, ...]]
"""Fields of a descriptor that the engine wrote."""

WORDINGS = MappingProxyType(
    {
        "summary": "Write a summary of this document in one or two sentences: what it is about, and for whom. Write the summary only.",
        "questions": "Write five short questions that this document answers, one on each line. Write the questions only.",
    }
)
"""What the model is asked for, by the descriptor's field."""
MAX_TOKENS = MappingProxyType({"summary": 120, "questions": 200})

SUMMARY_SENTENCES = 2
SUMMARY_CHARACTERS = 400
QUESTIONS = 5
QUESTION_CHARACTERS = 200
SHORTEST_CHARACTERS = 10
"""What is shorter tells nothing of a document."""
OPENING_WORDS = 5
"""Questions that begin alike by so many words are variations of one."""

_LEAD = re.compile(r"^(?:[-–*•>#\s]+|\(?\d{1,2}[.):]\s*|(?:summary|questions?|q)\s*\d{0,2}\s*:\s*)+", re.IGNORECASE)
_QUOTES = " \"'`*_“”„«»"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_WORD = re.compile(r"\w+")
_LONG_WORD = re.compile(r"[^\W\d_]{5,}")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_VAGUE = re.compile(r"\b(?:this|the) (?:document|text)\b", re.IGNORECASE)
_UNSPACED = "\u2e80"
"""From here on are the scripts that write without spaces."""


# --- whose words a descriptor has


def lacking(document: Document) -> tuple[str, ...]:
    """The fields that the engine may write: empty ones that nobody changed."""
    return tuple(name for name in WORDINGS if not getattr(document.descriptor, name) and name not in document.edited)


def described(document: Document, written: Written) -> Document:
    """The document with what was written of it, where that is still lacking."""
    new = {name: value for name, value in written.items() if value and name in lacking(document)}
    descriptor = replace(document.descriptor, **new)
    return replace(document, descriptor=descriptor, generated=_in_order({*document.generated, *new}))


def changed(document: Document, changes: Written) -> Document:
    """The document with these fields of its descriptor changed by somebody: they are generated no more, nor ever again."""
    named = set(changes)
    return replace(
        document,
        descriptor=replace(document.descriptor, **changes),
        generated=_in_order(set(document.generated) - named),
        edited=_in_order({*document.edited, *named}),
    )


def declared(document: Document, given: Descriptor) -> Document:
    """The document with a whole descriptor that it is given. What was generated stays where that has nothing else."""
    before = document.descriptor
    kept = {name for name in document.generated if getattr(given, name) in ("", (), getattr(before, name))}
    descriptor = replace(given, **{name: getattr(before, name) for name in kept})
    return replace(document, descriptor=descriptor, generated=_in_order(kept))


def of_new_content(document: Document) -> Document:
    """The document without what was generated of the content before."""
    if not document.generated:
        return document
    empty = Descriptor("")
    blank = {name: getattr(empty, name) for name in document.generated}
    return replace(document, descriptor=replace(document.descriptor, **blank), generated=())


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in WORDINGS if name in names)


# --- what is made of the model's text


def cleaned(name: str, raw: str, text: str) -> str | tuple[str, ...]:
    """What the model wrote for this field of a document of this text, made fit to be kept; empty where nothing of it is."""
    return clean_summary(raw, text) if name == "summary" else clean_questions(raw, text)


def clean_summary(raw: str, text: str) -> str:
    """The first whole sentences that tell something of the document."""
    kept: list[str] = []
    for part in _SENTENCE_END.split(_plain(raw)):
        sentence = _plain(part)
        is_whole = sentence.endswith((".", "!", "?", "。", "！", "？"))
        if not is_whole or not _is_fit(sentence, text) or _key(sentence) in map(_key, kept):
            continue
        if len(kept) == SUMMARY_SENTENCES or len(" ".join([*kept, sentence])) > SUMMARY_CHARACTERS:
            break
        kept.append(sentence)
    return " ".join(kept)


def clean_questions(raw: str, text: str) -> tuple[str, ...]:
    """The questions, one from each line that has one, in their order."""
    kept: dict[tuple[str, ...], str] = {}
    for line in raw.splitlines():
        question, mark, _ = _plain(line).replace("？", "?").partition("?")
        question = f"{question.rstrip()}?"
        if not mark or len(question) > QUESTION_CHARACTERS or _VAGUE.search(question) or not _is_fit(question, text):
            continue
        kept.setdefault(_key(question)[:OPENING_WORDS], question)
    return tuple(kept.values())[:QUESTIONS]


def _plain(raw: str) -> str:
    """On one line, printable, without bullets, numbers, labels and quotes around it."""
    line = " ".join("".join(character if character.isprintable() else " " for character in raw).split())
    while (shorter := _LEAD.sub("", line).strip(_QUOTES)) != line:
        line = shorter
    return line


def _key(line: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(line.casefold()))


def _is_fit(line: str, text: str) -> bool:
    return len(line) >= SHORTEST_CHARACTERS and not _babbles(line) and _stands_in(text, line)


def _babbles(line: str) -> bool:
    """Whether it is no speech: words that come again and again, or hardly any letters."""
    words = _key(line)
    if sum(map(str.isalpha, line)) < len(line.replace(" ", "")) / 2:
        return True
    if any(one == two == three for one, two, three in zip(words, words[1:], words[2:], strict=False)):
        return True
    phrases = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(set(phrases)) < len(phrases) or (len(words) > 5 and len(set(words)) < len(words) / 2)


def _stands_in(text: str, line: str) -> bool:
    """Whether the document has every number and every name of the line, and most of its longer words, by their beginnings."""
    numbers = set(_NUMBER.findall(line))
    if numbers and not numbers <= set(_NUMBER.findall(text)):
        return False
    plain = text.casefold()
    names = [word for word in _WORD.findall(line)[1:] if word[0].isupper() and len(word) > 2]  # a sentence's first word may be any
    if not all(word.casefold()[:5] in plain for word in names):
        return False
    words = {word.casefold() for word in _LONG_WORD.findall(line) if max(word) < _UNSPACED}
    return sum(word[:5] in plain for word in words) >= len(words) * 2 / 3
