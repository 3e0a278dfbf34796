"""Keys, what they open and see, who administers them, and the audit log."""

from __future__ import annotations

from tests.guards import Guard

KEYS, RECORDS, KNOWN = "gateway/tenants/keys.py", "backends/records.py", "gateway/tenants/authenticator.py"
DOORS, STREAMS, CONFIG = "gateway/tenants/doors.py", "gateway/tenants/streams.py", "gateway/config.py"
CATALOG, VIEWS, STORE = "router/catalog.py", "gateway/shelf/views.py", "backends/store/sql_store.py"
DOCUMENTS_API, JOBS_API, ROUTING_API = "gateway/api/documents_api.py", "gateway/api/jobs_api.py", "gateway/api/routing_api.py"
TIERS_API, KEYS_API, CHAT = "gateway/api/tiers_api.py", "gateway/api/keys_api.py", "gateway/api/chat.py"
REVISION = "backends/store/migrations/versions/r0006_keys.py"

ANY = '"ask", "read", "write", "share", "admin"'

TESTS = "tests/gateway/tenants"
OF_KEYS, OF_KNOWN, OF_STREAMS = f"{TESTS}/test_keys.py", f"{TESTS}/test_authenticator.py", f"{TESTS}/test_streams.py"
OF_SCOPES, OF_LISTS = f"{TESTS}/test_scopes.py", f"{TESTS}/test_allow_lists.py"
OF_ADMIN, OF_AUDIT = f"{TESTS}/test_admin_keys.py", f"{TESTS}/test_audit.py"
OF_STORE, OF_REVISIONS = "tests/backends/store/test_contract_keys.py", "tests/backends/store/test_migrations.py"
OF_CONFIG, OF_SERVE = "tests/gateway/test_config.py", "tests/gateway/cli/test_serve.py"
EACH_ROUTE = f"{OF_SCOPES}::test_no_route_opens_without_its_scope_and_each_of_its_scopes_opens_it"
EACH_SCOPE = f"{OF_SCOPES}::test_a_scope_opens_what_it_names_and_no_more"

_KEY_FORM = (
    Guard(
        "a typo is told by the checksum",
        KEYS,
        "if form is None or not hmac.compare_digest(_checksum(key[:-8]), form[4]):",
        "if form is None:",
        (f"{OF_KEYS}::test_a_mistyped_key_is_told_without_asking_the_store",),
    ),
    Guard(
        "a secret has 256 bits",
        KEYS,
        "secret = secrets.token_hex(32)",
        'secret = secrets.token_hex(16) + "0" * 32',
        (f"{OF_KEYS}::test_a_secret_has_256_bits_and_no_two_are_the_same",),
    ),
    Guard(
        "only a hash of the secret is stored",
        KEYS,
        "hashed = secret_hash(server_secret, secret)",
        "hashed = secret",
        (f"{OF_KEYS}::test_only_a_hash_of_the_secret_is_stored",),
    ),
    Guard(
        "the hash is keyed with the server's secret",
        KEYS,
        "hmac.new(server_secret, ",
        'hmac.new(b"", ',
        (f"{OF_KEYS}::test_the_hash_depends_on_the_servers_secret",),
    ),
    Guard(
        "secrets are compared in constant time",
        KNOWN,
        "newer = hmac.compare_digest(proof, record.secret_hash if record is not None else _NO_HASH)",
        "newer = record is not None and proof == record.secret_hash",
        (f"{OF_KEYS}::test_what_is_secret_is_compared_in_constant_time",),
    ),
    Guard(
        "an old secret is compared in constant time, and in any case",
        KNOWN,
        "    return newer or older\n",
        "    return newer or hmac.compare_digest(proof, (record.good_old_hash(now) if record else None) or _NO_HASH)\n",
        (f"{OF_KEYS}::test_what_is_secret_is_compared_in_constant_time",),
    ),
    Guard(
        "a wrong secret is refused",
        KNOWN,
        "or not right or",
        "or",
        (f"{OF_KNOWN}::test_a_wrong_secret_is_not_believed_because_the_right_one_was",),
    ),
    Guard(
        "a key is good in its own environment only",
        KNOWN,
        " or record.environment != parsed.environment",
        "",
        (f"{OF_KEYS}::test_a_key_of_another_environment_is_unknown",),
    ),
    Guard(
        "a key and its hash are in no log line",
        KNOWN,
        "        self._used[record.public_id] = now\n",
        '        self._used[record.public_id] = now\n        log.info("key_used", header=header)\n',
        (f"{OF_KEYS}::test_no_log_line_holds_a_key_a_secret_a_question_or_a_text",),
    ),
    Guard(
        "a principal shows no hash",
        KNOWN,
        '    def __repr__(self) -> str:\n        return f"<Principal',
        '    def shown(self) -> str:\n        return f"<Principal',
        (f"{OF_KNOWN}::test_a_principal_shows_no_hash",),
    ),
    Guard(
        "nothing on its way keeps a key that is shown",
        KEYS_API,
        'NO_STORE = {"cache-control": "no-store"}',
        'NO_STORE = {"x-shown": "once"}',
        (f"{OF_ADMIN}::test_a_key_is_made_shown_once_and_works",),
    ),
)

