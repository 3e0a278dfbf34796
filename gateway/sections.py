"""The sections of the configuration: frozen structs, whose docstrings say what each setting does. `gateway/config.py` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from backends.settings import LocalEngine, Name, Port, Positive, PositiveFloat
from gateway.edge.hosts import is_loopback
from gateway.tenants.keys import ENVIRONMENT
from router.matching import CANDIDATES, Thresholds
from router.policies import CHOICES, DEFAULT

Share = Annotated[float, Meta(ge=0, le=1)]
HostName = Annotated[str, Meta(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-][A-Za-z0-9_.-]*|\[?[0-9A-Fa-f:]+\]?)$")]
Origin = Annotated[str, Meta(pattern=r"^https?://[^/\s*]+$")]
StorageUrl = Annotated[str, Meta(pattern=r"^(redis|valkey)s?://[^\s]+$")]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^/\s]+(/[^\s]*)?$")]


AT_ONCE = 32
"""Questions sent at a time to a worker of which nothing is known."""


class Server(msgspec.Struct, frozen=True):
    """Where tenants' requests come in. The times and sizes hold for the operators' listener too."""

    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_mib: Positive = 16
    header_timeout_s: PositiveFloat = 10.0
    """A connection whose request has not all its headers by then is closed."""
    body_timeout_s: PositiveFloat = 30.0
    """The same for its body, however steadily it trickles."""
    max_connections: Positive = 1000
    """Open at the same time on one listener; a further one gets 503 at once."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names in a request's `Host` beside localhost, addresses, and `host` above; `*.example.org` for those below it, `*` for any."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins whose pages may ask from a browser, e.g. https://app.example.org. Empty: none may."""


class Admin(msgspec.Struct, frozen=True):
    """Where operators find keys, usage, metrics and all that health knows; not for tenants, so on this machine alone by default."""

    host: str = "127.0.0.1"
    port: Port = 8001
    allowed_hosts: tuple[HostName, ...] = ()
    """As `server.allowed_hosts`: for a Prometheus that scrapes it by a name, say."""
    allow_beyond_loopback: bool = False
    """Needed where `host` is not this machine's loopback: metrics and health have no key, and nothing here has TLS."""

    def __post_init__(self) -> None:
        if not (self.allow_beyond_loopback or is_loopback(self.host)):
            raise ValueError(
                f"`host` is {self.host}, which others can reach, and what it shows asks nobody for a key. Leave it at 127.0.0.1, or, "
                "where a private network or a firewall keeps them away, set `admin.allow_beyond_loopback: true`"
            )


class Keys(msgspec.Struct, frozen=True):
    environment: Annotated[str, Meta(pattern=ENVIRONMENT)] = "live"
    """What keys that are made begin with (`kvs_live_…`), where none is asked for: so that people tell `test` from `live`."""


class RemoteWorker(msgspec.Struct, frozen=True):
    name: Name
    url: HttpUrl
    host: Name | None = None
    """The KV server that it uses, by name; may be left out where there is only one."""


class RemoteKVServer(msgspec.Struct, frozen=True):
    """An LMCache server. Where it reports its events to the gateway, `name` is its `--instance-id`."""

    url: HttpUrl
    name: Name = "lmcache"
    disk_path: Path | None = None
    """The disk tier's folder, where this machine can see it."""
    key_path: Path | None = None
    """The disk tier's master key, where its files are to be checked from here."""
    named_seals: bool = False
    """It was started with `backends/local/kv_server.py`: its sealed files name their chunks."""
    model: str | None = None
    """The workers' `--model`, where it is not `model.path`: it is part of the cache's keys."""
    chunk_bytes: Positive | None = None
    """What a chunk takes in RAM, where neither `disk_path` nor the model's config.json tells."""


