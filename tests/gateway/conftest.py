from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ingestion import ingestion, reader
from tests.fakes.gateway import Gateway


@pytest.fixture(autouse=True)
def prompt_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that has to try again does so soon: nothing here is the sooner well for being left alone for seconds."""
    monkeypatch.setattr(ingestion, "RETRY_S", 0.05)
    monkeypatch.setattr(ingestion, "ROOM_RETRY_S", 0.1)
    monkeypatch.setattr(reader, "RETRY_S", 0.05)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A running gateway with one worker and the key of `tenant-a`."""
    async with Gateway(tmp_path).running() as running:
        yield running