_KEY_END = (
    Guard(
        "an expired key is refused",
        RECORDS,
        "self.revoked_at is None and (self.expires_at is None or now < self.expires_at)",
        "self.revoked_at is None",
        (
            f"{OF_KEYS}::test_a_key_is_good_until_the_moment_of_its_expiry",
            f"{OF_SCOPES}::test_no_route_opens_for_a_malformed_wrong_expired_or_revoked_key",
        ),
    ),
    Guard(
        "a revoked key is refused",
        RECORDS,
        "self.revoked_at is None and (self.expires_at is None or now < self.expires_at)",
        "self.expires_at is None or now < self.expires_at",
        (
            f"{OF_KNOWN}::test_a_revoked_key_stops_within_a_second",
            f"{OF_SCOPES}::test_no_route_opens_for_a_malformed_wrong_expired_or_revoked_key",
        ),
    ),
    Guard(
        "a key is believed for a second at most",
        KNOWN,
        "CACHE_S = 1.0",
        "CACHE_S = 10.0",
        (f"{OF_KNOWN}::test_a_revoked_key_stops_within_a_second",),
    ),
    Guard(
        "an old secret ends when it should",
        RECORDS,
        "return self.old_hash if self.old_until is None or now < self.old_until else None",
        "return self.old_hash",
        (
            f"{OF_KNOWN}::test_two_secrets_are_good_until_the_old_one_ends",
            f"{OF_ADMIN}::test_an_old_secret_is_kept_as_long_as_asked",
        ),
    ),
    Guard(
        "a key has two secrets at most",
        "gateway/tenants/keyring.py",
        "if key.good_old_hash(now) is not None:",
        "if now < 0:",
        (f"{OF_ADMIN}::test_a_rotated_key_has_two_secrets_until_the_old_one_is_ended",),
    ),
    Guard(
        "a revoked key stays revoked",
        "gateway/tenants/keyring.py",
        "            if key.revoked_at is not None:\n                raise Conflict(",
        "            if key.created_at < 0:\n                raise Conflict(",
        (f"{OF_ADMIN}::test_a_revoked_key_is_refused_for_good_and_still_listed",),
    ),
    Guard(
        "no change of a key undoes another",
        STORE,
        ".with_for_update()",
        "",
        (f"{OF_STORE}::test_no_change_of_a_key_is_lost_among_many_at_once",),
    ),
    Guard(
        "a question's stream ends with its key",
        CHAT,
        "await asyncio.wait((answering, gone, key_is_over), return_when",
        "await asyncio.wait((answering, gone), return_when",
        (f"{OF_STREAMS}::test_a_stream_of_a_revoked_key_ends_within_five_seconds_with_one_error_event",),
    ),
    Guard(
        "streams are looked at every second",
        STREAMS,
        "LOOK_EVERY_S = 1.0",
        "LOOK_EVERY_S = 10.0",
        (f"{OF_STREAMS}::test_a_stream_of_a_revoked_key_ends_within_five_seconds_with_one_error_event",),
    ),
    Guard(
        "a stream ends with the secret that began it",
        KNOWN,
        "return record is not None and record.lives(now) and _fits(record, principal.proof, now)",
        "return record is not None and record.lives(now)",
        (
            f"{OF_STREAMS}::test_a_stream_by_a_secret_that_was_replaced_ends_and_one_by_the_new_goes_on",
            f"{OF_KNOWN}::test_two_secrets_are_good_until_the_old_one_ends",
        ),
    ),
    Guard(
        "a stream ends with its key also while the store is away",
        KNOWN,
        "            record = known.record\n",
        "            return True\n",
        (f"{OF_STREAMS}::test_while_the_store_is_away_streams_go_on_and_those_of_expired_keys_end",),
    ),
    Guard(
        "a job's events end with the key",
        JOBS_API,
        "if key_is_over.done():",
        "if job_id is None:",
        (f"{OF_STREAMS}::test_a_jobs_events_end_with_the_key",),
    ),
)

