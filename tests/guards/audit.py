"""The audit log: written with what it tells of, and then left alone by all."""

from __future__ import annotations

from tests.guards import Guard

STORE, REVISION = "backends/store/sql_store.py", "backends/store/migrations/versions/r0006_keys.py"
DOCUMENTS_API, DOORS = "gateway/api/documents_api.py", "gateway/tenants/doors.py"

OF_AUDIT, OF_CLI = "tests/gateway/tenants/test_audit.py", "tests/gateway/cli/test_keys.py"
OF_OTHERS = "tests/gateway/tenants/test_audit_of_more.py"
OF_STORE, OF_REVISIONS = "tests/backends/store/test_contract_keys.py", "tests/backends/store/test_migrations.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "SQLite lets nobody change the audit log",
        REVISION,
        'for what in ("UPDATE", "DELETE"):',
        'for what in ("DELETE",):',
        (f"{OF_REVISIONS}::test_the_database_lets_nobody_change_the_audit_log[sqlite]",),
    ),
    Guard(
        "PostgreSQL lets nobody change the audit log",
        REVISION,
        "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit",
        "BEFORE UPDATE OR DELETE ON audit",
        (f"{OF_REVISIONS}::test_the_database_lets_nobody_change_the_audit_log[postgresql]",),
    ),
    Guard(
        "a change of a key is told of",
        STORE,
        "            await connection.execute(update(api_keys).where(of_it).values(key_values(key)))\n            await _note(connection, audit)\n",
        "            await connection.execute(update(api_keys).where(of_it).values(key_values(key)))\n",
        (f"{OF_STORE}::test_an_entry_is_written_with_what_it_tells_of",),
    ),
    Guard(
        "the making of a key is told of in its own transaction",
        STORE,
        "            await connection.execute(insert(api_keys).values(key_values(key)))\n            await _note(connection, audit)\n",
        "            await _note(connection, audit)\n        async with self._database.write() as connection:\n"
        "            await connection.execute(insert(api_keys).values(key_values(key)))\n",
        (f"{OF_STORE}::test_what_is_not_done_is_not_in_the_audit_log",),
    ),
    Guard(
        "the making of a key is told of",
        "gateway/tenants/keyring.py",
        "await self._store.add_key(record, entry)",
        "await self._store.add_key(record)",
        (f"{OF_AUDIT}::test_what_is_done_with_keys_is_told_with_who_and_from_where", OF_CLI),
    ),
    Guard(
        "adding a document is told of",
        DOCUMENTS_API,
        "            audit=(entry,),\n",
        "",
        (f"{OF_AUDIT}::test_what_is_done_with_documents_is_told_and_nothing_of_their_text",),
    ),
    Guard(
        "changing a document is told of",
        DOCUMENTS_API,
        "retention=changes.retention(), audit=(entry,), **",
        "retention=changes.retention(), **",
        (f"{OF_AUDIT}::test_what_is_done_with_documents_is_told_and_nothing_of_their_text",),
    ),
    Guard(
        "removing a document is told of",
        DOCUMENTS_API,
        "await shelf.remove(document.owner, document.id, entry)",
        "await shelf.remove(document.owner, document.id)",
        (f"{OF_AUDIT}::test_what_is_done_with_documents_is_told_and_nothing_of_their_text",),
    ),
    Guard(
        "what the catalog file adds and changes is told of",
        "gateway/shelf/catalog_file.py",
        "                    audit=self._told(path, entry),\n",
        "",
        (f"{OF_OTHERS}::test_what_the_catalog_file_adds_changes_and_removes_is_told",),
    ),
    Guard(
        "what the catalog file removes is told of",
        "gateway/shelf/catalog_file.py",
        "await self._shelf.remove(document.owner, document.id, *told)",
        "await self._shelf.remove(document.owner, document.id)",
        (f"{OF_OTHERS}::test_what_the_catalog_file_adds_changes_and_removes_is_told",),
    ),
    Guard(
        "fitted routing that is kept is told of, with it",
        "gateway/shelf/tuning.py",
        "put(viewer.tenant, matching, *audit)",
        "put(viewer.tenant, matching)",
        (f"{OF_OTHERS}::test_fitted_routing_is_told_where_it_is_kept_and_where_it_is_reset",),
    ),
    Guard(
        "fitted routing that is reset is told of, with it",
        "gateway/shelf/tuning.py",
        "put(tenant, None, *audit)",
        "put(tenant, None)",
        (f"{OF_OTHERS}::test_fitted_routing_is_told_where_it_is_kept_and_where_it_is_reset",),
    ),
    Guard(
        "a state is told of in its own transaction",
        STORE,
        '"updated_at": at})\n            await _note(connection, audit)\n',
        '"updated_at": at})\n',
        (f"{OF_STORE}::test_an_entry_is_written_with_what_it_tells_of",),
    ),
    Guard(
        "refused calls of the operators are told of",
        DOORS,
        "            await self._audit.refused(actor, f\"{method} {connection.scope['path']}\", str(error), **details)\n",
        "",
        (f"{OF_AUDIT}::test_refused_calls_of_the_operators_are_told_with_who_tried",),
    ),
    Guard(
        "whoever knocks does not fill the audit log",
        "gateway/tenants/audit.py",
        "if now - written_at < REFUSALS_EVERY_S:",
        "if now < 0:",
        (f"{OF_AUDIT}::test_whoever_knocks_on_and_on_does_not_fill_the_log",),
    ),
    Guard(
        "who is at the command line is not the environment's word",
        "gateway/cli/desk.py",
        "name = pwd.getpwuid(os.getuid()).pw_name",
        'name = __import__("getpass").getuser()',
        (f"{OF_CLI}::test_the_user_of_the_audit_log_is_not_the_environments",),
    ),
)
