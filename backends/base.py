"""What the gateway asks of the world, as Protocols: a worker, a KV server, an embedder, a store.

The real ones live beside this file; fakes with the same contract live in `tests/fakes`. Nothing here acts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.records import ApiKey, AuditEntry
from router.chunk_tier import ChunkKey
from router.documents import Document, DocumentId, Owner, Salt, Version, VersionId
from router.usage import Used

Vectors = NDArray[np.float32]
"""Embeddings, shape (texts, dimensions), each row of length 1."""


# --- workers -----------------------------------------------------------------------------------------------------


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of one upstream event: parallel lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one question. `cached_tokens` of the `prompt_tokens` were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


class Delta(msgspec.Struct, frozen=True):
    """One event of an answer. The last one carries `usage`, the one before it usually `finish_reason`."""

    text: str = ""
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None
    usage: Usage | None = None


class Load(msgspec.Struct, frozen=True):
    """What a worker says of itself, whoever's requests they are. `kv_usage`: the share of its KV space that requests under way
    take, 0 to 1."""

    running: int
    waiting: int
    kv_usage: float


class Worker(Protocol):
    """One vLLM process that answers. `name` is stable over its restarts."""

    name: str

    def complete(self, body: Sequence[bytes]) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        """Send a body (its parts in order, spliced without copying) and stream the answer.

        Leaving the context early aborts the request upstream. Raises EngineUnavailable where the worker could not
        be reached, EngineFailed where it answered with an error or broke off.
        """
        ...

    async def check(self) -> str | None:
        """None if the worker can answer, else why not, in words for an operator."""
        ...

    async def load(self) -> Load | None:
        """How busy the worker is now; None where that can't be had."""
        ...


# --- the KV server (LMCache) ---------------------------------------------------------------------------------------


class DiskScan(msgspec.Struct, frozen=True):
    """What lies in a host's disk tier."""

    chunks: dict[Salt, dict[ChunkKey, int]]
    """Every chunk file's size in bytes."""
    ages_s: dict[Salt, float]
    """Seconds since the youngest chunk of each salt was written."""
    partial: tuple[str, ...] = ()
    """Files that a writer left half-written, by name: nobody will finish those that are older than a minute."""
    foreign: tuple[str, ...] = ()
    """Files that are no chunks, by name: somebody else's, left alone."""


class Damage(msgspec.Struct, frozen=True):
    """What a look at a version's files found."""

    damaged: tuple[ChunkKey, ...] = ()
    """Files whose content is not what was stored."""
    read_bytes: int = 0


class Memory(msgspec.Struct, frozen=True):
    """A host's RAM tier, in bytes."""

    used_bytes: int
    capacity_bytes: int


class KVServer(Protocol):
    """The cache server of one host. Knows chunks, told apart by salt; documents are the gateway's idea.

    `keys` are always a version's chunk keys in order, as `keys()` makes them. Where the host's disk can't be seen from
    here, nothing is known of it: scans and sizes are empty.
    """

    name: str

    async def check(self) -> str | None:
        """None if the server is healthy, else why not."""
        ...

    def keys(self, ids: Sequence[int]) -> tuple[ChunkKey, ...]:
        """The keys of a prefix (a multiple of the chunk size long), in order. About 2 µs a chunk."""
        ...

    @property
    def sees_disk(self) -> bool: ...

    async def scan(self) -> DiskScan:
        """Look at the whole disk tier. Raises OSError where the folder can't be read."""
        ...

    async def free_bytes(self) -> int | None:
        """What the disk tier's file system has left; None where it can't be seen."""
        ...

    async def on_disk(self, keys: Sequence[ChunkKey], salt: Salt) -> dict[ChunkKey, int]:
        """Those of `keys` that are files now, with their sizes in bytes."""
        ...

    async def prefetch(self, ids: Sequence[int], salt: Salt) -> int:
        """Bring the prefix from disk to RAM; how many of its chunks are in RAM then, from the first on.

        Returns when it is done. Raises OSError where the server could not be asked.
        """
        ...

    async def delete(self, keys: Sequence[ChunkKey], salt: Salt, *, ram: bool = True, disk: bool = True) -> None:
        """Remove these chunks from RAM, disk or both. Raises OSError where that failed; absent chunks are no error."""
        ...

    async def verify(self, keys: Sequence[ChunkKey], salt: Salt) -> Damage:
        """Read the files of these chunks and check that they are what was stored. Absent files are not damage."""
        ...

    async def remove_partial(self, names: Sequence[str]) -> int:
        """Delete half-written files that `scan` named; how many were."""
        ...

    async def memory(self) -> Memory | None:
        """The RAM tier's use; None where the server can't be asked."""
        ...


