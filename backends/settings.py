"""The parts of the configuration that the backends understand. `gateway/config.py` reads them with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Model(msgspec.Struct, frozen=True):
    """The language model, as the workers serve it. `path` is a Hugging Face folder: the gateway needs its tokenizer."""

    name: Name
    path: Path
    context_tokens: Positive
    dtype: str = "bfloat16"
    revision: str = ""
    """Names the weights where `path` has none (workers elsewhere). Part of the engine fingerprint."""


SPARE = 2
"""Slots of a worker beyond what it is sent at once: for a tenant that has nothing under way, so that one tenant's questions never
have all of an engine."""


class LocalEngine(msgspec.Struct, frozen=True):
    """An engine on this machine, started and watched by `kvshelf up`."""

    python: Path
    """The worker environment's interpreter."""
    disk_path: Path
    """The disk tier's folder."""
    workers: Annotated[int, Meta(ge=1, le=16)] = 1
    worker_port: Port = 8101
    """The first worker's; the others count up from it."""
    lmcache_port: Port = 5555
    lmcache_http_port: Port = 8180
    kv_events_port: Port = 5557
    """The gateway listens here for what the workers hold; they connect to it."""
    kv_server_events_port: Port = 5558
    """The gateway listens here for what the RAM tier holds; the KV server connects to it."""
    kv_space_gib: PositiveFloat = 2.0
    """The GPU tier on a CPU build: memory for KV a worker."""
    ram_gib: PositiveFloat = 2.0
    """The RAM tier, in shared memory."""
    encrypted: bool = True
    """false stores the disk tier plain: a damaged file is then not noticed."""
    max_sequences: Positive = 8
    """Questions that a worker computes at once, besides two more of tenants that have none under way."""
    worker_args: tuple[str, ...] = ()
    """More flags for vLLM."""

    def __post_init__(self) -> None:
        for flag in self.worker_args:
            # argparse takes any beginning of a flag's name for it, as long as no other begins so.
            name = flag.partition("=")[0].replace("_", "-")
            if len(name) > len("--h") and "--host".startswith(name):
                raise ValueError(
                    f"`worker_args` has {flag}: the local engine listens on 127.0.0.1 alone, since its ports ask nobody for a key. "
                    "Leave it out; for workers that others must reach, start them yourself (`engine.workers`) in a private network"
                )


class Extraction(msgspec.Struct, frozen=True):
    """What a file that is no plain text (PDF, HTML) may take to be read. It is read in a process of its own, which ends beyond this."""

    memory_mib: Annotated[int, Meta(ge=128)] = 512
    """Address space, libraries included."""
    time_s: PositiveFloat = 10.0
    max_text_mib: Positive = 16
    max_pages: Positive = 2000
    at_once: Positive = 2
