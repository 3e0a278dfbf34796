"""Health and the small routes beside documents and questions."""

from __future__ import annotations

from tests.fakes.gateway import Gateway


async def test_ready_says_what_is_wrong_with_what(gateway: Gateway) -> None:
    assert await gateway.json("GET", "/health/ready") == {"status": "ready", "workers_healthy": 1, "workers": 1, "problems": {}}
