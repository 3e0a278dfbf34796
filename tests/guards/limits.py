"""Around what tenants and keys may use."""

from __future__ import annotations

from tests.guards import Guard

LIMITS = "tests/gateway/test_limits.py"
SETTLED = "tests/gateway/test_limits_settled.py"
READINGS = "tests/gateway/test_limits_readings.py"

GUARDS = (
    Guard(
        "requests are limited on every route with a key",
        "gateway/app.py",
        "            DefineMiddleware(LimitsMiddleware, limiter=graph.limiter),\n",
        "",
        (f"{LIMITS}::test_requests_are_counted_on_every_route_and_told",),
    ),
    Guard(
        "never more than a limit is taken",
        "router/limits.py",
        "return charge.amount > 0 and self.measured(charge.window, now) + charge.amount > charge.limit",
        "return False",
        (f"{LIMITS}::test_of_100_at_once_no_more_than_allowed_are_let_in", "tests/router/test_counts.py"),
    ),
    Guard(
        "a minute has no boundary to wait for",
        "router/limits.py",
        "return self.current + math.ceil(self.before * window.share_before(now) - ROUNDING)",
        "return self.current",
        (f"{LIMITS}::test_a_minute_slides",),
    ),
    Guard(
        "a tenant's limits hold for its keys together",
        "gateway/tenants/limiter.py",
        "if of_tenant.rated:",
        "if False:",
        (f"{LIMITS}::test_all_keys_of_a_tenant_share_its_limit_and_each_has_its_own",),
    ),
    Guard(
        "a key's own limits hold",
        "gateway/tenants/limiter.py",
        "if of_key.rated:",
        "if False:",
        (f"{LIMITS}::test_all_keys_of_a_tenant_share_its_limit_and_each_has_its_own",),
    ),
    Guard(
        "where one limit has no room the others are not charged",
        "router/counts.py",
        "                return Taken(used, number)\n",
        "                for other in charges[:number]:\n"
        "                    self._rolled(other.account, other.window).current += other.amount\n"
        "                return Taken(used, number)\n",
        ("tests/router/test_counts.py", f"{LIMITS}::test_all_keys_of_a_tenant_share_its_limit_and_each_has_its_own"),
    ),
    Guard(
        "questions under way are limited",
        "gateway/tenants/counters.py",
        "if self._streams[account] >= limit:",
        "if False:",
        (f"{LIMITS}::test_of_100_at_once_no_more_than_allowed_are_let_in[limits1]",),
    ),
    Guard(
        "a question's place is free again when it is over",
        "gateway/tenants/counters.py",
        "            self._streams[account] -= 1\n",
        "            pass\n",
        (f"{SETTLED}::test_a_client_that_leaves_before_the_first_token_pays_nothing",),
    ),
    Guard(
        "tokens are reserved before a question is sent",
        "gateway/asking/asker.py",
        "hold = await course.admission.reserve(expected, laid_out.max_tokens)",
        "None",
        (f"{LIMITS}::test_a_question_beyond_the_tokens_takes_nothing",),
    ),
    Guard(
        "a whole prompt is reserved where its document is cold",
        "gateway/asking/asker.py",
        "(0 if self._is_held(laid_out) else laid_out.version.prefix_tokens)",
        "0",
        (f"{SETTLED}::test_a_cold_question_pays_for_the_document",),
    ),
    Guard(
        "what is settled is what the usage says",
        "gateway/asking/course.py",
        "return max(taken.prompt_tokens - taken.cached_tokens, 0) + taken.completion_tokens",
        "return taken.prompt_tokens + taken.completion_tokens",
        (f"{SETTLED}::test_what_was_reserved_is_settled_by_the_usage",),
    ),
    Guard(
        "who leaves midway pays for what was generated",
        "gateway/asking/course.py",
        "        return Usage(self.prompt_tokens, self.generated, self.believed_tokens)\n",
        "        return Usage()\n",
        (f"{SETTLED}::test_a_client_that_leaves_midway_pays_for_what_was_generated",),
    ),
    Guard(
        "who leaves before the first token pays nothing",
        "gateway/asking/course.py",
        "if self.usage.prompt_tokens or self.first_token_s is None:",
        "if self.usage.prompt_tokens:",
        (f"{SETTLED}::test_what_a_question_has_spent_at_its_end",),
    ),
    Guard(
        "who adds a document pays for its reading, before it is stored",
        "gateway/api/documents_api.py",
        "            payer=admission_of(request.scope),\n",
        "",
        (f"{READINGS}::test_what_the_budget_has_no_room_for_is_refused_with_the_numbers_and_nothing_is_stored",),
    ),
    Guard(
        "volumes are paid for together",
        "gateway/shelf/volumes.py",
        "prepaid(payer, sum(tokens.values()))",
        "prepaid(payer, 0)",
        (f"{READINGS}::test_volumes_are_paid_for_together_and_each_once",),
    ),
    Guard(
        "what was read of a document that went stays charged",
        "gateway/shelf/charges.py",
        "charged.hold.settle(charged.read_tokens)",
        "charged.hold.settle(0)",
        (f"{READINGS}::test_what_was_not_read_when_it_went_is_given_back", "tests/gateway/test_charges.py"),
    ),
    Guard(
        "the segment under way is paid for, though nobody wants it any more",
        "gateway/shelf/charges.py",
        " and version_id not in self._under_way",
        "",
        (f"{READINGS}::test_posting_again_and_again_pays_for_every_beginning",),
    ),
    Guard(
        "a restart gives no reading back",
        "gateway/tenants/limiter.py",
        "return Hold(counters, charges, shared=shared, spent=True)",
        "return Hold(counters, charges, shared=shared)",
        (f"{READINGS}::test_after_a_restart_it_stays_charged",),
    ),
    Guard(
        "what came to nothing takes no request",
        "gateway/api/chat.py",
        "                    admission.refund()\n",
        "                    pass\n",
        (f"{SETTLED}::test_a_question_that_its_worker_fails_costs_nothing",),
    ),
    Guard(
        "a question beyond the streams takes no request",
        "gateway/tenants/limiter.py",
        "            self.refund()\n            raise",
        "            raise",
        (f"{LIMITS}::test_a_question_beyond_the_streams_takes_no_request",),
    ),
    Guard(
        "a wrong question stays a request",
        "gateway/api/chat.py",
        "and 400 <= status_of(error)[0] < 429",
        "and False",
        (f"{SETTLED}::test_a_question_that_is_wrong_takes_a_request_and_no_tokens",),
    ),
    Guard(
        "a budget outlasts a restart",
        "gateway/graph.py",
        "        await counters.load()\n",
        "",
        ("tests/gateway/test_limits_file.py::test_a_budget_outlasts_a_restart_and_ends_with_its_day",),
    ),
    Guard(
        "several gateways take all or nothing together",
        "backends/shared_counts.py",
        "if refused == 0 and amount > 0 and counted + amount > limit then refused = i end",
        "",
        ("tests/backends/test_shared_counts.py::test_two_gateways_let_in_no_more_than_allowed_together",),
    ),
    Guard(
        "a killed gateway's questions are forgotten",
        "backends/shared_counts.py",
        "    redis.call('zremrangebyscore', KEYS[i], '-inf', ARGV[1])\n",
        "",
        ("tests/backends/test_shared_counts.py::test_questions_under_way_are_leases_that_expire",),
    ),
    Guard(
        "who leaves while the storage is asked has taken nothing",
        "gateway/tenants/counters.py",
        "                taking.add_done_callback(lambda done: self._give_back_late(done, charges))\n",
        "",
        ("tests/gateway/tenants/test_counters.py::test_who_leaves_while_the_storage_is_asked_has_taken_nothing",),
    ),
    Guard(
        "a tenant's documents are counted before one is stored",
        "gateway/tenants/quotas.py",
        "if len(there) >= limit:",
        "if False:",
        ("tests/gateway/test_documents_quota.py::test_one_too_many_is_refused_with_both_numbers_and_room_is_made_by_removing",),
    ),
    Guard(
        "documents that are being added count",
        "gateway/tenants/quotas.py",
        "documents_of(catalog, owner) | set(coming)",
        "documents_of(catalog, owner)",
        ("tests/gateway/test_documents_quota.py::test_of_100_at_once_no_more_than_allowed_are_taken_in",),
    ),
    Guard(
        "a tenant's disk has a quota",
        "gateway/tiers/disk_keeper.py",
        "return (owner, None) if owner is not None and self._quota_bytes(owner) is not None else (None,)",
        "return (None,)",
        ("tests/gateway/test_disk_quota.py",),
    ),
    Guard(
        "for a tenant's quota nobody else's documents leave",
        "gateway/tiers/disk_keeper.py",
        "            if whose is not None and not _is_of(catalog, salt, whose):\n                continue\n",
        "",
        ("tests/gateway/test_disk_quota.py::test_beyond_its_quota_a_tenants_least_recently_used_leaves_and_nobody_elses",),
    ),
    Guard(
        "other tenants' use is for operators alone",
        "gateway/api/admin_tenants_api.py",
        'opt=needs("admin")',
        'opt=needs("ask", "read", "write", "share", "admin")',
        ("tests/gateway/test_limits_file.py::test_only_a_key_for_operators_sees_the_tenants",),
    ),
)
