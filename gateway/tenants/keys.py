"""API keys: made and read. Only a keyed hash of a key's secret is ever stored.

    kvs_live_<public id>_<secret><checksum>

The public id finds the record, the secret (256 bits) proves the holder, the checksum tells a typing error from a
wrong key without a look-up.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from backends.base import ApiKey
from router.documents import TenantId
from router.limits import NO_RATES, Rates

SCOPES = ("ask", "documents", "share", "admin")
"""ask questions and see the catalog · add, change and remove the tenant's own documents · the same for shared ones · operate
kvshelf: what the operators' listener shows of all tenants"""

_PREFIX = "kvs_live"


def new_key(
    server_secret: bytes, tenant: TenantId, *, name: str, scopes: tuple[str, ...], now: float, limits: Rates = NO_RATES
) -> tuple[str, ApiKey]:
    """(the key, to be shown once; the record to store)."""
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    body = f"{_PREFIX}_{public_id}_{secret}"
    record = ApiKey(
        public_id=public_id,
        tenant=tenant,
        name=name,
        secret_hash=secret_hash(server_secret, secret),
        scopes=scopes,
        created_at=now,
        limits=limits,
    )
    return body + _checksum(body), record


def parse(key: str) -> tuple[str, str] | tuple[None, None]:
    """(public id, secret), or Nones where the key is malformed or its checksum does not fit."""
    body, checksum = key[:-8], key[-8:]
    if not body.startswith(f"{_PREFIX}_") or not hmac.compare_digest(_checksum(body).encode(), checksum.encode()):
        return None, None
    public_id, _, secret = body[len(_PREFIX) + 1 :].partition("_")
    return public_id, secret


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def secret_hash(server_secret: bytes, secret: str) -> str:
    return hmac.new(server_secret, b"api key\0" + secret.encode(), hashlib.sha256).hexdigest()
