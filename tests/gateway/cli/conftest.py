"""Commands as a person runs them: against a running gateway over fakes, in a thread, as each brings its own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import structlog
from click.testing import CliRunner, Result

from gateway.__main__ import main
from tests.fakes.gateway import Gateway

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture(scope="module")
async def library(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One gateway for a file's tests. It holds a lease and an expense policy."""
    async with Gateway(tmp_path_factory.mktemp("library")).running() as running:
        await running.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        await running.add("# Expenses\n\nTaxis need a receipt.", id="expenses")
        yield running


@pytest.fixture
def quiet() -> Iterator[None]:
    """The gateway's log lines go nowhere: it runs in this process, whose output is the command's here."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def cli(library: Gateway, quiet: None) -> Cli:
    """`await cli("ask", "why?")`: the command's result, with the gateway's address and key in its environment."""

    async def run(*arguments: str, **environment: str | None) -> Result:
        env = {"KVSHELF_URL": library.url, "KVSHELF_KEY": library.key, "COLUMNS": "200", **environment}
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)

    return run
