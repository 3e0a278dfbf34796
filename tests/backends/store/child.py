"""Another process with a store, for `test_processes.py`: it says on stdout how far it has come."""

from __future__ import annotations

import asyncio
import itertools
import sys

from backends.store.sql_store import SqlStore
from tests.backends.store.samples import CONTENT, document, version


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def add_for_ever(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    for n in itertools.count():
        await store.add_version(document(f"d{n}", current=version(f"v{n}")), version(f"v{n}"), CONTENT)
        say(f"v{n}")


async def open_when_told(url: str, name: str) -> None:
    store = SqlStore(url)
    say("waiting")
    sys.stdin.readline()
    await store.open()
    await store.put_document(document(name))
    await store.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["add", url]:
            asyncio.run(add_for_ever(url))
        case ["open", url, name]:
            asyncio.run(open_when_told(url, name))
