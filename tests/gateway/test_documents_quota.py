"""How many documents a tenant may have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Ingestion
from tests.fakes.gateway import RESERVE, eventually
from tests.gateway.limited import Limited


async def put(gateway: Limited, name: str, *, key: str | None = None, **fields: Any) -> tuple[int, Any]:
    body = {"text": f"# {name}\n\nOf {name}.", "id": name, **fields}
    async with gateway.request("POST", "/v1/documents", json=body, key=key) as response:
        return response.status, await response.json()


async def test_one_too_many_is_refused_with_both_numbers_and_room_is_made_by_removing(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"documents": 2}).running() as gateway:
        assert [(await put(gateway, name))[0] for name in "ab"] == [202, 202]
        status, answer = await put(gateway, "c")
        assert (status, answer["error"]["code"], answer["error"]["limit"]) == (403, "quota_exceeded", 2)
        assert "has 2 documents and may have 2" in answer["error"]["message"]
        assert [document.id for document in await gateway.store.documents()] == ["a", "b"]
        assert (await put(gateway, "a", text="# Other\n\nText."))[0] == 202, "a change is no more documents"
        await gateway.json("DELETE", "/v1/documents/b")
        assert (await put(gateway, "c"))[0] == 202


async def test_shared_ones_and_other_tenants_are_not_counted(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"documents": 1}).running() as gateway:
        assert [(await put(gateway, name, shared=True))[0] for name in "ab"] == [202, 202]
        other = await gateway.new_key("tenant-b")
        assert [(await put(gateway, name, key=other))[0] for name in "cd"] == [202, 202]
        assert [(await put(gateway, name))[0] for name in "ef"] == [202, 403]


async def test_of_100_at_once_no_more_than_allowed_are_taken_in(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"documents": 7}).running() as gateway:
        found = [status for status, _ in await asyncio.gather(*(put(gateway, f"d{number}") for number in range(100)))]
        assert (found.count(202), found.count(403)) == (7, 93)
        assert len(await gateway.store.documents()) == 7


async def test_a_hundred_times_the_same_is_one(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"documents": 1}).running() as gateway:
        found = await asyncio.gather(*(put(gateway, "same") for _ in range(100)))
        assert {status for status, _ in found} <= {200, 202}


async def test_one_that_is_not_taken_in_gives_its_place_back(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"documents": 1}).running() as gateway:
        for text in ("", "word " * 9000):
            assert (await put(gateway, "bad", text=text))[0] == 400
        assert (await put(gateway, "good"))[0] == 202


@pytest.mark.parametrize("documents", [1, 2])
async def test_a_document_in_volumes_is_one(tmp_path: Path, documents: int) -> None:
    ingestion = Ingestion(answer_reserve_tokens=RESERVE, max_volumes=9)
    long = "# Long\n\n" + "".join(f"## Part {part}\n\n{f'word{part} ' * 250}\n\n" for part in range(4))
    async with Limited(tmp_path, {"documents": documents}, ingestion=ingestion).running() as gateway:
        assert (await put(gateway, "long", text=long))[0] == 202
        await eventually(lambda: _parts(gateway))
        assert (await gateway.used())["documents"] == 1
        assert (await put(gateway, "more"))[0] == (403 if documents == 1 else 202)


async def _parts(gateway: Limited) -> bool:
    return len([one for one in await gateway.store.documents() if one.part is not None]) > 1
