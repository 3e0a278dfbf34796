"""The embedding model: texts into unit vectors, in a thread of its own so that the event loop never waits.

Fits `backends.base.Embedder`. torch and sentence-transformers are imported in that thread, when the model is
opened: a gateway without an embedding model never pays their memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Vectors
from router.errors import KvshelfError

# Texts that go through the model together are padded to the longest of them. One long question among fifteen short ones took
# 940 ms so and takes 120 ms apart, and a document's passages take a third less time in twos than in batches of 64.
PADDED_CHARACTERS = 1_500
LONGEST = 32_000
"""Characters of one text: beyond what embedding models read, while a megabyte takes a second to tell."""


class EmbedderUnavailable(KvshelfError):
    code = "embedding_unavailable"


class SentenceEmbedder:
    def __init__(self, model: str, *, base: Path = Path()) -> None:
        """`model`: a sentence-transformers folder (relative ones under `base`), or `package:NAME` for a model in a Python package."""
        self.name = model
        self._base = base
        self._model: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")

    async def open(self) -> None:
        """Load the model (seconds). Raises EmbedderUnavailable that says what is missing."""
        self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Any:
        folder = self._folder()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a gateway that starts must not depend on a hub
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from threadpoolctl import threadpool_limits
            from transformers.utils.logging import disable_progress_bar

            # A worker on the same cores spins for a second after each answer; two threads that wait for one another
            # between its turns take 200 to 400 ms for a question, one takes 15.
            torch.set_num_threads(1)
            # Matching multiplies small matrices: numpy's own threads, which spin between them, cost half of all questions a second.
            threadpool_limits(limits=1, user_api="blas")
            disable_progress_bar()  # type: ignore[no-untyped-call]
            return SentenceTransformer(str(folder), device="cpu")
        except (ImportError, OSError, ValueError) as error:
            raise EmbedderUnavailable(f"The embedding model in {folder} can't be loaded: {error}") from error

    def _folder(self) -> Path:
        scheme, _, name = self.name.partition(":")
        if scheme != "package":
            folder = self._base / self.name
        else:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise EmbedderUnavailable(
                    f"The Python package {name!r} that `embedding.model` names is not installed; pip install {name.replace('_', '-')}"
                )
            folder = Path(spec.origin).parent / "model"
        if not folder.is_dir():
            raise EmbedderUnavailable(f"`embedding.model`: there is no folder {folder}")
        return folder

    def _encode(self, texts: list[str]) -> Vectors:
        texts = [text[:LONGEST] for text in texts]
        vectors = np.empty((len(texts), self._model.get_embedding_dimension()), dtype=np.float32)
        for group in alike(texts):
            vectors[group] = self._model.encode(
                [texts[number] for number in group],
                batch_size=len(group),
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return vectors


def alike(texts: Sequence[str]) -> Iterator[list[int]]:
    """All positions, in groups of texts of similar length: number times longest is at most PADDED_CHARACTERS, or it is one alone."""
    group: list[int] = []
    for number in sorted(range(len(texts)), key=lambda number: len(texts[number])):
        if group and (len(group) + 1) * len(texts[number]) > PADDED_CHARACTERS:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
