"""An embedding without a model: words hashed into a vector. Texts that share words are near one another."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from backends.base import Vectors
from router.errors import KvshelfError

DIMENSIONS = 64


class FakeEmbedder:
    name = "words"

    def __init__(self) -> None:
        self.broken = False
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.broken:
            raise KvshelfError("the embedding model fell over")
        self.texts += len(texts)
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, zlib.crc32(word.encode()) % DIMENSIONS] += 1
            vectors[row, 0] += 1e-3  # never all zeros
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
