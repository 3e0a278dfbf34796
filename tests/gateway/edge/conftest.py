"""The small application that bytes are sent to, with the limits of the module that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.fakes.gateway import serving
from tests.gateway.edge.wire import small_app


class Small(NamedTuple):
    url: str
    seen: list[str]


@pytest.fixture
async def small(request: pytest.FixtureRequest) -> AsyncIterator[Small]:
    """Within the module's own `LIMITS`."""
    app, seen = small_app(request.module.LIMITS)
    async with serving(app) as url:
        yield Small(url, seen)
