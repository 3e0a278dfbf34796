"""The embedding model: texts into unit vectors, in a thread of its own so that the event loop never waits.

Fits `backends.base.Embedder`. torch and sentence-transformers are imported in that thread, when the model is
opened: a gateway without an embedding model never pays their memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Vectors
from router.errors import KvshelfError

BATCH = 64


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
            from transformers.utils.logging import disable_progress_bar

            # A worker on the same cores spins for a second after each answer; two threads that wait for one another
            # between its turns take 200 to 400 ms for a question, one takes 15.
            torch.set_num_threads(1)
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
        vectors = self._model.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)