# --- embeddings ----------------------------------------------------------------------------------------------------


class Embedder(Protocol):
    """Turns texts into unit vectors, off the event loop."""

    name: str

    async def embed(self, texts: Sequence[str]) -> Vectors: ...


# --- the store -----------------------------------------------------------------------------------------------------


class Content(msgspec.Struct, frozen=True):
    """What a version was made from and into: its text, its prefix's ids (uint32, little-endian), its passages.

    `vectors` are the passages' and descriptor's embeddings as float16 bytes, (n, dimensions) with n known to
    `router/descriptors.py`; empty until they are made.
    """

    text: str
    prefix_ids: bytes
    vectors: bytes = b""
    embedder: str = ""


class Store(Protocol):
    """The durable truth about documents, versions and keys, a place for small states, and the audit log.

    Each call is one transaction, durable when it returns: `audit` is written with the change that it tells of, or neither is.
    """

    async def open(self) -> None:
        """Connect, and bring the schema to the newest migration."""
        ...

    async def close(self) -> None: ...

    async def check(self) -> str | None:
        """None if the database answers, else why not."""
        ...

    async def documents(self) -> list[Document]:
        """Every document with its current and incoming version."""
        ...

    async def put_document(self, document: Document, *audit: AuditEntry) -> None:
        """Insert or update the document's own columns and its links to versions, which are stored already."""
        ...

    async def add_version(self, document: Document, version: Version, content: Content, *audit: AuditEntry) -> None:
        """Store a version with its content and make `document` (inserted or updated) point to it, at once."""
        ...

    async def update_version(self, version: Version) -> None:
        """Update a version's state, progress and error. Unknown ids are ignored: it was deleted meanwhile."""
        ...

    async def content(self, version_id: VersionId) -> Content:
        """Raises NotFound."""
        ...

    async def set_vectors(self, version_id: VersionId, vectors: bytes, embedder: str) -> None: ...

    async def remove_version(self, version_id: VersionId) -> None:
        """Delete a version and its content. Absent ones are no error."""
        ...

    async def remove_document(self, owner: Owner, document_id: DocumentId, *audit: AuditEntry) -> None:
        """Delete a document. Its versions stay, unlinked, until `remove_version`. An absent one is no error."""
        ...

    async def unlinked_versions(self) -> list[Version]:
        """Versions that no document points to: replaced or deleted, their KV perhaps not yet cleared."""
        ...

    async def add_key(self, key: ApiKey, *audit: AuditEntry) -> None: ...

    async def key(self, public_id: str) -> ApiKey | None: ...

    async def keys(self) -> list[ApiKey]: ...

    async def change_key(self, public_id: str, made: Callable[[ApiKey], ApiKey], *audit: AuditEntry) -> ApiKey | None:
        """Put what is made of the key in its place, nobody changing it meanwhile; None if there is none. What `made` raises
        leaves all as it was."""
        ...

    async def keys_used(self, used: Mapping[str, float]) -> None:
        """When these keys were used last; unknown ones are ignored."""
        ...

    async def note(self, *audit: AuditEntry) -> None:
        """Append to the audit log. Nothing changes or removes what stands there."""
        ...

    async def audit(
        self, *, limit: int, since: float = 0.0, tenant: str | None = None, before: int | None = None
    ) -> list[AuditEntry]:
        """The newest entries first, at most `limit`: at or after `since`, about this tenant, numbered below `before`."""
        ...

    async def state(self, name: str) -> bytes | None:
        """What was last put under this name; None for nothing."""
        ...

    async def put_state(self, name: str, value: bytes, at: float, *audit: AuditEntry) -> None:
        """Keep `value`, put at the time `at`, in the place of what this name had."""
        ...

    async def add_usage(self, rows: Sequence[Used]) -> None:
        """Add each to what is stored of its tenant, key, document and day."""
        ...

    async def remove_usage(self, before: str) -> int:
        """Remove the rows of days before this one; how many there were."""
        ...

    async def usage(self, *, since: str, until: str, tenant: str | None, by: Sequence[str], most: int) -> list[Used]:
        """Days `since` to `until`, both included: one tenant's or all, as `router.usage.grouped`, the first `most`."""
        ...
