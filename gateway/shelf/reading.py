"""What every version is made by: the tokenizer and layout, the engine's fingerprint, and the limits."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec

from backends.base import Content
from backends.extract import NotText
from router.documents import DocumentId, Owner, Version, VersionId, VersionState, content_digest, version_salt
from router.errors import DocumentTooLong, InvalidRequest
from router.prompts import PromptLayout, Tokenizer, clean_text, ids_to_bytes, prefix_of
from router.volumes import Volume, split

CHARACTERS_A_TOKEN = 8
"""More than texts have; where a tokenizer knows long words, the beginning is taken longer."""
FAR = 2
"""So many times what volumes could hold is not counted to the end."""


class Reading(msgspec.Struct, frozen=True):
    """`context_tokens` is the model's; `reserve_tokens` of it are kept free for the question and the answer."""

    tokenizer: Tokenizer
    layout: PromptLayout
    fingerprint: str
    secret: bytes
    context_tokens: int
    reserve_tokens: int
    max_volumes: int = 1
    """So many volumes a text that is too long may become; 1: it is refused."""

    @property
    def limit_tokens(self) -> int:
        """What the prefix of a version may take."""
        return self.context_tokens - self.reserve_tokens

    def reads(self, version: Version) -> bool:
        """Whether the engine as it is now can use the version's KV. One of another engine, model or layout is stale."""
        return version.fingerprint == self.fingerprint

    def holds(self, version: Version | None, digest: str) -> bool:
        """Whether the version is this content, and answers or will: not one that failed or is stale."""
        return version is not None and version.digest == digest and self.reads(version) and version.state is not VersionState.FAILED

    def version(self, owner: Owner, document_id: DocumentId, text: str, now: float) -> tuple[Version, Content]:
        """A new version of this text (`clean_text`'s). Costs time in proportion to it.

        Raises DocumentTooLong for one that leaves no room to answer.
        """
        if (least := self._at_least(text, self.limit_tokens)) is not None:
            raise self._too_long(least)
        prefix = prefix_of(self.layout, self.tokenizer, text)
        if len(prefix.ids) > self.limit_tokens:
            raise self._too_long(len(prefix.ids))
        digest = content_digest(text)
        version = Version(
            id=VersionId(uuid.uuid4().hex),
            digest=digest,
            fingerprint=self.fingerprint,
            salt=version_salt(self.secret, owner, document_id, digest, self.fingerprint),
            document_tokens=prefix.document_tokens,
            prefix_tokens=len(prefix.ids),
            created_at=now,
        )
        return version, Content(text, ids_to_bytes(prefix.ids))

    def volumes(self, text: str) -> tuple[Volume, ...]:
        """The volumes of a text that is too long, none of which is. Costs a few times what `version` does.

        Raises DocumentTooLong where it would be more than `max_volumes`.
        """
        # One that is far too long is not taken apart: it could keep a processor busy for minutes.
        if (least := self._at_least(text, FAR * self.max_volumes * self.limit_tokens)) is not None:
            raise self._too_long(least, -(-least // self.limit_tokens))
        chunk = self.layout.chunk_tokens
        volumes = split(text, self.limit_tokens // chunk * chunk, self._tokens) if self.max_volumes > 1 else ()
        if not 0 < len(volumes) <= self.max_volumes:
            raise self._too_long(self.prefix_tokens(text), len(volumes))
        return volumes

    def check_messages(self, texts: Sequence[str]) -> None:
        """Raises DocumentTooLong for messages that are far longer than the context, before they are laid out."""
        most = self.context_tokens
        least = self._at_least("\n".join(texts), most) if len(texts) <= most else len(texts)
        if least is not None:
            raise DocumentTooLong(
                f"The model's context is {most} tokens; your messages alone take about {least}. Shorten the conversation.",
                tokens=least,
                limit=most,
                param="messages",
            )

    def prefix_tokens(self, text: str) -> int:
        """What a version of this text takes."""
        chunk = self.layout.chunk_tokens
        return -(-self._tokens(text) // chunk) * chunk

    def _at_least(self, text: str, most: int) -> int | None:
        """About how many tokens a text takes that has more than `most`, as its beginning tells; None where it may fit.

        Costs time and memory in proportion to `most`, not to the text.
        """
        size = CHARACTERS_A_TOKEN * most
        while size < len(text):
            tokens = self._tokens(text[:size])
            if tokens > most:
                return max(most + 1, tokens * len(text) // size)
            size *= 4
        return None

    def _tokens(self, text: str) -> int:
        return prefix_of(self.layout, self.tokenizer, text).document_tokens

    def _too_long(self, tokens: int, volumes: int = 0) -> DocumentTooLong:
        """`volumes`: how many it would need, where it may have some."""
        option = "`ingestion.max_volumes` in the configuration"
        split_here = f"raise {option}: it needs {volumes} volumes" if volumes else f"set {option}, so that it is kept in volumes"
        return DocumentTooLong(
            f"The document takes {tokens} tokens; the model reads at most {self.limit_tokens} "
            f"(its context of {self.context_tokens} less {self.reserve_tokens} for question and answer). "
            f"Split it, serve a model with a larger context, or have the operator {split_here}.",
            tokens=tokens,
            limit=self.limit_tokens,
            param="text",
        )


def readable(raw: str) -> str:
    """The text as it is read. Raises InvalidRequest for an empty one, NotText for one with NULs."""
    text = clean_text(raw)
    if "\0" in text:  # PostgreSQL stores none
        raise NotText(
            "The document is binary data; kvshelf reads plain text and Markdown in UTF-8. Convert it to text first.",
            param="text",
        )
    if not text:
        raise InvalidRequest("The document is empty: it has no text.", param="text")
    return text
