"""What one tenant may know of another's documents: nothing. And what all may know of shared ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.gateway import Gateway

SECRET_PLAN = "# The merger\n\nProject Zebra buys Quagga for nine million on Friday."
LEASE = "# Lease\n\nThe deposit is 2,400 euros."
ASK = {"messages": [{"role": "user", "content": "What is the deposit?"}]}


class Tenants:
    """A gateway with tenant-a's key as its own, one of tenant-b, and a document of each that the other must not know of."""

    def __init__(self, gateway: Gateway, b: str, job: str) -> None:
        self.gateway = gateway
        self.b = b
        self.job = job


@pytest.fixture(scope="module")
async def tenants(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenants]:
    async with Gateway(tmp_path_factory.mktemp("tenants")).running() as gateway:
        b = await gateway.new_key("tenant-b")
        await gateway.add(LEASE, id="lease")
        added = await gateway.add(SECRET_PLAN, id="plan", key=b)
        yield Tenants(gateway, b, added["job"]["id"])


async def answer(gateway: Gateway, method: str, path: str, body: Any) -> tuple[int, str, list[str]]:
    """(status, body, header names): all that a client sees of an answer."""
    async with gateway.request(method, path, json=body) as response:
        return response.status, await response.text(), sorted(name.lower() for name in response.headers)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/documents/{id}", None),
        ("PATCH", "/v1/documents/{id}", {"title": "Mine"}),
        ("DELETE", "/v1/documents/{id}", None),
        ("POST", "/v1/chat/completions", {**ASK, "document": "{id}"}),
        ("POST", "/v1/chat/completions", {**ASK, "document": "{id}", "stream": True}),
    ],
    ids=["show", "change", "remove", "ask", "ask streaming"],
)
async def test_anothers_document_looks_like_an_unknown_one(tenants: Tenants, method: str, path: str, body: Any) -> None:
    async def of(name: str) -> tuple[int, str, list[str]]:
        filled = {key: name if value == "{id}" else value for key, value in body.items()} if body else None
        status, text, headers = await answer(tenants.gateway, method, path.replace("{id}", name), filled)
        return status, text.replace(name, "NAME"), headers

    found = await of("plan")
    assert found == await of("plam")
    assert found[0] == 404
    assert (await tenants.gateway.json("GET", "/v1/documents/plan", key=tenants.b))["title"] == "The merger"


@pytest.mark.parametrize("path", ["/v1/jobs/{id}", "/v1/jobs/{id}/events"])
async def test_anothers_job_looks_like_an_unknown_one(tenants: Tenants, path: str) -> None:
    async def of(job: str) -> tuple[int, str, list[str]]:
        status, text, headers = await answer(tenants.gateway, "GET", path.replace("{id}", job), None)
        return status, text.replace(job, "JOB"), headers

    found = await of(tenants.job)
    assert found == await of("0" * 32)
    assert found[0] == 404
    assert (await tenants.gateway.json("GET", "/v1/jobs/" + tenants.job, key=tenants.b))["state"] == "ready"


async def test_anothers_document_is_in_no_list_and_no_route(tenants: Tenants) -> None:
    gateway = tenants.gateway
    assert [document["id"] for document in (await gateway.json("GET", "/v1/documents"))["data"]] == ["lease"]
    question = "Project Zebra buys Quagga for nine million on Friday."
    routed = await gateway.json("POST", "/v1/route", json={"question": question})
    assert [candidate["document"] for candidate in routed["candidates"]] == ["lease"]
    error = (await gateway.ask(question, key=await gateway.new_key("tenant-c"), status=404))["error"]
    assert error["candidates"] == []
    assert (await gateway.json("POST", "/v1/route", json={"question": question}, key=tenants.b))["document"] == "plan"


async def test_scores_do_not_tell_of_anothers_documents(gateway: Gateway) -> None:
    """Word statistics over all tenants would: a word gets cheaper when somebody else's document has it."""
    await gateway.add(LEASE, id="lease")
    await gateway.add("# Rules\n\nNo shoes.", id="rules")
    question = {"question": "How large is the deposit?"}
    before = await gateway.json("POST", "/v1/route", json=question)
    b = await gateway.new_key("tenant-b")
    for number in range(3):
        await gateway.add(f"# Deposit {number}\n\nThe deposit is large.", id=f"deposit-{number}", key=b)
    assert await gateway.json("POST", "/v1/route", json=question) == before


