"""What every version is made by: the tokenizer and layout, the engine's fingerprint, and the limits."""

from __future__ import annotations

import uuid

import msgspec

from backends.base import Content
from backends.extract import NotText
from router.documents import DocumentId, Owner, Version, VersionId, content_digest, version_salt
from router.errors import DocumentTooLong, InvalidRequest
from router.prompts import PromptLayout, Tokenizer, clean_text, ids_to_bytes, prefix_of


class Reading(msgspec.Struct, frozen=True):
    """`context_tokens` is the model's; `reserve_tokens` of it are kept free for the question and the answer."""

    tokenizer: Tokenizer
    layout: PromptLayout
    fingerprint: str
    secret: bytes
    context_tokens: int
    reserve_tokens: int

    def reads(self, version: Version) -> bool:
        """Whether the engine as it is now can use the version's KV. One of another engine, model or layout is stale."""
        return version.fingerprint == self.fingerprint

    def version(self, owner: Owner, document_id: DocumentId, text: str, now: float) -> tuple[Version, Content]:
        """A new version of this text (`clean_text`'s). Costs time in proportion to it.

        Raises DocumentTooLong for one that leaves no room to answer.
        """
        prefix = prefix_of(self.layout, self.tokenizer, text)
        limit = self.context_tokens - self.reserve_tokens
        if len(prefix.ids) > limit:
            raise DocumentTooLong(
                f"The document takes {len(prefix.ids)} tokens; the model reads at most {limit} "
                f"(its context of {self.context_tokens} less {self.reserve_tokens} for question and answer). "
                "Split it, or serve a model with a larger context.",
                tokens=len(prefix.ids),
                limit=limit,
                param="text",
            )
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
