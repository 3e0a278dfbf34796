"""Around what a tenant's documents may take of RAM."""

from __future__ import annotations

from tests.guards import Guard

QUOTA = "tests/gateway/test_ram_quota.py"
KEEPER = "gateway/tiers/ram_keeper.py"

GUARDS = (
    Guard(
        "a tenant's documents beyond its limit leave RAM",
        KEEPER,
        "        await self._keep_limits(host, None, {})\n",
        "",
        (f"{QUOTA}::test_beyond_its_limit_a_tenants_least_worthy_leave_for_the_disk_and_nobody_elses",),
    ),
    Guard(
        "before a limited tenant's document comes to RAM its own go",
        KEEPER,
        "await self._keep_limits(host, (found[0].owner,), coming)",
        "pass",
        (f"{QUOTA}::test_before_a_limited_tenants_document_comes_its_own_go_and_nobody_elses",),
    ),
    Guard(
        "for a tenant's share of RAM nobody else's documents leave",
        "router/shares.py",
        "return key not in self._keys or key in self._exempt",
        "return key in self._exempt",
        (f"{QUOTA}::test_beyond_its_limit_a_tenants_least_worthy_leave_for_the_disk_and_nobody_elses",),
    ),
    Guard(
        "what is beyond its tenant's limit makes room before what is within",
        KEEPER,
        "for share, need_bytes in self._beyond(host, None, {}).values():",
        "for share, need_bytes in ():",
        (f"{QUOTA}::test_what_is_beyond_its_tenants_limit_makes_room_for_others_before_anything_else",),
    ),
    Guard(
        "what is asked while others leave for a limit stays",
        KEEPER,
        "if self._beyond(host, (owner,), coming) and salt not in self.exempt(*coming):",
        "if self._beyond(host, (owner,), coming):",
        (f"{QUOTA}::test_what_is_asked_or_pinned_while_others_leave_stays_and_a_limit_that_is_raised_holds_at_once",),
    ),
    Guard(
        "nothing is brought ahead beyond a tenant's limit",
        "router/promotions.py",
        "                if own_bytes < size_bytes - share.room_bytes:\n                    continue\n",
        "",
        (
            f"{QUOTA}::test_what_is_likely_or_pinned_is_brought_within_the_limit_alone",
            "tests/router/test_promotions_shares.py",
        ),
    ),
    Guard(
        "what is brought ahead is planned by its tenant's limit",
        "gateway/upkeep/prefetcher.py",
        "            shares={str(owner): share for owner, share in self._quotas.shares(host, owners).items()},\n",
        "",
        (f"{QUOTA}::test_through_the_gateway_one_that_is_too_large_is_answered_and_does_not_come_and_go",),
    ),
)
