"""A catalog file to test with, and what a client sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.gateway import Gateway, eventually

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
EXPENSES = "# Expenses\n\nTaxis need a receipt."


class Catalog:
    """A catalog file and the texts it declares, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "catalog"
        self.folder.mkdir()
        self.path = self.folder / "catalog.yaml"
        self.text("lease", LEASE)
        self.text("expenses", EXPENSES)

    def text(self, name: str, text: str) -> None:
        (self.folder / f"{name}.md").write_text(text, "utf-8")

    def declare(self, *entries: str) -> None:
        """`id` or `id, tenant: x, …`: a flow mapping's inside after the id. A file of that name is expected."""
        lines = [f"- {{id: {entry}, file: {entry.partition(',')[0]}.md}}\n" for entry in entries]
        self.write("documents:\n" + "".join(lines) if lines else "documents: []\n")

    def write(self, text: str) -> None:
        """As editors do: another file in its place."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, "utf-8")
        fresh.replace(self.path)

    def gateway(self, **more: Any) -> Gateway:
        return Gateway(self.folder.parent, catalog=self.path, **more)


async def shelf(gateway: Gateway, key: str | None = None) -> dict[str, Any]:
    return {document["id"]: document for document in (await gateway.json("GET", "/v1/documents", key=key))["data"]}


async def problem(gateway: Gateway) -> str:
    """What /health/ready says of the catalog."""
    report = await gateway.health()
    found = str(report["problems"].get("catalog", ""))
    assert report["status"] == ("degraded" if found else "ready")
    return found


async def until(gateway: Gateway, ids: set[str]) -> None:
    async def holds() -> bool:
        return set(await shelf(gateway)) == ids

    await eventually(holds)


async def until_ready(gateway: Gateway, name: str) -> None:
    job = (await shelf(gateway))[name]["job"]
    assert job is None or await gateway.finished(job["id"]) == "ready"


async def until_problem(gateway: Gateway, words: str) -> None:
    """Until the catalog's problem holds `words`; nothing for none at all."""

    async def holds() -> bool:
        found = await problem(gateway)
        return words in found if words else not found

    await eventually(holds)
