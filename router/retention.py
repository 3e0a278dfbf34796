"""How long a document's KV is kept: what may be asked of it, and what is made of that.

Owns the rules; the values are fields of `router/documents.py`'s Document. What has expired is cleared, and what is
pinned spared, elsewhere.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from router.documents import Document
from router.errors import InvalidRequest

MAX_TTL_S = 100 * 365.25 * 86400.0
"""A hundred years. Whoever means more means without end."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a document's retention. What is UNSET stays as it is.

    `ttl_s` and `expires_at` (seconds since the epoch) are two ways to say the same: either replaces the other, and None
    for either is without end. A TTL counts from now, even one that is as it was, unless `again` is False: what is
    declared over and over must not last for ever by that.
    """

    pinned: bool | UnsetType = UNSET
    ttl_s: float | UnsetType | None = UNSET
    expires_at: float | UnsetType | None = UNSET
    again: bool = True


KEPT = Retention()
"""Nothing is asked."""


def retain(document: Document, asked: Retention, *, now: float, new_content: bool = False) -> Document:
    """The document with what is asked of its retention.

    New content makes its TTL count from now, and drops a moment that has passed: else it would be born expired. Raises
    InvalidRequest, which says how to mend it.
    """
    pinned = document.pinned if asked.pinned is UNSET else asked.pinned
    ttl_s, expires_at = _expiry(document, asked, now, new_content)
    if pinned and expires_at is not None:
        raise InvalidRequest(f"A pinned document has no TTL and does not expire. {_way_out(asked)}", param="pinned")
    return replace(document, pinned=pinned, ttl_s=ttl_s, expires_at=expires_at)


def refreshed(document: Document, now: float) -> Document:
    """The document with its TTL counted from now, if that is worth a write, else the same object.

    It is once the expiry moves on by a second and by a twentieth of the TTL: so much earlier than a TTL after its last
    question a document may expire. An expired one stays so.
    """
    if document.ttl_s is None or document.expires_at is None or document.expired(now):
        return document
    expires_at = now + document.ttl_s
    is_due = expires_at - document.expires_at >= max(1.0, document.ttl_s / 20)
    return replace(document, expires_at=expires_at) if is_due else document


def is_new(digest: str, before: Document | None) -> bool:
    """Whether a document of this content says something else than before. One that is read anew says the same."""
    if before is None:
        return False
    digests = {version.digest for version in before.versions}
    return bool(digests or before.volumes or before.coming) and digest not in digests


def _expiry(document: Document, asked: Retention, now: float, new_content: bool) -> tuple[float | None, float | None]:
    """(ttl_s, expires_at) as they come to be."""
    ttl_s = None if asked.ttl_s is UNSET else asked.ttl_s
    expires_at = None if asked.expires_at is UNSET else asked.expires_at
    if ttl_s is not None and expires_at is not None:
        raise InvalidRequest('"ttl_s" and "expire_at" say the same in two ways: send only one of them.', param="expire_at")
    if ttl_s is not None:
        if not 0 < ttl_s <= MAX_TTL_S:  # false for what is no number, too
            raise InvalidRequest(
                f'"ttl_s" is {ttl_s:g}; it is a number of seconds over 0, and at most {MAX_TTL_S:.0f} (a hundred years). '
                "Leave it out, or send null, to keep the document without end.",
                param="ttl_s",
            )
        counts_on = ttl_s == document.ttl_s and not asked.again and not new_content
        return ttl_s, document.expires_at if counts_on else now + ttl_s
    if expires_at is not None:
        if not now < expires_at <= now + MAX_TTL_S:
            raise InvalidRequest(
                '"expire_at" has passed already, or is over a hundred years away: send a time to come, "ttl_s" for a number '
                "of seconds from now, or null to keep the document without end.",
                param="expire_at",
            )
        return None, expires_at
    if asked.ttl_s is None or asked.expires_at is None:
        return None, None
    if new_content and document.ttl_s is not None:
        return document.ttl_s, now + document.ttl_s
    return (None, None) if new_content and document.expired(now) else (document.ttl_s, document.expires_at)


def _way_out(asked: Retention) -> str:
    expires = any(value is not UNSET and value is not None for value in (asked.ttl_s, asked.expires_at))
    match (asked.pinned is True, expires):
        case (True, True):
            return 'Send "pinned": true, or one of "ttl_s" and "expire_at".'
        case (True, False):
            return 'Send "ttl_s": null with "pinned": true to end the TTL that it has.'
        case _:
            return 'Send "pinned": false with it: the document is pinned.'
