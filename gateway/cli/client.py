"""The gateway as a command sees it: HTTP with a key, its errors as sentences, its server-sent events as values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import aiohttp
import rich_click as click

from gateway.cli import key_file as key_files
from router.characters import escaped

DEFAULT_URL = "http://127.0.0.1:8000"
DEMO_KEY = Path(".kvshelf/demo-key")
"""Where `make up` leaves its key: commands run beside it need no other."""

P = ParamSpec("P")


class Client:
    """Raises ClickException for everything that is not a success."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"}
        self._session = session

    async def json(self, method: str, path: str, **more: Any) -> Any:
        async with self.request(method, path, **more) as response:
            return await response.json()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(
                method, self.url + path, headers={**self._headers, **(headers or {})}, **more
            ) as response:
                if response.status >= 400:
                    raise click.ClickException(_words(response.status, await response.text()))
                yield response
        except aiohttp.ClientConnectionError as error:
            raise click.ClickException(
                f"No gateway answers at {self.url} ({error}). Is `kvshelf up` or `kvshelf serve` running?"
            ) from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise click.ClickException(f"{self.url!r} is no gateway's address; give one like {DEFAULT_URL}.") from error
        except aiohttp.ClientPayloadError as error:
            raise click.ClickException(f"The gateway at {self.url} broke off in the middle of its answer.") from error

    async def events(self, path: str, **more: Any) -> AsyncIterator[tuple[str, Any]]:
        """(event, data) of a stream of server-sent events; data decoded, but for `[DONE]`."""
        async with self.request("GET" if "json" not in more else "POST", path, **more) as response:
            async for event in read_events(response):
                yield event


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    event = "message"
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, value if value == "[DONE]" else json.loads(value)
            event = "message"


def connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--url` and the key's options; the command gets `url`, `key` and `key_file`."""
    for option in reversed(
        (
            click.option("--url", envvar="KVSHELF_URL", default=DEFAULT_URL, show_default=True, help="The gateway (KVSHELF_URL)."),
            click.option("--key", envvar="KVSHELF_KEY", help="The API key (better: KVSHELF_KEY, which other users don't see)."),
            click.option(
                "--key-file",
                type=click.Path(path_type=Path),
                default=DEMO_KEY,
                show_default=True,
                help="A file that holds the key.",
            ),
        )
    ):
        command = option(command)
    return command


@asynccontextmanager
async def connect(url: str, key: str | None, key_file: Path) -> AsyncIterator[Client]:
    """Raises ClickException where there is no key."""
    if key is None:
        try:
            key = await key_files.read(key_file)
        except FileNotFoundError as error:
            raise click.ClickException(f"No API key: set KVSHELF_KEY, or give --key-file ({key_file} is not there).") from error
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"--key-file: {key_file} can't be read ({error}).") from error
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as session:
        yield Client(url, key, session)


def connected(command: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Adds `--url` and the key's options to a command whose first parameter is a Client, and runs it."""

    @connection
    @wraps(command)
    def run(url: str, key: str | None, key_file: Path, **more: Any) -> None:
        async def main() -> None:
            async with connect(url, key, key_file) as client:
                await command(client, **more)

        try:
            asyncio.run(main())
        except click.UsageError:
            raise
        except click.ClickException as error:  # what the gateway says may quote anybody
            raise click.ClickException(escaped(error.message)) from error

    return run


def _words(status: int, text: str) -> str:
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return f"{status}: {text[:300]}"
    candidates = "".join(f"\n  {c['score']:.2f}  {c['document']}  ({c['title']})" for c in error.get("candidates", ()))
    return f"{error['message']}{candidates}"
