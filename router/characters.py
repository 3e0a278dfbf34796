"""Characters that are not shown, or change how others are: what people name things by has none, and no terminal gets any.

A title, a tag, an alias is read by people and shown beside others': it must not look like another one, hide something or turn
the text around it. Joiners, direction marks and soft hyphens (U+200C to U+200F, U+061C, U+00AD) stay: languages need them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from router.errors import InvalidRequest

# Controls; line separators, embeddings and overrides; invisible operators and isolates; spaces without width; annotations;
# tags; halves of surrogate pairs, which no UTF-8 has.
_LINES = r"\t\n"
_HIDDEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff"

ONE_LINE = rf"^[^{_LINES}{_HIDDEN}]*$(?!\n)"
"""What fits on one line, as a pattern for a schema."""

_in_line = re.compile(f"[{_LINES}{_HIDDEN}]")
_in_text = re.compile(f"[{_HIDDEN}]")


def check_shown(values: Iterable[str], *, what: str, lines: bool = False) -> None:
    """Raises InvalidRequest that says which character of them is not shown. `lines`: there may be several, and tabs."""
    for value in values:
        found = (_in_text if lines else _in_line).search(value)
        if found:
            raise InvalidRequest(
                f"`{what}` holds U+{ord(found[0]):04X} (character {found.start() + 1}), which is not shown or changes how others are: "
                "leave it out.",
                param=what,
            )


def shown(text: str) -> str:
    """The text on one line, without what is not shown."""
    return " ".join(_in_text.sub("", text).split())


def escaped(text: str) -> str:
    """The text with what is not shown written out, as a terminal may have it."""
    return _in_text.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
