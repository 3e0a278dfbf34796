"""API keys: made and read. Only a keyed hash of a key's secret is ever stored.

    kvs_<environment>_<public id>_<secret><checksum>

The environment (`live`, `test` …) is for people, the public id finds the record, the secret (256 bits) proves the holder, the
checksum tells a typing error from a wrong key without a look-up.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any, NamedTuple

from msgspec.structs import replace

from backends.records import ApiKey
from router.documents import TenantId

SCOPES = ("ask", "read", "write", "share", "admin")
"""ask questions · see the catalog and jobs · add, change, remove and move the tenant's own documents · the same for shared
ones · the operators' listener, for all tenants"""
USUAL_SCOPES = SCOPES[:3]
ENVIRONMENT = r"^[a-z]{1,12}$"

_FORM = re.compile(r"kvs_([a-z]{1,12})_([0-9a-f]{16})_([0-9a-f]{64})([0-9a-f]{8})")


class Parsed(NamedTuple):
    environment: str
    public_id: str
    secret: str


def new_key(
    server_secret: bytes, tenant: TenantId, *, name: str, scopes: tuple[str, ...], now: float, **more: Any
) -> tuple[str, ApiKey]:
    """(the key, to be shown once; the record to store). `more`: fields of the record."""
    record = ApiKey(  # nosec B106 - no secret yet: `renewed` gives it one
        public_id=secrets.token_hex(8), tenant=tenant, name=name, secret_hash="", scopes=scopes, created_at=now, **more
    )
    return renewed(server_secret, record)


def renewed(server_secret: bytes, record: ApiKey) -> tuple[str, ApiKey]:
    """(a key of the same id with a new secret; the record with that secret alone)."""
    secret = secrets.token_hex(32)
    body = f"kvs_{record.environment}_{record.public_id}_{secret}"
    hashed = secret_hash(server_secret, secret)
    return body + _checksum(body), replace(record, secret_hash=hashed, old_hash=None, old_until=None)


def parse(key: str) -> Parsed | None:
    """None where the key is malformed or its checksum does not fit."""
    form = _FORM.fullmatch(key)
    if form is None or not hmac.compare_digest(_checksum(key[:-8]), form[4]):
        return None
    return Parsed(*form.groups()[:3])


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def secret_hash(server_secret: bytes, secret: str) -> str:
    return hmac.new(server_secret, b"api key\0" + secret.encode(), hashlib.sha256).hexdigest()
