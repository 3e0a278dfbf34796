"""Making, changing, rotating and revoking keys: the same for `/admin/keys` and `kvshelf keys`, each with its audit entry."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from backends.base import Store
from backends.records import ApiKey
from gateway.tenants import keys
from gateway.tenants.audit import Actor, AuditLog
from gateway.tenants.keys import SCOPES, USUAL_SCOPES
from router.documents import DocumentId, TenantId, check_id
from router.errors import Conflict, InvalidRequest, NotFound
from router.limits import NO_RATES, Rates

Name = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")]
Documents = Annotated[tuple[str, ...], Meta(max_length=1000)]
Tags = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00]*$")], ...], Meta(max_length=50)]


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a key is to be. `environment`: by default the configuration's. `expires_at`: seconds since the epoch."""

    tenant: str
    name: Name = ""
    scopes: tuple[str, ...] = USUAL_SCOPES
    environment: str | None = None
    expires_at: float | None = None
    documents: Documents = ()
    tags: Tags = ()
    limits: Rates = NO_RATES


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be changed; what is UNSET stays."""

    name: Name | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    documents: Documents | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    limits: Rates | UnsetType = UNSET


class Keyring:
    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        server_secret: bytes,
        *,
        environment: str,
        now: Callable[[], float],
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`environment`: of keys for which none is asked. `changed` is told of each key that is not as it was."""
        self._store = store
        self._audit = audit
        self._server_secret = server_secret
        self._environment = environment
        self.now = now
        self._tell = changed

    async def all(self, tenant: str | None = None) -> list[ApiKey]:
        """Every key, also those that are revoked; in the order in which they were made."""
        found = [key for key in await self._store.keys() if tenant in (None, key.tenant)]
        return sorted(found, key=lambda key: (key.created_at, key.public_id))

    async def get(self, public_id: str) -> ApiKey:
        """Raises NotFound."""
        return _there(await self._store.key(public_id), public_id)

    async def create(self, by: Actor, new: NewKey) -> tuple[str, ApiKey]:
        """The key, to be shown this once, and its record. Raises InvalidRequest."""
        environment = self._environment if new.environment is None else new.environment
        if re.fullmatch(keys.ENVIRONMENT, environment) is None:
            raise InvalidRequest(
                f"{environment!r} can't be a key's environment: use one to twelve of a-z, e.g. `test`.", param="environment"
            )
        tenant = TenantId(check_id(new.tenant, what="tenant"))
        fields = self._checked(
            name=new.name, scopes=new.scopes, expires_at=new.expires_at, documents=new.documents, tags=new.tags, limits=new.limits
        )
        key, record = keys.new_key(self._server_secret, tenant, now=self.now(), environment=environment, **fields)
        entry = self._audit.entry(by, "key.create", record.public_id, tenant, environment=environment, **fields)
        await self._store.add_key(record, entry)
        return key, record

    async def change(self, by: Actor, public_id: str, changes: KeyChanges) -> ApiKey:
        """Raises NotFound, InvalidRequest, and Conflict for a key that is revoked."""
        given = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not UNSET}
        if not given:
            raise InvalidRequest(f"Nothing to change: give one of {', '.join(KeyChanges.__struct_fields__)}.")
        fields = self._checked(**given)
        return await self._changed(by, "key.change", public_id, lambda key: replace(key, **fields), **fields)

    async def rotate(self, by: Actor, public_id: str, *, keep_s: float | None = None) -> tuple[str, ApiKey]:
        """The key with a new secret, to be shown this once. The old secret is good for another `keep_s` seconds; None: until
        `finish`. Raises NotFound, and Conflict where the key is revoked or has two secrets already."""
        now, made = self.now(), [""]

        def renewed(key: ApiKey) -> ApiKey:
            if key.good_old_hash(now) is not None:
                raise Conflict(
                    f"Key {public_id} has two secrets already: end the older one first (`kvshelf keys rotate CONFIG {public_id} "
                    f"--finish`, or POST /admin/keys/{public_id}/finish)."
                )
            made[0], record = keys.renewed(self._server_secret, key)
            return replace(record, old_hash=key.secret_hash, old_until=None if keep_s is None else now + keep_s)

        record = await self._changed(by, "key.rotate", public_id, renewed, keep_s=keep_s)
        return made[0], record

    async def finish(self, by: Actor, public_id: str) -> ApiKey:
        """End the old secret of a key that was rotated. Raises NotFound, and Conflict where there is none."""

        def finished(key: ApiKey) -> ApiKey:
            if key.old_hash is None:
                raise Conflict(f"Key {public_id} has one secret: there is no older one to end.")
            return replace(key, old_hash=None, old_until=None)

        return await self._changed(by, "key.finish", public_id, finished)

    async def revoke(self, by: Actor, public_id: str) -> ApiKey:
        """For good. A key that is revoked keeps its first time, and nothing is noted. Raises NotFound."""
        key = await self.get(public_id)
        if key.revoked_at is not None:
            return key
        now = self.now()
        return await self._changed(by, "key.revoke", public_id, lambda key: replace(key, revoked_at=now))

    async def _changed(self, by: Actor, action: str, public_id: str, made: Callable[[ApiKey], ApiKey], **details: Any) -> ApiKey:
        def living(key: ApiKey) -> ApiKey:
            if key.revoked_at is not None:
                raise Conflict(f"Key {public_id} is revoked for good; make another one.")
            return made(key)

        tenant = (await self.get(public_id)).tenant
        entry = self._audit.entry(by, action, public_id, tenant, **details)
        key = _there(await self._store.change_key(public_id, living, entry), public_id)
        self._tell(public_id)
        return key

    def _checked(self, **fields: Any) -> dict[str, Any]:
        """The fields as they are stored. Raises InvalidRequest."""
        if (scopes := fields.get("scopes")) is not None:
            if unknown := sorted(set(scopes) - set(SCOPES)):
                raise InvalidRequest(f"Unknown scopes: {', '.join(unknown)}. There are: {', '.join(SCOPES)}.", param="scopes")
            if not scopes:
                raise InvalidRequest(f"A key needs a scope, of: {', '.join(SCOPES)}.", param="scopes")
            fields["scopes"] = tuple(scope for scope in SCOPES if scope in scopes)
        if (expires_at := fields.get("expires_at")) is not None and expires_at <= self.now():
            raise InvalidRequest("A key can't expire in the past; revoke it instead.", param="expire_at")
        if "documents" in fields:
            fields["documents"] = tuple(DocumentId(check_id(name)) for name in dict.fromkeys(fields["documents"]))
        if "tags" in fields:
            fields["tags"] = tuple(dict.fromkeys(fields["tags"]))
        return fields


def _there(key: ApiKey | None, public_id: str) -> ApiKey:
    if key is None:
        raise NotFound(f"There is no key {public_id}.", param="key")
    return key
