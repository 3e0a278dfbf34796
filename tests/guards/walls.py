"""Between tenants, and around what is stored."""

from __future__ import annotations

from tests.guards import Guard

GUARDS = (
    Guard(
        "a salt is its owner's",
        "router/documents.py",
        "join((owner, document_id, digest, fingerprint))",
        "join((document_id, digest, fingerprint))",
        ("tests/gateway/test_tenants.py", "tests/router/test_documents.py"),
    ),
    Guard(
        "a salt is its document's",
        "router/documents.py",
        "join((owner, document_id, digest, fingerprint))",
        "join((owner, digest, fingerprint))",
        ("tests/router/test_documents.py",),
    ),
    Guard(
        "a salt is its content's",
        "router/documents.py",
        "join((owner, document_id, digest, fingerprint))",
        "join((owner, document_id, fingerprint))",
        ("tests/router/test_documents.py",),
    ),
    Guard(
        "a salt is its engine's",
        "router/documents.py",
        "join((owner, document_id, digest, fingerprint))",
        "join((owner, document_id, digest))",
        ("tests/router/test_documents.py",),
    ),
    Guard(
        "a salt can't be guessed",
        "router/documents.py",
        "hmac.new(secret, message, hashlib.sha256)",
        'hmac.new(b"", message, hashlib.sha256)',
        ("tests/router/test_documents.py",),
    ),
    Guard(
        "past the cache nothing is met",
        "gateway/asking/asker.py",
        "salt = Salt(secrets.token_hex(32)) if question.bypass else version.salt",
        "salt = version.salt",
        ("tests/gateway/test_chat.py", "tests/gateway/test_cold_questions.py"),
    ),
    Guard(
        "joined answers of several documents are met by nobody",
        "gateway/asking/asker.py",
        "            salt=Salt(secrets.token_hex(32)),\n            document_tokens=len(ids),",
        '            salt=Salt("0" * 64),\n            document_tokens=len(ids),',
        ("tests/gateway/test_several_documents.py",),
    ),
    Guard(
        "how often others ask a shared document is theirs",
        "gateway/api/documents_views.py",
        "if document.owner != Owner(tenant):",
        "if False:",
        ("tests/gateway/test_tenants.py", "tests/gateway/test_documents_retention.py", "tests/gateway/test_documents.py"),
    ),
    Guard(
        "a stored chunk is sealed for its salt",
        "backends/lmcache/sealed.py",
        "info=INFO + salt.encode()",
        "info=INFO",
        ("tests/backends/lmcache/test_sealed.py",),
    ),
    Guard(
        "a stored chunk is sealed with its name",
        "backends/lmcache/sealed.py",
        "name.encode() if self._named else None",
        "None",
        ("tests/backends/lmcache/test_sealed.py",),
    ),
    Guard(
        "what is seen is one's own and what is shared",
        "router/catalog.py",
        "if d.owner == own or (d.owner == SHARED and (own, d.id) not in self._documents)]",
        "]",
        ("tests/router/test_documents.py", "tests/gateway/test_tenants.py"),
    ),
    Guard(
        "what is asked by its name is one's own or what is shared",
        "router/catalog.py",
        "self.get(Owner(viewer.tenant), DocumentId(document_id)) or self.get(SHARED, DocumentId(document_id))",
        "next((d for d in self if d.id == document_id), None)",
        ("tests/router/test_documents.py", "tests/gateway/test_tenants.py"),
    ),
    Guard(
        "a volume is asked through its document alone",
        "router/catalog.py",
        "found.part is not None or ",
        "",
        ("tests/router/test_documents.py",),
    ),
    Guard(
        "a fitted routing is its tenant's",
        "gateway/shelf/matchings.py",
        'return f"routing:{tenant}"',
        'return "routing:all"',
        ("tests/gateway/test_matchings.py",),
    ),
)
