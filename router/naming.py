"""Which document a question names outright: by its id, an alias, or an identifier that stands in no other document.

Contract numbers, product names and error codes tell more than any likeness. Pure; one object a view of the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

Term = tuple[str, ...]
"""What stands between hyphens, points, slashes and spaces, in lower case: GPL-2 and "gpl 2" are the same."""

_PART = re.compile(r"[^\W_]+")
# Begun at a word's beginning alone, and never tried shorter: it must stay linear in a line of one letter.
_JOINED = re.compile(r"(?<![^\W_])[^\W_]++(?:[-_./][^\W_]++)++")
_CODE = re.compile(r"\b[A-Z]{1,4}[0-9]{1,5}\b")
SEVERAL = -1
LONGEST = 8
"""Parts of a name; longer ones are cut."""


def parts_of(text: str) -> list[str]:
    return _PART.findall(text.lower())


def term(text: str) -> Term:
    return tuple(parts_of(text)[:LONGEST])


def identifiers(text: str) -> frozenset[Term]:
    """What looks like a number of a contract, a part, an error: joined, with a digit and a letter in it, or capitals and a number."""
    found: set[Term] = {(code.lower(),) for code in _CODE.findall(text)}
    for match in _JOINED.finditer(text.lower()):
        word = match[0]
        if len(word) >= 4 and any(map(str.isdigit, word)) and any(map(str.isalpha, word)):
            found.add(term(word))
    return frozenset(found)


def name_terms(document_id: str, aliases: Iterable[str]) -> frozenset[Term]:
    """What a document may be called. An id that is one plain word, like `lease`, is no name: any question may have it."""
    named = {term(alias) for alias in aliases}
    own = term(document_id)
    if len(own) > 1 or any(map(str.isdigit, document_id)):
        named.add(own)
    return frozenset(named - {()})


class Names:
    """`names` and `identifiers`: each document's own, in the same order."""

    def __init__(self, names: Sequence[Collection[Term]], identifiers: Sequence[Collection[Term]]) -> None:
        self._names = _owners(names)
        self._identifiers = _owners(identifiers)
        self._longest = max(map(len, self._names), default=0)

    def named(self, question: str) -> int | None:
        """The place of the only document that the question names; None where it names none, or several."""
        places = self._by_name(parts_of(question)) or {
            place for one in identifiers(question) if (place := self._identifiers.get(one, SEVERAL)) != SEVERAL
        }
        return places.pop() if len(places) == 1 and SEVERAL not in places else None

    def _by_name(self, parts: Sequence[str]) -> set[int]:
        """From each place the longest name that stands there."""
        found, at = set(), 0
        while at < len(parts):
            lengths = range(min(self._longest, len(parts) - at), 0, -1)
            length = next((length for length in lengths if tuple(parts[at : at + length]) in self._names), 0)
            if length:
                found.add(self._names[tuple(parts[at : at + length])])
            at += length or 1
        return found


def _owners(terms: Sequence[Collection[Term]]) -> dict[Term, int]:
    """Whose each term is; SEVERAL where more than one document has it."""
    owners: dict[Term, int] = {}
    for place, of_document in enumerate(terms):
        for one in of_document:
            owners[one] = SEVERAL if one in owners else place
    return owners
