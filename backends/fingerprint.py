"""The engine's fingerprint: everything that makes KV unusable when it changes and that LMCache's own keys leave out.

Folded into each version's salt, so that old KV is never met again, and nothing has to be removed by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from backends.settings import Model

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def engine_fingerprint(
    model: Model, *, tokenizer_digest: str, layout_digest: str, versions: Mapping[str, str], cache_path: Path | None = None
) -> str:
    """Hex SHA-256 over weights, config, dtype, tokenizer and template, prompt layout, and the engine's versions.

    `cache_path`: a file that remembers the weights' digest, as hashing gigabytes takes seconds.
    """
    parts = {
        "path": os.path.abspath(model.path),  # noqa: PTH100 - unresolved, as in LMCache's keys
        "weights": weights_digest(model.path, cache_path),
        "config": _file_digest(model.path / "config.json"),
        "revision": model.revision,
        "dtype": model.dtype,
        "tokenizer": tokenizer_digest,
        "layout": layout_digest,
        "versions": dict(versions),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_digest(folder: Path, cache_path: Path | None = None) -> str:
    """SHA-256 over the folder's weights, file by file; of nothing where they are elsewhere (then `revision` names them).

    Files whose name, size and time of change are as remembered are not read again.
    """
    files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    remembered = _remembered(cache_path)
    if remembered.get("stamp") == stamp and remembered.get("folder") == str(folder):
        return str(remembered["digest"])
    digest = hashlib.sha256("\0".join(f"{path.name} {_file_digest(path)}" for path in files).encode()).hexdigest()
    if cache_path is not None:
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        cache_path.write_text(json.dumps({"folder": str(folder), "stamp": stamp, "digest": digest}))
    return digest


def _file_digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(cache_path: Path | None) -> dict[str, object]:
    try:
        found = json.loads(cache_path.read_text()) if cache_path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
