"""A gateway whose every opening of a file is recorded while it is sent ids that want to be paths: for `test_hostile_ids.py`.

usage: opened.py FOLDER COUNT    stdout: JSON, what was opened after the start and the statuses of the answers
A process of its own, since an audit hook can't be taken out again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from yarl import URL

from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from backends.store.sql_store import SqlStore
from gateway.shelf.catalog_file import load
from gateway.strict_yaml import ConfigError
from tests.fakes.gateway import Gateway
from tests.gateway.catalog import LEASE

FILES = {
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "glob.glob", "pathlib.Path.glob", "shutil.copyfile", "shutil.rmtree", "sqlite3.connect"),
    *("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "tempfile.mkstemp", "tempfile.mkdtemp"),
}
PARTS = (
    *(
        "../",
        "..\\",
        "..;/",
        "....//",
        "/",
        "\\",
        "//",
        "%2e%2e%2f",
        "%252e%252e%252f",
        "..%c0%af",
        "..%00/",
        "\0",
        "%00",
        "\n",
        "\r\n",
    ),
    *(
        "/etc/passwd",
        "etc/passwd",
        "/proc/self/environ",
        "C:\\windows\\win.ini",
        "\\\\server\\share\\x",
        "file:///etc/passwd",
        "//host/x",
    ),
    *("．．／", "‥/", "∕", "⁄", "。。/", "\u202e", "\u200b", "ｅｔｃ", "\ud800", "\ufeff", "é", "e\u0301", "İ", "ß", "𝐚"),
    *(
        "~root/",
        "$HOME/",
        "${PATH}",
        "`id`",
        "$(id)",
        "; ls",
        "| cat",
        "{{7*7}}",
        "{0.__class__}",
        "%s%n",
        "' OR 1=1 --",
        '"; DROP TABLE',
    ),
    *(
        ".",
        "..",
        "",
        " ",
        "*",
        "?",
        "#",
        "-rf",
        "con",
        "nul",
        "secret",
        "kvshelf.db",
        "demo-key",
        ".git/config",
        "lease",
        "lease#",
        "__init__",
    ),
    *("a" * 101, "a" * 255, "a" * 5000, "../" * 40),
)


def hostile(count: int) -> Iterator[str]:
    """Different ones, the same each time."""
    rng, seen = random.Random(7), set[str]()  # noqa: S311
    while len(seen) < count:
        made = "".join(rng.choices(PARTS, k=rng.choice((1, 2, 2, 3, 4))))
        if made not in seen:
            seen.add(made)
            yield made


async def send(gateway: Gateway, number: int, made: str, statuses: Counter[int]) -> None:
    """Through every route that takes an id, as it is, and encoded once and twice."""
    once = quote(made, safe="", errors="surrogatepass")
    segment = (once, quote(once, safe=""), quote(made, safe="/\\.;", errors="surrogatepass"))[number % 3]
    plain = made.encode("utf-8", "replace").decode()
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": plain}], "max_tokens": 1}
    requests: list[tuple[str, str, Any]] = [
        ("GET", f"/v1/documents/{segment}", None),
        ("PATCH", f"/v1/documents/{segment}", {"title": "x"}),
        ("DELETE", f"/v1/documents/{segment}", None),
        ("POST", f"/v1/documents/{segment}/warm", {"tier": "gpu", "worker": plain}),
        ("POST", f"/v1/documents/{segment}/evict", {"tier": "all"}),
        ("POST", "/v1/documents/lease/warm", {"tier": "ram", "host": plain}),
        ("GET", f"/v1/jobs/{segment}", None),
        ("GET", f"/v1/jobs/{segment}/events", None),
        ("POST", f"/v1/documents?id={once}", None),
        ("POST", "/v1/documents", {"id": plain, "text": "Words."}),
        ("POST", "/v1/chat/completions", {**asked, "document": plain}),
        ("POST", "/v1/chat/completions", {**asked, "model": plain}),
        ("POST", "/v1/route/fit", {"questions": [{"question": "x", "document": plain}]}),
    ]
    # Each id goes to three of them; each of them gets over a thousand ids.
    for method, path, body in (requests[(number * 3 + step) % len(requests)] for step in range(3)):
        async with gateway.session.request(
            method, URL(gateway.url + path, encoded=True), json=body, headers={"authorization": f"Bearer {gateway.key}"}
        ) as response:
            await response.read()
            statuses[response.status] += 1
    secret = f"kvs_live_{plain[:100]}_{'0' * 64}"
    key = (secret + hashlib.sha256(secret.encode()).hexdigest()[:8]).encode("latin-1", "ignore").decode("latin-1")
    if key.isprintable():
        async with gateway.session.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"}) as response:
            statuses[response.status] += 1


async def main(folder: Path, count: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    opened: set[tuple[str, str]] = set()
    statuses: Counter[int] = Counter()
    taken: list[str] = []
    recording = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if recording and event in FILES and not isinstance(arguments[0], int):
            opened.add((event, repr(arguments[0])))

    sys.addaudithook(hook)
    data, catalog = folder / "data", folder / "catalog.yaml"
    (folder / "lease.md").write_text(LEASE)
    catalog.write_text("documents: []\n")
    store = SqlStore(f"sqlite+aiosqlite:///{data / 'kvshelf.db'}")
    async with Gateway(data, store=store, catalog=catalog).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await gateway.ask("What is the deposit?", document="lease")
        recording = True
        ids = list(hostile(count))
        for start in range(0, count, 16):
            await asyncio.gather(*(send(gateway, start + at, one, statuses) for at, one in enumerate(ids[start : start + 16])))
        for one in ids:  # as ids and tenants of a catalog file, too
            for entry in ({"id": one, "file": "lease.md"}, {"id": "lease", "file": "lease.md", "tenant": one or "*"}):
                catalog.write_text(f"documents: {json.dumps([entry])}\n")
                with suppress(ConfigError):
                    await load(catalog, Extractor(Extraction()))
                    taken.append(one)
        taken += [document["id"] for document in (await gateway.json("GET", "/v1/documents"))["data"]]
        with suppress(OSError):  # a hook that records nothing would find nothing either
            (folder.parent / "outside").read_bytes()
    recording = False
    print(json.dumps({"opened": sorted(opened), "statuses": statuses, "taken": taken}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve(), int(sys.argv[2])))
