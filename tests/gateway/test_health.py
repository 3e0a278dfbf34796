"""Health and the small routes beside documents and questions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import aiohttp

from gateway.sections import Server
from tests.fakes.gateway import Gateway


async def test_ready_says_what_is_wrong_with_what(gateway: Gateway) -> None:
    assert await gateway.health() == {"status": "ready", "workers_healthy": 1, "workers": 1, "problems": {}}


async def test_an_open_stream_of_events_does_not_keep_the_gateway_from_ending(tmp_path: Path) -> None:
    async with Gateway(tmp_path).running() as gateway:
        gateway.workers[0].problem = "is not up yet"
        document = await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease", ready=False)
        headers = {"authorization": f"Bearer {gateway.key}"}
        stays = aiohttp.ClientSession()  # the harness closes its own before the server ends
        followed = await stays.get(f"{gateway.url}/v1/jobs/{document['job']['id']}/events", headers=headers)
        assert b"progress" in await followed.content.readline()
    try:
        assert b"ready" not in await followed.read()  # a stream that the server had to cut off raises
    finally:
        await stays.close()


async def test_a_body_over_the_limit_is_413_and_says_what_to_do(tmp_path: Path) -> None:
    async with Gateway(tmp_path, server=Server(max_body_mib=1)).running() as gateway:
        for path, body in (("/v1/chat/completions", {"messages": []}), ("/v1/documents", {"text": ""})):
            data = io.BytesIO(json.dumps({**body, "user": "x" * 2**20}).encode())
            headers = {"content-type": "application/json"}
            error = (await gateway.json("POST", path, data=data, headers=headers, status=413))["error"]
            assert error["code"] == "body_too_large"
            assert "server.max_body_mib" in error["message"]
