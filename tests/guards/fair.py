"""Guards of fairness and of usage."""

from __future__ import annotations

from tests.guards import Guard

QUEUE = "tests/gateway/test_queue.py"
FULL = "tests/gateway/test_full_workers.py"

GUARDS = (
    Guard(
        "the tenant that was given least goes next, not the question that came first",
        "router/fairness.py",
        "if self.counter(tenant) <= least and among(tenant)]",
        "if among(tenant)]",
        (
            f"{FULL}::test_a_tenant_with_fifty_questions_does_not_keep_another_waiting",
            f"{QUEUE}::test_what_costs_more_is_asked_less_often",
            "tests/router/test_fairness.py",
        ),
    ),
    Guard(
        "slots that one tenant's flood can't take",
        "gateway/asking/queue.py",
        "while self._line and self._pool.has_room(beyond=SPARE):",
        "while False:",
        (
            f"{FULL}::test_a_tenant_with_fifty_questions_does_not_keep_another_waiting",
            f"{QUEUE}::test_beside_a_tenant_that_floods_anothers_first_token_takes_twice_as_long_at_most",
        ),
    ),
    Guard(
        "a tenant that has questions under way takes no spare slot",
        "gateway/asking/queue.py",
        "lambda tenant: tenant not in self._under_way",
        "lambda tenant: True",
        (f"{QUEUE}::test_one_tenant_alone_takes_none_of_the_spare_slots",),
    ),
    Guard(
        "of one tenant's many questions not all start at once while another asks",
        "router/fairness.py",
        "return alone or self._starting[tenant] < max(slots // STARTING_SHARE, 1)",
        "return True",
        (f"{QUEUE}::test_while_another_asks_too_a_tenants_questions_start_one_after_the_other", "tests/router/test_starts.py"),
    ),
    Guard(
        "who was away has saved nothing up",
        "router/fairness.py",
        "if (least := self._least()) > self.counter(tenant):",
        "if (least := 0.0) > self.counter(tenant):",
        ("tests/router/test_fairness.py::test_one_who_was_away_has_saved_nothing_up",),
    ),
    Guard(
        "tokens are charged as they come, and put right at the end",
        "gateway/asking/ticket.py",
        "self._queue.settle(self._bill, service(computed=computed, generated=usage.completion_tokens))",
        "pass",
        (f"{QUEUE}::test_what_was_believed_wrongly_is_put_right",),
    ),
    Guard(
        "the queue has a limit",
        "gateway/asking/queue.py",
        "if len(self) > self._max_waiting:",
        "if False:",
        (f"{FULL}::test_the_queues_limit_is_a_503_at_once", f"{QUEUE}::test_beyond_the_queues_limit_questions_are_refused_at_once"),
    ),
    Guard(
        "one tenant can't fill the queue for others",
        "gateway/asking/queue.py",
        "if self._waiting[tenant] > self._max_of_one:",
        "if False:",
        (
            f"{FULL}::test_a_tenants_share_of_the_queue_is_a_429_at_once_and_others_may_wait",
            f"{QUEUE}::test_one_tenant_cannot_fill_the_queue_for_others",
        ),
    ),
    Guard(
        "nobody waits longer than the deadline",
        "gateway/asking/ticket.py",
        "timer = loop.call_later(self._queue.max_wait_s - self.waited_s,",
        "timer = loop.call_later(3600 + self._queue.max_wait_s - self.waited_s,",
        (f"{QUEUE}::test_a_question_that_waited_as_long_as_it_may_is_refused",),
    ),
    Guard(
        "a client that leaves frees its place",
        "gateway/asking/ticket.py",
        "        self._queue.drop(self)\n",
        "",
        (
            "tests/gateway/test_queue_left.py::test_who_leaves_while_it_waits_frees_its_place_at_once",
            f"{FULL}::test_a_client_that_leaves_the_queue_is_never_asked_for",
        ),
    ),
    Guard(
        "a tenant's usage is not another's",
        "gateway/api/usage_api.py",
        "return await report(usage, since, until, request.auth.tenant, by, format)",
        "return await report(usage, since, until, request.query_params.get('tenant'), by, format)",
        ("tests/gateway/test_usage.py::test_a_tenant_sees_its_own_usage_and_nothing_of_anothers",),
    ),
    Guard(
        "usage needs its scope",
        "gateway/api/usage_api.py",
        'opt=needs("read")',
        'opt=needs("ask", "read", "write", "share", "admin")',
        ("tests/gateway/test_usage.py::test_what_is_needed_to_see_it",),
    ),
    Guard(
        "all tenants' usage is for operators",
        "gateway/api/admin_usage_api.py",
        'opt=needs("admin")',
        'opt=needs("ask", "read", "write", "share", "admin")',
        ("tests/gateway/test_usage.py::test_what_is_needed_to_see_it",),
    ),
    Guard(
        "no cell of a table is a formula",
        "gateway/tenants/usage_report.py",
        'return f"\'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value',
        "return value",
        ("tests/gateway/tenants/test_usage.py::test_no_cell_is_a_formula",),
    ),
    Guard(
        "a report has an end",
        "gateway/tenants/usage_report.py",
        "if len(rows) > MOST:",
        "if False:",
        ("tests/gateway/tenants/test_usage.py::test_a_report_of_too_many_rows_is_refused",),
    ),
)
