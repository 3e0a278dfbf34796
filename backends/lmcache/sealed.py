"""LMCache's encrypted chunks: whether a file is still what was stored. Pure; reads no file and keeps no content.

A file is one frame: version 1 (1 byte), iv (12), ciphertext, tag (16): AES-256-GCM with a key derived from the master
key and the chunk's salt. The tag covers every byte, so any damage shows, and so does a chunk that stands under another
salt. It does not cover the chunk's key: two files of one salt that were swapped both look whole.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.documents import Salt

VERSION = 1
IV_BYTES = 12
TAG_BYTES = 16
FRAME_BYTES = 1 + IV_BYTES + TAG_BYTES
"""What a file is longer than the chunk in it."""
KEY_BYTES = 32
INFO = b"lmcache-l2-aesgcm-v1"


class Seal:
    """The seal of one salt's chunks."""

    def __init__(self, master_key: bytes, salt: Salt) -> None:
        derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=INFO + salt.encode()).derive(master_key)
        self._cipher = AESGCM(derived)

    def holds(self, frame: bytes) -> bool:
        """Whether these are the bytes that were stored under this salt. About 1 ms for 4 MB, twice that in memory."""
        if len(frame) < FRAME_BYTES or frame[0] != VERSION:
            return False
        view = memoryview(frame)
        try:
            self._cipher.decrypt(view[1 : 1 + IV_BYTES], view[1 + IV_BYTES :], None)
        except InvalidTag:
            return False
        return True
