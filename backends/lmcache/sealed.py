"""LMCache's encrypted chunks: whether a file is still what was stored. Pure; reads no file and keeps no content.

A file is one frame: version (1 byte), iv (12), ciphertext, tag (16): AES-256-GCM with a key derived from the master
key and the chunk's salt. The tag covers every byte, so any damage shows, and so does a chunk that stands under another
salt. LMCache's own frames (version 1) do not name their chunk: two files of one salt that were swapped both look whole.
Those that `backends/local/kv_server.py` writes (version 2) have the chunk's name as associated data, so that shows too.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.documents import Salt

LMCACHES_OWN, NAMED = 1, 2
"""Versions of the frame."""
IV_BYTES = 12
TAG_BYTES = 16
FRAME_BYTES = 1 + IV_BYTES + TAG_BYTES
"""What a file is longer than the chunk in it."""
KEY_BYTES = 32
INFO = b"lmcache-l2-aesgcm-v1"


class Seal:
    """The seal of one salt's chunks."""

    def __init__(self, master_key: bytes, salt: Salt, *, named: bool = False) -> None:
        """`named`: whether frames name their chunk; of the other kind none holds then."""
        derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=INFO + salt.encode()).derive(master_key)
        self._cipher = AESGCM(derived)
        self._named = named

    def holds(self, frame: bytes, name: str) -> bool:
        """Whether these are the bytes that were stored under this salt (and, where frames are named, under this name: the
        file's without its ending). About 1 ms for 4 MB, twice that in memory."""
        if len(frame) < FRAME_BYTES or frame[0] != (NAMED if self._named else LMCACHES_OWN):
            return False
        view = memoryview(frame)
        try:
            self._cipher.decrypt(view[1 : 1 + IV_BYTES], view[1 + IV_BYTES :], name.encode() if self._named else None)
        except InvalidTag:
            return False
        return True
