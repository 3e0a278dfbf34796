"""A text that is far too long costs what may be read of it, not what there is: it is refused by its beginning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.shelf.reading import CHARACTERS_A_TOKEN, Reading
from router.documents import DocumentId, Owner
from router.errors import DocumentTooLong
from router.prompts import Message, derive
from tests.fakes.tokenizers import simple

CONTEXT, RESERVE, CHUNK = 1024, 128, 16


class Counting:
    """A tokenizer that counts what it is given."""

    def __init__(self) -> None:
        self.inner = simple()
        self.characters = 0

    def render(self, messages: Sequence[Message]) -> str:
        return self.inner.render(messages)

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return self.inner.encode(text)

    def neutralise(self, text: str) -> str:
        return self.inner.neutralise(text)


def reading(max_volumes: int = 1) -> tuple[Reading, Counting]:
    tokenizer = Counting()
    layout = derive(tokenizer, CHUNK)
    tokenizer.characters = 0
    return Reading(tokenizer, layout, "f", b"s" * 32, CONTEXT, RESERVE, max_volumes), tokenizer


@pytest.mark.parametrize("text", ["a" * 10_000_000, "word " * 2_000_000, "\n" * 5_000_000 + "x", "# " * 5_000_000])
def test_a_document_is_refused_by_its_beginning_with_about_the_right_number(text: str) -> None:
    read, tokenizer = reading()
    with pytest.raises(DocumentTooLong) as caught:
        read.version(Owner("a"), DocumentId("b"), text, 0.0)
    assert tokenizer.characters < 2 * CHARACTERS_A_TOKEN * CONTEXT
    assert len(text) <= caught.value.tokens < 1.2 * len(text)  # a byte is a token here
    assert caught.value.limit == CONTEXT - RESERVE


def test_one_in_volumes_too_and_it_says_how_many_it_would_need() -> None:
    read, tokenizer = reading(max_volumes=4)
    with pytest.raises(DocumentTooLong, match=r"it needs \d{5} volumes"):
        read.volumes("word " * 2_000_000)
    assert tokenizer.characters < 16 * CHARACTERS_A_TOKEN * CONTEXT


def test_messages_too() -> None:
    read, tokenizer = reading()
    for texts in (["a" * 5_000_000], ["a" * 1000] * 1000, ["a"] * 100_000):
        with pytest.raises(DocumentTooLong, match="your messages alone take about") as caught:
            read.check_messages(texts)
        assert caught.value.param == "messages"
    assert tokenizer.characters < 4 * CHARACTERS_A_TOKEN * CONTEXT
    read.check_messages(["a" * 900, "b"])


def test_a_text_of_long_words_is_looked_at_to_the_end_before_it_is_refused() -> None:
    """One that has more characters than are looked at first, and fits: its tokens are counted, not guessed."""

    class Words(Counting):
        def encode(self, text: str) -> list[int]:
            return super().encode(text)[: max(1, len(text) // 40)] if "looong" in text else super().encode(text)

    tokenizer = Words()
    read = Reading(tokenizer, derive(tokenizer, CHUNK), "f", b"s" * 32, CONTEXT, RESERVE)
    text = "looong " * 3000
    assert len(text) > CHARACTERS_A_TOKEN * read.limit_tokens
    version, _ = read.version(Owner("a"), DocumentId("b"), text, 0.0)
    assert version.document_tokens < read.limit_tokens