_SCOPES = (
    Guard(
        "a route needs a key",
        DOORS,
        "super().__init__(app)\n        self._authenticator = authenticator",
        'super().__init__(app, exclude="/v1/models")\n        self._authenticator = authenticator',
        (f"{OF_SCOPES}::test_what_is_public_is_open_without_a_key_and_nothing_else_is",),
    ),
    Guard(
        "a route needs its scope",
        DOORS,
        '        principal.need(*connection.scope["route_handler"].opt.get(_NEEDS, ()))\n',
        "",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "a route that names no scope is shut",
        DOORS,
        "opt.get(_NEEDS, ())",
        f"opt.get(_NEEDS, ({ANY}))",
        (f"{OF_SCOPES}::test_a_route_that_names_no_scope_is_open_to_nobody",),
    ),
    Guard(
        "questions need `ask`",
        "gateway/app.py",
        'copy_scope=False, opt=needs("ask")',
        f"copy_scope=False, opt=needs({ANY})",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "the model needs `ask`",
        "gateway/api/system_api.py",
        'opt=needs("ask")',
        f"opt=needs({ANY})",
        (EACH_ROUTE,),
    ),
    Guard(
        "a dry run needs `ask`",
        ROUTING_API,
        'opt=needs("ask")',
        f"opt=needs({ANY})",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "fitting needs `write`",
        ROUTING_API,
        '@post("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write"))',
        f'@post("/v1/route/fit", status_code=200, tags=["routing"], opt=needs({ANY}))',
        (EACH_ROUTE,),
    ),
    Guard(
        "undoing a fit needs `write`",
        ROUTING_API,
        '@delete("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write"))',
        f'@delete("/v1/route/fit", status_code=200, tags=["routing"], opt=needs({ANY}))',
        (EACH_ROUTE,),
    ),
    Guard(
        "the list needs `read`",
        DOCUMENTS_API,
        '@get(opt=needs("read"))',
        f"@get(opt=needs({ANY}))",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "a document's view needs `read`",
        DOCUMENTS_API,
        '@get("/{document_id:str}", opt=needs("read"))',
        f'@get("/{{document_id:str}}", opt=needs({ANY}))',
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard("jobs need `read`", JOBS_API, 'opt = needs("read")', f"opt = needs({ANY})", (EACH_ROUTE, EACH_SCOPE)),
    Guard(
        "adding needs `write` or `share`",
        DOCUMENTS_API,
        '@post(opt=needs("write", "share"))',
        f"@post(opt=needs({ANY}))",
        (EACH_ROUTE,),
    ),
    Guard(
        "changing needs `write` or `share`",
        DOCUMENTS_API,
        '@patch("/{document_id:str}", opt=needs("write", "share"))',
        f'@patch("/{{document_id:str}}", opt=needs({ANY}))',
        (EACH_ROUTE, f"{OF_SCOPES}::test_a_missing_scope_tells_nothing_of_which_documents_there_are"),
    ),
    Guard(
        "removing needs `write` or `share`",
        DOCUMENTS_API,
        '@delete("/{document_id:str}", status_code=200, opt=needs("write", "share"))',
        f'@delete("/{{document_id:str}}", status_code=200, opt=needs({ANY}))',
        (EACH_ROUTE, f"{OF_SCOPES}::test_a_missing_scope_tells_nothing_of_which_documents_there_are"),
    ),
    Guard(
        "moving needs `write` or `share`",
        TIERS_API,
        'opt = needs("write", "share")',
        f"opt = needs({ANY})",
        (EACH_ROUTE,),
    ),
    Guard(
        "adding for all needs `share`, for the tenant `write`",
        DOCUMENTS_API,
        '    principal.need("share" if new.shared else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard(
        "changing what is everybody's needs `share`, the tenant's own `write`",
        DOCUMENTS_API,
        '    principal.need("share" if document.owner == SHARED else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard(
        "moving what is everybody's needs `share`, the tenant's own `write`",
        TIERS_API,
        '    principal.need("share" if document.owner == SHARED else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard("/admin/keys needs `admin`", KEYS_API, '    opt = needs("admin")\n', f"    opt = needs({ANY})\n", (EACH_ROUTE,)),
    Guard(
        "/admin/audit needs `admin`",
        KEYS_API,
        '@get("/admin/audit", tags=["audit"], opt=needs("admin"))',
        f'@get("/admin/audit", tags=["audit"], opt=needs({ANY}))',
        (EACH_ROUTE,),
    ),
    Guard(
        "the demo's key can't administer",
        "gateway/cli/serve.py",
        'DEMO_SCOPES = ("ask", "read", "write", "share")',
        f"DEMO_SCOPES = ({ANY})",
        (f"{OF_SERVE}::test_the_key_can_not_administer_and_its_making_is_in_the_audit_log",),
    ),
)

_ALL = "type(viewer)(viewer.tenant)"
_ALL_OF_PRINCIPAL = "type(principal.viewer)(principal.tenant)"
_LISTS = (
    Guard(
        "a list is narrowed to the key's documents",
        CATALOG,
        "if d.part is None and viewer.permits(d))",
        "if d.part is None)",
        (
            f"{OF_LISTS}::test_a_list_holds_what_the_key_is_narrowed_to",
            f"{OF_LISTS}::test_the_jobs_of_what_is_kept_from_the_key_are_not_there",
        ),
    ),
    Guard(
        "what is kept from the key is not found by its id",
        CATALOG,
        " or not viewer.permits(found)",
        "",
        (f"{OF_LISTS}::test_a_document_that_is_kept_from_the_key_is_answered_as_one_that_is_not_there",),
    ),
    Guard(
        "nor among several documents",
        CHAT,
        "find(principal.viewer, name) for name in request.named]",
        f"find({_ALL_OF_PRINCIPAL}, name) for name in request.named]",
        (f"{OF_LISTS}::test_a_document_that_is_kept_from_the_key_is_answered_as_one_that_is_not_there",),
    ),
    Guard(
        "a question is matched with the key's documents alone",
        VIEWS,
        "for d in catalog.visible_to(viewer)]\n        visible",
        f"for d in catalog.visible_to({_ALL})]\n        visible",
        (
            f"{OF_LISTS}::test_a_question_finds_only_what_the_key_may_see",
            f"{OF_LISTS}::test_a_dry_run_ranks_only_what_the_key_may_see",
            f"{OF_LISTS}::test_what_is_kept_from_the_key_changes_no_score",
        ),
    ),
    Guard(
        "a question is classified as the key's",
        CHAT,
        "self._shelf.catalog, principal.viewer, request.questions, leading",
        f"self._shelf.catalog, {_ALL_OF_PRINCIPAL}, request.questions, leading",
        (f"{OF_LISTS}::test_a_question_finds_only_what_the_key_may_see",),
    ),
    Guard(
        "a dry run is classified as the key's",
        ROUTING_API,
        "classifier.find(catalog, request.auth.viewer, turns)",
        "classifier.find(catalog, type(request.auth.viewer)(request.auth.tenant), turns)",
        (f"{OF_LISTS}::test_a_dry_run_ranks_only_what_the_key_may_see",),
    ),
    Guard(
        "an index with what is kept from the key since answers nobody",
        VIEWS,
        "if view is not None and _may_still_be_seen(view.index, catalog, viewer):",
        "if view is not None:",
        ("tests/gateway/test_views.py::test_an_index_with_a_removed_document_answers_nobody",),
    ),
    Guard(
        "indexes are not kept without limit",
        VIEWS,
        "if len(self._views) > VIEWERS_KEPT:",
        "if len(self._views) > VIEWERS_KEPT * 100:",
        ("tests/gateway/test_views.py::test_the_indexes_that_were_used_last_are_kept",),
    ),
    Guard(
        "a job of what is kept from the key is not found",
        JOBS_API,
        "    visible = shelf.catalog.visible_to(viewer)\n    for document in visible:",
        f"    visible = shelf.catalog.visible_to({_ALL})\n    for document in visible:",
        (f"{OF_LISTS}::test_the_jobs_of_what_is_kept_from_the_key_are_not_there",),
    ),
    Guard(
        "a text is put only where the key sees",
        DOCUMENTS_API,
        "if not _may_put(principal.viewer, document_id, before):",
        "if document_id is None:",
        (f"{OF_LISTS}::test_a_text_may_be_put_only_where_the_key_sees",),
    ),
    Guard(
        "a tag opens nothing new",
        DOCUMENTS_API,
        "(before is not None and viewer.permits(before))",
        "(before is None or viewer.permits(before))",
        (f"{OF_LISTS}::test_a_text_may_be_put_only_where_the_key_sees",),
    ),
    Guard(
        "routing is fitted by who sees all",
        ROUTING_API,
        "if principal.viewer.is_narrow:",
        "if principal.viewer is None:",
        (f"{OF_LISTS}::test_routing_is_not_fitted_by_a_key_that_sees_a_part",),
    ),
)

_AUDIT = (
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
        (f"{OF_AUDIT}::test_what_is_done_with_keys_is_told_with_who_and_from_where", "tests/gateway/cli/test_keys.py"),
    ),
    Guard(
        "adding a document is told of",
        DOCUMENTS_API,
        "retention=new.retention(), audit=(entry,))",
        "retention=new.retention())",
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
        ("tests/gateway/cli/test_keys.py::test_the_user_of_the_audit_log_is_not_the_environments",),
    ),
)

_SECRETS = (
    Guard(
        "a weak server secret is refused",
        CONFIG,
        "if len(secret) < MIN_SECRET_BYTES or len(set(secret)) < 8:",
        "if not secret:",
        (f"{OF_CONFIG}::test_a_weak_secret_is_refused_wherever_it_comes_from",),
    ),
    Guard(
        "a server secret that others can read is refused",
        CONFIG,
        "    if is_exposed(path):\n        raise ConfigError([f\"{path}: others can read the server's",
        "    if path is None:\n        raise ConfigError([f\"{path}: others can read the server's",
        (f"{OF_CONFIG}::test_a_secret_that_others_can_reach_is_refused",),
    ),
    Guard(
        "a server secret that is gone is not made anew",
        CONFIG,
        "        if problem := _lost_secret(config):\n            raise ConfigError([problem])\n",
        "",
        (f"{OF_CONFIG}::test_a_lost_secret_is_refused_rather_than_made_anew",),
    ),
    Guard(
        "the server's secret is made for its owner alone",
        CONFIG,
        "os.O_TRUNC, 0o600)",
        "os.O_TRUNC, 0o644)",
        (f"{OF_CONFIG}::test_the_secret_is_made_once_and_for_its_owner_alone",),
    ),
    Guard(
        "a disk tier's key that others can read is refused",
        "gateway/parts.py",
        "    if problems := key_file_problems(config):\n        raise ConfigError(problems)\n",
        "",
        ("tests/gateway/test_parts.py::test_no_gateway_starts_with_a_disk_tiers_key_that_others_can_read",),
    ),
    Guard(
        "an API key's file that others can read is refused",
        "gateway/cli/serve.py",
        "if is_exposed(path):",
        "if path is None:",
        (f"{OF_SERVE}::test_a_key_that_works_in_a_file_that_others_can_reach_is_refused_with_the_way_to_mend_it",),
    ),
    Guard(
        "an API key's file is made for its owner alone",
        "gateway/cli/key_file.py",
        "os.open(name, flags, 0o600)",
        "os.open(name, flags, 0o644)",
        (f"{OF_SERVE}::test_a_key_is_made_once_and_kept",),
    ),
)

GUARDS: tuple[Guard, ...] = (*_KEY_FORM, *_KEY_END, *_SCOPES, *_LISTS, *_AUDIT, *_SECRETS)
