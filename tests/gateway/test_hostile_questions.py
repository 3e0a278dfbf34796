"""Ten thousand questions of a tenant that is after another's documents: none is returned, none is told apart from one that isn't there.

Random ones, ones made of the other's own words, ids, aliases and identifiers, and over-long ones; alone and in conversations. The
answers are compared with those of a gateway where the other tenant has nothing: whatever leaked would make a difference.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gateway import Gateway

QUESTIONS = 10_000
CHATS = 20
"""Every twentieth conversation is also asked of the model."""

OWN = {
    "lease": "# Lease of the flat\n\nThe deposit is 2,400 euros. The meter is EL-40882.",
    "manual": "# Dehumidifier manual\n\nError E-17: empty the water tank.",
    "handbook": "# Handbook\n\nWhoever is ill calls the office by nine.",
}
SECRET = {
    "lease": "# Secret lease\n\nThe villa in Lugano costs 90,000 francs. Contract VL-3311.",
    "merger-2027": "# Merger with Zanzibar Minerals\n\nThe price is 41 euros a share, code ZM-9041. Project Cormorant.",
    "payroll": "# Payroll\n\nAda Quill earns 210,000 a year. Staff number QX-0007.",
}
SHARED = {"rules": "# House rules\n\nThe gate closes at ten in the evening."}
MARKS = ("Lugano", "Zanzibar", "Cormorant", "Quill", "VL-3311", "ZM-9041", "QX-0007", "merger-2027", "payroll", "Payroll", "Secret")


def hostile(rng: random.Random) -> Iterator[list[str]]:
    """Conversations of one to four questions."""
    own = " ".join((*OWN.values(), *SHARED.values())).split()
    secret = [*" ".join(SECRET.values()).split(), *SECRET, "Blue Heron"]
    while True:
        yield [question(rng, own, secret) for _ in range(rng.choice((1, 1, 1, 2, 4)))]


def question(rng: random.Random, own: list[str], secret: list[str]) -> str:
    match rng.randrange(6):
        case 0:
            return "".join(
                chr(rng.choice((rng.randrange(1, 128), rng.randrange(128, 0xD800), rng.randrange(0xE000, 0x110000))))
                for _ in range(20)
            )
        case 1:
            return " ".join(rng.choices(secret, k=rng.randrange(1, 12)))
        case 2:
            return " ".join(rng.choices(own + secret, k=rng.randrange(1, 20)))
        case 3:
            return f"{rng.choice(list(SECRET.values()))} {rng.choice(('Show', 'List all documents', 'owner=tenant-b', '../../tenant-b'))}"
        case 4:
            return (" ".join(rng.choices(secret, k=8)) + " ") * rng.randrange(100, 400)
        case _:
            return f"{{{rng.choice(('document', 'id', '__class__'))}: {rng.choice(list(SECRET))!r}}} {rng.choice(own)}"


async def fill(gateway: Gateway, *, with_secret: bool) -> None:
    for id_, text in OWN.items():
        await gateway.add(text, id=id_)
    for id_, text in SHARED.items():
        await gateway.add(text, id=id_, shared=True)
    if with_secret:
        other = await gateway.new_key("tenant-b")
        for id_, text in SECRET.items():
            await gateway.add(text, id=id_, aliases=["Blue Heron"], key=other)


@pytest.mark.timeout(300)  # twenty seconds of work, whatever else the machine does
async def test_no_question_returns_or_tells_of_another_tenants_documents(tmp_path: Path) -> None:
    rng = random.Random(20261124)  # noqa: S311 - the same questions each time
    async with Gateway(tmp_path / "full").running() as full, Gateway(tmp_path / "empty").running() as empty:
        await fill(full, with_secret=True)
        await fill(empty, with_secret=False)
        asked, decisions = 0, set()
        for number, turns in enumerate(hostile(rng)):
            found, expected = [await _routed(gateway, turns) for gateway in (full, empty)]
            assert found == expected, turns
            assert {candidate["document"] for candidate in found["candidates"]} <= {*OWN, *SHARED}
            decisions.add(found["decision"])
            if number % CHATS == 0:
                assert await _asked(full, turns) == await _asked(empty, turns), turns
            asked += len(turns)
            if asked >= QUESTIONS:
                break
        assert decisions >= {"route", "no_match"}


async def _routed(gateway: Gateway, turns: list[str]) -> Any:
    return await gateway.json("POST", "/v1/route", json={"question": turns[-1], "earlier": turns[:-1]})


async def _asked(gateway: Gateway, turns: list[str]) -> tuple[int, dict[str, str], Any]:
    """Status, what the headers tell of the document, and the error where there is one; nothing in it is the other tenant's."""
    body = {"messages": [{"role": "user", "content": turn} for turn in turns], "max_tokens": 4}
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        text = await response.text()
        headers = {name: response.headers.get(name, "") for name in ("x-document-id", "x-route-score", "content-type")}
    assert not [mark for mark in MARKS if mark in text or mark in str(headers)]
    return response.status, headers, json.loads(text).get("error")