async def test_an_id_of_another_tenant_is_free_and_theirs_untouched(tenants: Tenants) -> None:
    gateway, b = tenants.gateway, tenants.b
    added = await gateway.add("# Mine\n\nOnly mine.", id="same", title="A's")
    await gateway.add("# Theirs\n\nOnly theirs.", id="same", title="B's", key=b)
    assert (await gateway.json("GET", "/v1/documents/same"))["title"] == "A's"
    assert (await gateway.json("GET", "/v1/documents/same", key=b))["title"] == "B's"
    await gateway.json("DELETE", "/v1/documents/same", key=b)
    assert (await gateway.json("GET", "/v1/documents/same"))["prefix_tokens"] == added["prefix_tokens"]
    assert (await gateway.ask("What is this?", document="same"))["choices"]


async def test_the_same_text_of_two_tenants_shares_no_kv(gateway: Gateway) -> None:
    """What one has read costs the other all of it, so that time tells nobody what others have read."""
    worker, b = gateway.workers[0], await gateway.new_key("tenant-b")
    await gateway.add(LEASE, id="lease")
    first = worker.prefilled_tokens
    await gateway.add(LEASE, id="lease", key=b)
    assert worker.prefilled_tokens == 2 * first
    await gateway.add(LEASE, id="other")
    assert worker.prefilled_tokens == 3 * first
    assert len({body["cache_salt"] for body in worker.bodies}) == 3


async def test_a_shared_document_is_seen_and_asked_by_all_with_one_kv(gateway: Gateway) -> None:
    added = await gateway.add(LEASE, id="lease", shared=True)
    assert added["shared"] is True
    keys = [gateway.key, await gateway.new_key("tenant-b"), await gateway.new_key("tenant-c", ("ask", "read"))]
    for key in keys:
        assert (await gateway.json("GET", "/v1/documents", key=key))["data"][0]["id"] == "lease"
        assert (await gateway.ask("What is the deposit?", key=key))["headers"]["x-document-id"] == "lease"
    assert len({body["cache_salt"] for body in gateway.workers[0].bodies}) == 1


@pytest.mark.parametrize("scopes", [("ask", "read", "write"), ("read",), ("read", "write")])
async def test_shared_documents_are_changed_only_with_the_scope_share(tenants: Tenants, scopes: tuple[str, ...]) -> None:
    gateway, name = tenants.gateway, "shared-" + "-".join(scopes)
    key = await gateway.new_key("tenant-b", scopes)
    new = {"id": name, "text": LEASE + name, "shared": True}
    refused = await gateway.json("POST", "/v1/documents", json=new, key=key, status=403)
    assert refused["error"]["code"] == "forbidden"
    assert "'share'" in refused["error"]["message"]
    await gateway.json("GET", f"/v1/documents/{name}", status=404)
    await gateway.add(**new)
    await gateway.json("PATCH", f"/v1/documents/{name}", json={"title": "x"}, key=key, status=403)
    await gateway.json("DELETE", f"/v1/documents/{name}", key=key, status=403)
    assert (await gateway.json("GET", f"/v1/documents/{name}", key=key))["title"] == "Lease"
    assert (await gateway.json("PATCH", f"/v1/documents/{name}", json={"title": "x"}))["title"] == "x"
    await gateway.json("DELETE", f"/v1/documents/{name}")


async def test_ones_own_document_stands_before_a_shared_one_of_its_id(gateway: Gateway) -> None:
    b = await gateway.new_key("tenant-b")
    await gateway.add(LEASE, id="lease", shared=True, title="All's")
    await gateway.add("# Lease\n\nThe deposit is a secret.", id="lease", title="A's")
    listed = (await gateway.json("GET", "/v1/documents"))["data"]
    assert [(document["id"], document["title"], document["shared"]) for document in listed] == [("lease", "A's", False)]
    routed = await gateway.json("POST", "/v1/route", json={"question": "What is the deposit?"})
    assert [candidate["title"] for candidate in routed["candidates"]] == ["A's"]
    await gateway.ask("What is the deposit?", document="lease")
    await gateway.ask("What is the deposit?", document="lease", key=b)
    own, shared = [body["cache_salt"] for body in gateway.workers[0].bodies[-2:]]
    assert own != shared
    assert (await gateway.json("GET", "/v1/documents/lease", key=b))["title"] == "All's"
    await gateway.json("DELETE", "/v1/documents/lease")
    assert (await gateway.json("GET", "/v1/documents/lease"))["title"] == "All's"
