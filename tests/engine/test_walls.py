"""Two tenants on the real engine: nothing of the one's KV is met by the other, and no answer takes longer for what the other has."""

from __future__ import annotations

import secrets

import pytest

from router.documents import Salt
from tests.engine import walls
from tests.engine.conftest import RealGateway
from tests.engine.walls import Two, asked, cold, compared, computed, hit, prefix_of, shown, version_of

SAMPLES = 250
FEWER = 20
"""Where each takes a reading."""
CHANCE = 1e-3
"""Less likely than this, and the two differ."""


@pytest.fixture(scope="module")
async def two(engine: RealGateway) -> Two:
    return await walls.two(engine)


async def test_the_others_identical_document_is_no_hit_and_ones_own_is(two: Two) -> None:
    gateway = two.gateway
    mine, theirs = await version_of(gateway, "tenant-a", "rules-mine"), await version_of(gateway, "tenant-b", "rules-warm")
    ids = await prefix_of(gateway, mine)
    assert ids == await prefix_of(gateway, theirs)
    assert mine.salt != theirs.salt
    _, with_another = await computed(gateway, ids, Salt(secrets.token_hex(32)))
    assert with_another == 0
    for version in (mine, theirs):
        _, with_its_own = await computed(gateway, ids, version.salt)
        assert with_its_own >= version.prefix_tokens


async def test_a_forbidden_document_takes_no_longer_than_an_unknown_one(two: Two) -> None:
    gateway, a = two.gateway, two.a
    for of in (asked, shown):
        found = await compared(of(gateway, "rules-warm", key=a, status=404), of(gateway, "rules-worn", key=a, status=404), SAMPLES)
        assert found.p_value > CHANCE, found
    control = await compared(
        shown(gateway, "rules-mine", key=a, status=200), shown(gateway, "rules-worn", key=a, status=404), SAMPLES
    )
    assert control.p_value < CHANCE


async def test_anothers_warm_document_takes_no_longer_than_its_cold_one(two: Two) -> None:
    gateway, a = two.gateway, two.a
    found = await compared(
        asked(gateway, "rules-warm", key=a, status=404), asked(gateway, "rules-cold", key=a, status=404), SAMPLES
    )
    assert found.p_value > CHANCE, found
    control = await compared(
        asked(gateway, "rules-mine", key=a, status=200), asked(gateway, "rules-mine", key=a, status=200, bypass=True), 12
    )
    assert control.p_value < CHANCE


async def test_reading_what_another_has_read_takes_as_long_as_what_nobody_has(two: Two) -> None:
    gateway = two.gateway
    theirs = (await prefix_of(gateway, await version_of(gateway, "tenant-b", "rules-warm")))[: gateway.config.engine.chunk_tokens]
    nobodys = theirs[::-1]
    found = await compared(cold(gateway, theirs), cold(gateway, nobodys), FEWER)
    assert found.p_value > CHANCE, found
    salt = (await version_of(gateway, "tenant-b", "rules-warm")).salt
    control = await compared(hit(gateway, theirs, salt), cold(gateway, nobodys), FEWER)
    assert control.p_value < CHANCE
