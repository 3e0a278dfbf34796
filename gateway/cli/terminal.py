"""What commands write to: a terminal that shows strings as they are, and does nothing else that is in them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from router.characters import escaped


class Terminal(Console):
    """Titles, answers and errors are other people's: brackets in them are no markup, escape sequences are written out."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **more: Any) -> Text:
        return super().render_str(escaped(text), **more)
