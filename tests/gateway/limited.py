"""A gateway with a file of limits and a clock that a test sets, for the tests of limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes.engine import CHUNK_BYTES
from tests.fakes.gateway import Gateway, booked, eventually

START = 1_700_000_040.0
"""On a minute: 2023-11-14 22:14 UTC."""
LEASE = "# Lease\n\nThe deposit is 2,400 euros. It is returned within a month."


ANSWER = 100
SUFFIX = 121
"""The question's tokens behind the document's prefix, by the fakes' tokenizer."""
MOST = SUFFIX + ANSWER
DOCUMENT = 176
SPENT = 28
"""What such a question takes: some of the instruction behind the document is cached as well."""


class Clock:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at


class Limited(Gateway):
    """`limits`: of tenant-a, as in the file."""

    def __init__(self, folder: Path, limits: dict[str, Any] | None = None, **more: Any) -> None:
        self.limits_path = folder / "tenants.yaml"
        self.clock = Clock()
        self.operators_key = ""
        self.declare(limits or {})
        super().__init__(folder, **{"now": self.clock, "tenants": self.limits_path, **more})

    def declare(self, limits: dict[str, Any], **others: dict[str, Any]) -> None:
        self.write(json.dumps({"tenants": {"tenant-a": limits, **others}}))

    def write(self, text: str) -> None:
        """As editors do: another file in its place."""
        fresh = self.limits_path.with_suffix(".new")
        fresh.write_text(text, "utf-8")
        fresh.replace(self.limits_path)

    async def limit(self, **limits: Any) -> None:
        """From now on tenant-a has these. Nothing is counted of what wasn't limited before."""
        self.declare(limits)

        async def holds() -> bool:
            return bool((await self.used())["limits"] == limits)

        await eventually(holds)

    @property
    def host_bytes(self) -> int:
        """What lies on the host's disk."""
        return CHUNK_BYTES * sum(map(len, self.host.disk.values()))

    async def used(self, tenant: str = "tenant-a") -> dict[str, Any]:
        """What operators see of it."""
        if not self.operators_key:
            self.operators_key = await self.new_key("operators", ("admin",))
        headers = {"authorization": f"Bearer {self.operators_key}"}
        async with self.session.get(f"{self.admin_url}/admin/tenants", headers=headers) as response:
            assert response.status == 200, await response.text()
            found = {one["id"]: one for one in (await response.json())["data"]}
        return dict(found[tenant])


def ask(gateway: Gateway, *, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "What is the deposit?"}], "document": "lease", "max_tokens": ANSWER, **fields}
    return gateway.request("POST", "/v1/chat/completions", json=body, key=key, headers=headers or {})


async def status(gateway: Gateway, **fields: Any) -> int:
    async with ask(gateway, **fields) as response:
        await response.read()
        return int(response.status)


async def costs(gateway: Limited) -> tuple[Any, Any]:
    """What is used of requests and tokens, as operators see it."""
    await booked()
    used = (await gateway.used())["used"]
    return used["requests"], used["tokens"]
