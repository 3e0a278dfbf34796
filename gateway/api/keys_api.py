"""`/admin/keys` and `/admin/audit`, for operators: every tenant's keys, and who did what with them and with documents."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from backends.records import AuditEntry
from gateway.api.description import TAKES, Takes
from gateway.api.documents_api import decode
from gateway.api.documents_views import Moment
from gateway.tenants.audit import AuditLog
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import actor_of, needs
from gateway.tenants.key_views import KeyView, NewKeyView, new_view, view
from gateway.tenants.keyring import Documents, KeyChanges, Keyring, Name, NewKey, Tags
from gateway.tenants.keys import USUAL_SCOPES
from router.limits import Rates
from router.retention import MAX_TTL_S


class KeyLimits(Rates, frozen=True, forbid_unknown_fields=True):
    """As in tenants.yaml; a key has no limits of documents and disk."""


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to be made. `documents` and `tags` narrow it to these documents; `expire_at` is RFC 3339."""

    tenant: str
    name: Name = ""
    scopes: tuple[str, ...] = USUAL_SCOPES
    environment: str | None = None
    expire_at: Moment | None = None
    documents: Documents = ()
    tags: Tags = ()
    limits: KeyLimits = KeyLimits()


class KeyPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be changed of a key; what is left out stays."""

    name: Name | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expire_at: Moment | UnsetType | None = UNSET
    documents: Documents | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    limits: KeyLimits | UnsetType = UNSET


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old secret stays good; null: until `finish`."""

    keep_s: Annotated[float, Meta(ge=0, le=MAX_TTL_S)] | None = None


class KeyList(msgspec.Struct, frozen=True):
    data: list[KeyView]
    object: str = "list"


class AuditList(msgspec.Struct, frozen=True):
    data: list[AuditEntry]
    object: str = "list"


class KeysController(Controller):
    path = "/admin/keys"
    tags = ("keys",)
    opt = needs("admin")

    @get()
    async def list_keys(self, keyring: NamedDependency[Keyring], tenant: FromQuery[str | None] = None) -> KeyList:
        """Every key, or one tenant's; also those that are revoked."""
        return KeyList([view(key, keyring.now()) for key in await keyring.all(tenant)])

    @get("/{key_id:str}")
    async def show_key(self, key_id: FromPath[str], keyring: NamedDependency[Keyring]) -> KeyView:
        return view(await keyring.get(key_id), keyring.now())

    @post(opt={TAKES: Takes(KeyRequest)})
    async def create_key(self, keyring: NamedDependency[Keyring], request: Request[Any, Principal, Any]) -> Response[NewKeyView]:
        """Make a key. It is in this answer and nowhere else: `cache-control: no-store` (`gateway/edge/door.py`)."""
        new = decode(await request.body(), KeyRequest)
        fields = {name: value for name, value in msgspec.structs.asdict(new).items() if name != "expire_at"}
        asked = NewKey(expires_at=_seconds(new.expire_at), **fields)
        key, record = await keyring.create(actor_of(request), asked)
        return Response(new_view(key, record, keyring.now()), status_code=201)

    @patch("/{key_id:str}", opt={TAKES: Takes(KeyPatch)})
    async def change_key(
        self, key_id: FromPath[str], keyring: NamedDependency[Keyring], request: Request[Any, Principal, Any]
    ) -> KeyView:
        """Change its name, scopes, expiry or allow-lists. Every gateway follows within a second."""
        new = decode(await request.body(), KeyPatch)
        fields = {name: value for name, value in msgspec.structs.asdict(new).items() if name != "expire_at"}
        expires_at = new.expire_at if isinstance(new.expire_at, UnsetType) else _seconds(new.expire_at)
        changed = await keyring.change(actor_of(request), key_id, KeyChanges(expires_at=expires_at, **fields))
        return view(changed, keyring.now())

    @post("/{key_id:str}/rotate", status_code=200, opt={TAKES: Takes(Rotation, optional=True)})
    async def rotate_key(
        self, key_id: FromPath[str], keyring: NamedDependency[Keyring], request: Request[Any, Principal, Any]
    ) -> Response[NewKeyView]:
        """Give it a new secret, which is in this answer and nowhere else. The old one is good for another `keep_s` seconds."""
        asked = decode(await request.body() or b"{}", Rotation)
        key, record = await keyring.rotate(actor_of(request), key_id, keep_s=asked.keep_s)
        return Response(new_view(key, record, keyring.now()))

    @post("/{key_id:str}/finish", status_code=200)
    async def finish_rotation(
        self, key_id: FromPath[str], keyring: NamedDependency[Keyring], request: Request[Any, Principal, Any]
    ) -> KeyView:
        """End the old secret of a key that was rotated."""
        return view(await keyring.finish(actor_of(request), key_id), keyring.now())

    @delete("/{key_id:str}", status_code=200)
    async def revoke_key(
        self, key_id: FromPath[str], keyring: NamedDependency[Keyring], request: Request[Any, Principal, Any]
    ) -> KeyView:
        """Revoke it, for good: refused within a second, its streams end within five."""
        return view(await keyring.revoke(actor_of(request), key_id), keyring.now())


@get("/admin/audit", tags=["audit"], opt=needs("admin"))
async def audit_log(
    audit: NamedDependency[AuditLog],
    since: FromQuery[datetime.datetime | None] = None,
    tenant: FromQuery[str | None] = None,
    before: FromQuery[int | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
) -> AuditList:
    """Who did what, the newest first. `since`: RFC 3339; `before`: only entries of smaller numbers, to read on."""
    return AuditList(await audit.entries(limit=limit, since=_seconds(since) or 0.0, tenant=tenant, before=before))


def _seconds(moment: datetime.datetime | None) -> float | None:
    """Since the epoch. A moment without an offset is in UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)).timestamp()