class Engine(msgspec.Struct, frozen=True):
    """Either `local`, or `workers` (and `kv_servers`) that somebody else runs."""

    chunk_tokens: Positive = 256
    local: LocalEngine | None = None
    workers: tuple[RemoteWorker, ...] = ()
    kv_servers: tuple[RemoteKVServer, ...] = ()
    """One a host; workers of one host share it."""
    check_interval_s: PositiveFloat = 2.0
    at_once: Positive | None = None
    """Questions sent to one worker at a time; more wait in the gateway, where they are served fairly (`queue`). By default as many
    as a local engine computes at once (`engine.local.max_sequences`), else 32. Two more may come, of tenants that have none under
    way: set it to the workers' own `--max-num-seqs` less two."""
    kv_events: Annotated[str, Meta(pattern=r"^(tcp://[^\s]+:[0-9]{1,5}|ipc://[^\s]+)$")] | None = None
    """Where workers elsewhere publish their KV events, e.g. tcp://10.0.0.5:5557: the gateway listens, they connect."""
    kv_server_events: Annotated[str, Meta(pattern=r"^[^\s:]+:[0-9]{1,5}$")] | None = None
    """Where KV servers elsewhere report their events (their `--coordinator-url`), e.g. 10.0.0.5:5558: the gateway listens."""
    allow_beyond_loopback: bool = False
    """Needed where `kv_events` or `kv_server_events` is not this machine's loopback: whoever reaches them is believed."""
    stall_timeout_s: PositiveFloat = 300.0
    """A worker that sends nothing for this long has failed: longer than a cold reading of the longest document."""

    def __post_init__(self) -> None:
        if (self.local is None) == (not self.workers):
            raise ValueError("give either `local` or `workers`, not both and not neither")
        for what, address in (("kv_events", self.kv_events), ("kv_server_events", self.kv_server_events)):
            host = (address or "").removeprefix("tcp://").rpartition(":")[0]
            local = address is None or address.startswith("ipc://") or is_loopback(host)
            if not (local or self.allow_beyond_loopback):
                raise ValueError(
                    f"`{what}` is {address}, which others can reach, and whoever reaches it is believed without a key. Where a private "
                    "network or a firewall keeps all but the engines away, set `engine.allow_beyond_loopback: true`"
                )
        if self.local is not None and self.kv_servers:
            raise ValueError("`kv_servers` go with `workers`; `local` starts its own")
        for what, named in (("workers", self.workers), ("kv_servers", self.kv_servers)):
            if len({one.name for one in named}) < len(named):
                raise ValueError(f"each of `{what}` needs a `name` of its own")
        names = {server.name for server in self.kv_servers}
        for worker in self.workers:
            if worker.host is None and len(names) > 1:
                raise ValueError(
                    f"worker {worker.name}: `host` must say which of the KV servers it uses: {', '.join(sorted(names))}"
                )
            if worker.host is not None and worker.host not in names:
                raise ValueError(f"worker {worker.name}: `host` is {worker.host}, which none of `kv_servers` is called")

    @property
    def slots(self) -> int:
        """Questions sent to one worker at a time."""
        return self.at_once or (self.local.max_sequences if self.local is not None else AT_ONCE)

    @property
    def hosts(self) -> dict[str, str]:
        """The name of each remote worker's KV server."""
        only = self.kv_servers[0].name if self.kv_servers else None
        return {worker.name: host for worker in self.workers if (host := worker.host or only) is not None}


class Queue(msgspec.Struct, frozen=True):
    """Questions that wait while every worker has as many as it is sent at once: served fairly among tenants."""

    max_waiting: Positive = 64
    """How many may, for each worker that there is; more are refused at once with 503 and `retry-after`."""
    max_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """How much of that one tenant may take; its further questions get 429, so that nobody fills the queue for others."""
    max_wait_s: PositiveFloat = 30.0
    """A question that waited this long gets 503."""


class Embedding(msgspec.Struct, frozen=True):
    model: str
    """A sentence-transformers folder, or `package:NAME` for a model that a Python package ships."""
    max_waiting: Positive = 512
    """Questions that wait to be embedded; while there are so many, others are routed by their words alone."""


