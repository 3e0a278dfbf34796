"""tenants.yaml: what each tenant may have and use, applied at start and whenever the file changes.

A bad file changes nothing: the last good state stays, and `problems` says what is wrong.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import structlog

from gateway import strict_yaml
from gateway.strict_yaml import ConfigError
from gateway.watched import Stamp, changes, stamp
from router.documents import TenantId, check_id
from router.errors import KvshelfError
from router.limits import UNLIMITED, Limits, over

log = structlog.get_logger("tenants")


class LimitsFile(msgspec.Struct, frozen=True):
    """`defaults`: of every tenant, also one that isn't named. What a tenant names stands in the place of the default."""

    defaults: Limits = UNLIMITED
    tenants: dict[str, Limits] = {}

    def __post_init__(self) -> None:
        try:
            for tenant in self.tenants:
                check_id(tenant, what="tenant")
        except KvshelfError as error:
            raise ValueError(str(error)) from error


def load(path: Path) -> LimitsFile:
    """Raises ConfigError with everything that is wrong."""
    return strict_yaml.read(path, LimitsFile)


class TenantLimits:
    def __init__(self, path: Path | None) -> None:
        """`path`: the file, None where there is none and nothing is limited."""
        self.problems: list[str] = []
        self._path = path
        self._defaults = UNLIMITED
        self._limits: dict[str, Limits] = {}
        self._seen: dict[Path, Stamp] = {}

    def of(self, tenant: TenantId) -> Limits:
        return self._limits.get(tenant, self._defaults)

    @property
    def named(self) -> tuple[TenantId, ...]:
        """The tenants that the file names."""
        return tuple(map(TenantId, self._limits))

    async def apply(self) -> None:
        """Take the file as it is now. Never raises for what is in it: `problems` says it."""
        if self._path is None:
            return
        try:
            file = await asyncio.to_thread(self._load, self._path)
        except ConfigError as error:
            self._say(error.problems)
            return
        self._defaults = file.defaults
        self._limits = {tenant: over(file.defaults, own) for tenant, own in file.tenants.items()}
        self._say([])

    async def watch(self) -> None:
        """Apply again at every change, until cancelled."""
        if self._path is None:
            return
        async for changed in changes(lambda: self._seen):
            log.info("tenants_changed", files=changed)
            await self.apply()

    def _say(self, problems: list[str]) -> None:
        if problems and problems != self.problems:
            log.error("tenants_problems", problems=problems, consequence="the last good limits stay")
        self.problems = problems

    def _load(self, path: Path) -> LimitsFile:
        # Looked at before it is read: what changes in between is then seen as a change.
        self._seen = {path: stamp(path)}
        return load(path)
