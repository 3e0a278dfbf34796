"""The disk tier's folder: what lies in it, how large and how old, and whether it is whole. Blocks: call it in a thread.

LMCache writes a chunk as `NAME.tmp` and renames it to `NAME.data`. Here nothing is written, and nothing deleted but what
a writer left half-written. The names are `keys.py`'s, the content `sealed.py`'s.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from backends.base import Damage, DiskScan
from backends.lmcache.keys import CHUNK, PARTIAL, file_name, parse_file_name
from backends.lmcache.sealed import FRAME_BYTES, Seal
from router.chunk_tier import ChunkKey
from router.documents import Salt

ABANDONED_AFTER_S = 60.0
"""A half-written file that nobody touched for this long will never be finished: LMCache writes a chunk in one go."""


class DiskFiles:
    def __init__(
        self, folder: Path, model: str, *, key_path: Path | None = None, named: bool = False, chunk_bytes: int | None = None
    ) -> None:
        """`model` is the path that the workers were started with.

        `key_path`: the disk tier's master key; None where it is stored plain. `chunk_bytes`: what a plain chunk weighs.
        """
        self._folder = folder
        self._model = model
        self._key_path = key_path
        self._named = named
        self._chunk_bytes = chunk_bytes

    @property
    def encrypted(self) -> bool:
        return self._key_path is not None

    def __repr__(self) -> str:
        return f"<DiskFiles {self._folder} {'plain' if self._key_path is None else 'encrypted'}>"

    def scan(self) -> DiskScan:
        """Everything in the folder. About 3 µs a file. Raises OSError where it can't be read."""
        now = time.time()
        chunks: dict[Salt, dict[ChunkKey, int]] = {}
        youngest: dict[Salt, float] = {}
        partial, foreign = [], []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                    regular = entry.is_file(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted or renamed meanwhile
                if regular and (named := parse_file_name(self._model, entry.name)) is not None:
                    salt, key = named
                    chunks.setdefault(salt, {})[key] = found.st_size
                    youngest[salt] = max(found.st_mtime, youngest.get(salt, 0.0))
                elif regular and self._is_partial(entry.name):
                    if now - found.st_mtime > ABANDONED_AFTER_S:
                        partial.append(entry.name)
                else:
                    foreign.append(entry.name)
        ages_s = {salt: max(now - written, 0.0) for salt, written in youngest.items()}
        return DiskScan(chunks, ages_s, tuple(sorted(partial)), tuple(sorted(foreign)))

    def free_bytes(self) -> int:
        """Raises OSError."""
        return shutil.disk_usage(self._folder).free

    def sizes(self, keys: Iterable[ChunkKey], salt: Salt) -> dict[ChunkKey, int]:
        """Those of the chunks that are files, with their sizes in bytes. One that is empty is a file of 0 bytes."""
        found = {}
        for key in keys:
            try:
                found[key] = os.lstat(self._path(key, salt)).st_size
            except OSError:
                continue
        return found

    def verify(self, keys: Sequence[ChunkKey], salt: Salt) -> Damage:
        """Read the files of these chunks and open them. Absent ones are passed over.

        Without the key nothing is read: a plain file has no checksum, and a sealed one can't be opened, so only one shows
        whose length is neither a plain nor a sealed chunk's (or, where `chunk_bytes` isn't known, that of the longest of
        them). Raises OSError where a file or the key can't be
        read for another reason than a bad disk.
        """
        if self._key_path is None:
            sizes = self.sizes(keys, salt)
            chunk = self._chunk_bytes
            usual = {chunk, chunk + FRAME_BYTES} if chunk is not None else {max(sizes.values(), default=0)}
            return Damage(tuple(key for key, size in sizes.items() if size not in usual))
        master_key = self._key_path.read_bytes()
        if not master_key:
            raise OSError(f"{self._key_path} is empty")  # or every file would look damaged
        seal = Seal(master_key, salt, named=self._named)
        damaged, read_bytes = [], 0
        for key in keys:
            try:
                path = self._path(key, salt)
                frame = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                frame = b""
            read_bytes += len(frame)
            if not seal.holds(frame, path.name.removesuffix(CHUNK)):
                damaged.append(key)
        return Damage(tuple(damaged), read_bytes)

    def remove_partial(self, names: Iterable[str]) -> int:
        """Delete half-written files; how many were. Names that are none, or that somebody writes to now, are left alone."""
        removed = 0
        for name in names:
            path = self._folder / name
            try:
                if not self._is_partial(name) or time.time() - path.stat().st_mtime <= ABANDONED_AFTER_S:
                    continue
                path.unlink()
            except OSError:
                continue
            removed += 1
        return removed

    def remove_all_partial(self) -> int:
        """Delete every half-written file, however young; how many. For while no KV server runs that could be writing them."""
        removed = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if self._is_partial(entry.name) and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)
                    removed += 1
        return removed

    def _is_partial(self, name: str) -> bool:
        return parse_file_name(self._model, name, suffix=PARTIAL) is not None

    def _path(self, key: ChunkKey, salt: Salt) -> Path:
        return self._folder / file_name(self._model, key, salt)