class SecondLook(msgspec.Struct, frozen=True):
    """Where it is in doubt which document a question is about, the engine itself is asked, of those whose KV is at hand."""

    candidates: Annotated[int, Meta(ge=2, le=CANDIDATES)] = 2
    """How many, the likeliest, are asked."""
    time_limit_s: PositiveFloat = 1.0
    """What a question waits for it at most."""
    lead_below: Share = 0.0
    """In doubt is what is ambiguous, and also a document that was found but leads the second by less than this."""


class Routing(Thresholds, frozen=True):
    """Scores are probabilities: that a document is the one that a question without a name is about."""

    min_score: Share = Thresholds().min_score
    """A question goes to a document that has at least this. Where only several have it together it is ambiguous, else no match."""
    margin: Share = Thresholds().margin
    """The first document must lead the second by this much, else the question is ambiguous."""
    second_look: SecondLook | None = None
    """Absent: the engine is never asked."""


class Gathering(msgspec.Struct, frozen=True):
    """Questions over several documents (`"documents": [...]`): each is asked by itself, one more question joins the answers."""

    max_documents: Positive = 1
    """How many one question may name; 1: no more than one."""
    part_tokens: Positive = 256
    """The longest answer of one document. All of them, with question and answer, must fit the context together."""
    at_once: Positive = 4
    """How many documents one question asks at a time."""


class Ingestion(msgspec.Struct, frozen=True):
    segment_target_s: PositiveFloat = 0.5
    """A reading hands the worker back to live questions about this often."""
    answer_reserve_tokens: Positive = 1024
    """Context kept free for the question and the answer."""
    max_volumes: Positive = 1
    """Into how many volumes a document may be split that is longer than the context leaves room for; 1: it is refused."""
    describe: bool = False
    """Have the engine write the summary and the sample questions of documents that have none, while a worker is idle."""


class Disk(msgspec.Struct, frozen=True):
    """The disk tier of each host. The sizes of the GPU and RAM tiers are the engine's (`engine.local`)."""

    budget_gib: PositiveFloat | None = None
    """What documents' KV may take; beyond it the documents used least recently go. Absent: whatever `min_free_gib` leaves."""
    min_free_gib: Annotated[float, Meta(ge=0)] = 2.0
    """What is left free on the file system for others."""
    low_watermark: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Once something has to go, so much goes that this share of the budget is left in use."""
    look_every_s: PositiveFloat = 60.0
    """How often the folder is looked at, for what nobody told of."""
    orphan_after_s: PositiveFloat = 600.0
    """KV that belongs to no document is removed when it is this old; earlier where its space is needed."""
    scrub_mib_per_s: Annotated[float, Meta(ge=0)] = 8.0
    """How fast stored KV is read in the background to find damage; 0: never."""


class Ram(msgspec.Struct, frozen=True):
    """The RAM tier of each host."""

    policy: str = DEFAULT
    """Which documents leave it first, and whether likely ones are brought ahead: `kvshelf simulate` compares them. Pinned
    ones are brought in any case."""

    def __post_init__(self) -> None:
        if self.policy not in CHOICES:
            raise ValueError(f"`policy` is {self.policy!r}; there are: {', '.join(sorted(CHOICES))}")


class Retention(msgspec.Struct, frozen=True):
    ttl_refresh: bool = False
    """A question moves its document's expiry on by the document's TTL."""


class Usage(msgspec.Struct, frozen=True):
    """What tenants used, by key, document and day (`/v1/usage`)."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)] | None = 400
    """What was used on days longer past than this is forgotten; null: nothing is."""


class Telemetry(msgspec.Struct, frozen=True):
    otlp_endpoint: HttpUrl | None = None
    """An OpenTelemetry collector's base URL (OTLP over HTTP), e.g. http://127.0.0.1:4318."""
    log_level: str = "info"
