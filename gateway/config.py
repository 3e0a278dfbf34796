"""The configuration: one YAML file into frozen structs. The one place that reads files and environment for settings.

Unknown fields are refused and every problem is reported at once, with the file, the path in it and what is
allowed. Secrets never stand in the YAML: they come from a file or the environment. See `configs/demo.yaml`.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from backends.settings import Extraction, Model
from gateway import strict_yaml
from gateway.sections import (
    Admin,
    Disk,
    Embedding,
    Engine,
    Gathering,
    Ingestion,
    Keys,
    Queue,
    Ram,
    Retention,
    Routing,
    Server,
    StorageUrl,
    Telemetry,
    Usage,
)
from gateway.strict_yaml import ConfigError

SECRET_VARIABLE = "KVSHELF_SECRET"  # noqa: S105 - the variable's name, not a secret  # nosec B105
MIN_SECRET_BYTES = 32


class Config(msgspec.Struct, frozen=True):
    data_path: Path
    """Database, server secret, logs: everything the gateway keeps."""
    model: Model
    engine: Engine
    embedding: Embedding | None = None
    """Absent: routing is lexical only."""
    server: Server = Server()
    admin: Admin = Admin()
    keys: Keys = Keys()
    database_url: str | None = None
    """SQLAlchemy URL; by default SQLite in `data_path`. Its password may be given as ${VARIABLE}."""
    catalog: Path | None = None
    """A catalog.yaml, applied at start and whenever it changes."""
    tenants: Path | None = None
    """A tenants.yaml with the tenants' limits, applied at start and whenever it changes. Absent: nothing is limited but keys."""
    limits_storage: StorageUrl | None = None
    """Valkey or Redis (redis://, rediss://, valkey://, valkeys://), where several gateways count together what is used.

    Its password may be given as ${VARIABLE}. Absent: each gateway counts for itself."""
    routing: Routing = Routing()
    gathering: Gathering = Gathering()
    queue: Queue = Queue()
    ingestion: Ingestion = Ingestion()
    extraction: Extraction = Extraction()
    disk: Disk = Disk()
    ram: Ram = Ram()
    retention: Retention = Retention()
    usage: Usage = Usage()
    telemetry: Telemetry = Telemetry()
    allow_cache_bypass: bool = False
    """Honour a request's `cache-control: no-cache` (answered with no KV reused and none kept): to compare warm with cold."""

    def __post_init__(self) -> None:
        gathering, context = self.gathering, self.model.context_tokens
        room = context - self.ingestion.answer_reserve_tokens
        if gathering.max_documents > 1 and gathering.max_documents * gathering.part_tokens > room:
            raise ValueError(
                f"`gathering`: the answers of {gathering.max_documents} documents may take {gathering.part_tokens} tokens each, "
                f"{gathering.max_documents * gathering.part_tokens} in all, but only {room} fit (`model.context_tokens` {context} "
                f"less `ingestion.answer_reserve_tokens` {self.ingestion.answer_reserve_tokens})"
            )

    @property
    def secret_path(self) -> Path:
        return self.data_path / "secret"


def load(path: Path) -> Config:
    """The configuration of this file. Raises ConfigError with every problem in it."""
    return strict_yaml.read(path, Config)


def database_url(config: Config, environment: Mapping[str, str] = os.environ) -> str:
    """The SQLAlchemy URL, with each ${VARIABLE} taken from the environment. Raises ConfigError for a missing one."""
    if config.database_url is None:
        return f"sqlite+aiosqlite:///{config.data_path / 'kvshelf.db'}"
    return _filled_in(config.database_url, "database_url", environment)


def limits_storage(config: Config, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the storage that gateways share, filled in likewise; None where there is none. Raises ConfigError."""
    return _filled_in(config.limits_storage, "limits_storage", environment) if config.limits_storage is not None else None


def _filled_in(url: str, setting: str, environment: Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        value = environment.get(match[1])
        if value is None:
            raise ConfigError([f"`{setting}` names the environment variable {match[1]}, which is not set"])
        return value

    return re.sub(r"\$\{(\w+)\}", variable, url)


def server_secret(config: Config, environment: Mapping[str, str] = os.environ) -> bytes:
    """The secret behind key hashes and cache salts: from KVSHELF_SECRET, else from the data folder's file.

    The file is made at the first start, readable by its owner alone. Raises ConfigError for a weak or exposed one, and for one
    that is gone.
    Whoever changes it makes every key and every cached document unreachable.
    """
    given = environment.get(SECRET_VARIABLE)
    if given is not None:
        return _strong(given.encode(), SECRET_VARIABLE)
    path = config.secret_path
    if not path.exists():
        if problem := _lost_secret(config):
            raise ConfigError([problem])
        _make_secret(path)
    if problems := exposed(path, "the server's secret"):
        raise ConfigError(problems)
    return _strong(path.read_bytes().strip(), str(path))


def exposed(path: Path, what: str) -> list[str]:
    """What is wrong where others can read this key file. One that is not there exposes nothing."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []
    return [f"{path}: others can read {what}; mend it with: chmod 600 {path}"] if mode & 0o077 else []


def key_file_problems(config: Config) -> list[str]:
    """The disk tier's keys of KV servers elsewhere, where others than this user can read them here."""
    named = {server.key_path: server.name for server in config.engine.kv_servers if server.key_path is not None}
    return [problem for path, name in named.items() for problem in exposed(path, f"the disk tier's key of the KV server {name}")]


def secret_problems(config: Config, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is wrong with the secrets that are there; a missing one is made at the first start."""
    problems = key_file_problems(config)
    try:
        if SECRET_VARIABLE in environment or config.secret_path.exists():
            server_secret(config, environment)
        elif problem := _lost_secret(config):
            problems.append(problem)
    except ConfigError as error:
        problems += error.problems
    return problems


def _lost_secret(config: Config) -> str | None:
    """A database without the secret that its keys were made with: a new one would make all of them wrong, without a word."""
    database = config.data_path / "kvshelf.db"
    if config.database_url is not None or not database.exists():
        return None
    return (
        f"The server's secret is gone: {SECRET_VARIABLE} is not set and {config.secret_path} is not there, but {database} is. Set "
        f"the variable, or put the file back. To begin anew, with every API key and all KV useless: "
        f"(umask 077; openssl rand -hex 32 > {config.secret_path})"
    )


def _make_secret(path: Path) -> None:
    """Whole or not at all, and only once: two first starts at the same moment agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _strong(secret: bytes, where: str) -> bytes:
    if len(secret) < MIN_SECRET_BYTES or len(set(secret)) < 8:
        raise ConfigError(
            [f"{where}: too weak; use at least {MIN_SECRET_BYTES} random characters, e.g. from: openssl rand -hex 32"]
        )
    return secret
