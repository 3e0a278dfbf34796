"""Keys: their form, what is kept of them, and that they end. What they open is in `scopes.py`, what they see in `allow_lists.py`."""

from __future__ import annotations

from tests.guards import Guard

KEYS, KNOWN, RECORDS = "gateway/tenants/keys.py", "gateway/tenants/authenticator.py", "backends/records.py"
KEYRING, CHAT, STORE = "gateway/tenants/keyring.py", "gateway/api/chat.py", "backends/store/sql_store.py"

TESTS = "tests/gateway/tenants"
OF_KEYS, OF_KNOWN, OF_STREAMS = f"{TESTS}/test_keys.py", f"{TESTS}/test_authenticator.py", f"{TESTS}/test_streams.py"
OF_ADMIN, OF_SCOPES = f"{TESTS}/test_admin_keys.py", f"{TESTS}/test_scopes.py"
OF_STORE = "tests/backends/store/test_contract_keys.py"

GUARDS: tuple[Guard, ...] = (
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
        "record is not None and fits and record.lives(now)",
        "record is not None and record.lives(now)",
        (f"{OF_KNOWN}::test_a_wrong_secret_is_not_believed_because_the_right_one_was",),
    ),
    Guard(
        "a key is good in its own environment only",
        KNOWN,
        " and record.environment == environment",
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
        "gateway/edge/door.py",
        '    (b"cache-control", b"no-store"),\n',
        "",
        (f"{OF_ADMIN}::test_a_key_is_made_shown_once_and_works",),
    ),
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
        KEYRING,
        "if key.good_old_hash(now) is not None:",
        "if now < 0:",
        (f"{OF_ADMIN}::test_a_rotated_key_has_two_secrets_until_the_old_one_is_ended",),
    ),
    Guard(
        "a revoked key stays revoked",
        KEYRING,
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
        "gateway/tenants/streams.py",
        "LOOK_EVERY_S = 1.0",
        "LOOK_EVERY_S = 10.0",
        (f"{OF_STREAMS}::test_a_stream_of_a_revoked_key_ends_within_five_seconds_with_one_error_event",),
    ),
    Guard(
        "a stream ends with the secret that began it",
        KNOWN,
        "_is_good(record, record.environment, principal.proof, self._now())",
        "record.lives(self._now())",
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
        "gateway/api/jobs_api.py",
        "if key_is_over.done():",
        "if job_id is None:",
        (f"{OF_STREAMS}::test_a_jobs_events_end_with_the_key",),
    ),
)
