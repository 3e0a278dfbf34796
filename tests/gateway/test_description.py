"""The OpenAPI description of both applications: complete, and true. schemathesis makes requests of it, good ones and bad ones."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from litestar.routes import ASGIRoute, HTTPRoute
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from gateway.errors import STATUSES
from tests.fakes.beside import running_beside
from tests.fakes.gateway import Gateway

NAMES = ("lease", "expenses", "contract", "shared")
EXAMPLES = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


def not_meant(case: Any) -> list[Any]:
    """A request of the right shape may still be refused for what it means: an empty text, a question that nobody asks.

    And a body that is the text itself may be any text, `[]` too; a query's names that nobody knows are passed over.
    """
    may_be_good = case.media_type in ("text/plain", "text/markdown") or case.method == "GET"
    return [positive_data_acceptance, *([negative_data_rejection] if may_be_good else [])]


NEVER_GOOD = {
    "POST /v1/route/fit",  # takes more labelled questions about documents that there are than are made up here: `test_tuning.py`
    "POST /admin/keys",  # names of tenants and scopes are not made up: `tenants/test_admin_keys.py`
    "POST /admin/keys/{key_id}/finish",  # of a key that was just rotated: the same
}
EXTRACTED = ("text/html", "application/pdf")
"""Each would start a process: `test_files_as_input.py` has them."""
BODILESS = {"/admin/keys/{key_id}/finish"}


class Door(NamedTuple):
    """One application, as it is served and as it describes itself."""

    app: Any
    url: str
    description: dict[str, Any]
    key: str
    known: dict[str, list[str]]
    """What there is of what a path may name."""


class Filled(NamedTuple):
    gateway: Gateway
    jobs: list[str]
    keys: list[str]
    """One for each application."""
    spare: list[str]
    """Keys to be changed and revoked."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    made = Filled(Gateway(tmp_path_factory.mktemp("described")), [], [], [])

    async def fill(gateway: Gateway) -> None:
        for name in NAMES:
            text = f"# {name}\n\nThe deposit of the {name} is 2,400 euros."
            made.jobs.append((await gateway.add(text, id=name, shared=name == "shared"))["job"]["id"])
        made.keys.extend((gateway.key, await gateway.new_key("operators", ("admin",))))
        made.spare.extend([(await gateway.new_key("tenant-b")).split("_")[2] for _ in range(8)])

    with running_beside(made.gateway, fill):
        yield made


def door(filled: Filled, app: Any, url: str, key: str) -> Door:
    answer = requests.get(f"{url}/schema/openapi.json", headers={"authorization": f"Bearer {key}"}, timeout=10)
    assert answer.status_code == 200
    return Door(app, url, answer.json(), key, {"document_id": list(NAMES), "job_id": filled.jobs, "key_id": filled.spare})


@pytest.fixture(scope="module")
def tenants(filled: Filled) -> Door:
    return door(filled, filled.gateway.apps.tenants, filled.gateway.url, filled.keys[0])


@pytest.fixture(scope="module")
def operators(filled: Filled) -> Door:
    return door(filled, filled.gateway.apps.operators, filled.gateway.admin_url, filled.keys[1])


@pytest.fixture(params=["tenants", "operators"])
def either(request: pytest.FixtureRequest) -> Door:
    return request.getfixturevalue(request.param)


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def known(value: Any, those: list[str]) -> Any:
    """Every other time something that there is, in the place of a text that was made up."""
    return those[len(value) % len(those)] if those and isinstance(value, str) and len(value) % 2 else value


def schema_of(door: Door) -> Any:
    """What schemathesis makes requests of; some of them about documents that there are."""
    described = copy.deepcopy(door.description)
    for _, _, operation in operations(described):
        for kind in EXTRACTED:
            operation.get("requestBody", {"content": {}})["content"].pop(kind, None)
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=door.url)

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        given = path_parameters or {}
        return {name: known(value, door.known.get(name, [])) for name, value in given.items()} if given else path_parameters

    @schema.hook
    def map_body(context: Any, body: Any) -> Any:
        return {**body, "document": known(body["document"], list(NAMES))} if isinstance(body, dict) and "document" in body else body

    return schema


def test_an_application_is_as_it_says(either: Door) -> None:
    """Whatever schemathesis makes of each operation, good and bad: no failure of the server, no answer that is not described."""
    schema = schema_of(either)
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    failures = []
    # What removes things comes last.
    for operation in sorted((found.ok() for found in schema.get_all_operations()), key=lambda one: one.method == "delete"):
        for mode in schemathesis.GenerationMode:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def holds(case: Any) -> None:
                answer = case.call_and_validate(
                    headers={"Authorization": f"Bearer {either.key}"}, timeout=20, excluded_checks=not_meant(case)
                )
                statuses[f"{case.method} {case.path}"][answer.status_code] += 1

            try:
                holds()
            except (FailureGroup, Failure) as error:
                failures.append(f"{operation.method} {operation.path}, {mode.value}: {error} {getattr(error, 'exceptions', '')}")
            except Unsatisfiable:
                assert mode is schemathesis.GenerationMode.NEGATIVE, f"no good request for {operation.path}"
    assert not failures, "\n\n".join(failures)
    assert set(statuses) == {f"{method.upper()} {path}" for path, method, _ in operations(either.description)}
    good = {name for name, found in statuses.items() if any(status < 300 for status in found)}
    assert good == set(statuses) - NEVER_GOOD, "of these no request was a good one"


def test_every_route_is_described_with_who_may_ask_and_the_envelope_of_its_errors(either: Door) -> None:
    described = {(path, method) for path, method, _ in operations(either.description)}
    served = set()
    for route in either.app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                if method != "OPTIONS" and handler.resolve_include_in_schema():
                    served.add((route.path_format, method.lower()))
        elif isinstance(route, ASGIRoute):
            served.add((route.path_format, "post"))
    assert described == served
    for path, method, operation in operations(either.description):
        public = operation["security"] == []
        assert public == path.startswith("/health/"), path
        for status in STATUSES:
            if not (public and status in (401, 403)):
                shown = operation["responses"][str(status)]["content"]["application/json"]["schema"]
                assert shown["$ref"].endswith(("/ErrorEnvelope", "/Readiness", "/Report")), (path, method, status)
        if method in ("post", "patch", "put") and path not in BODILESS:
            assert "application/json" in operation["requestBody"]["content"], path


def test_a_chats_request_and_answers_are_described(tenants: Door) -> None:
    operation = tenants.description["paths"]["/v1/chat/completions"]["post"]
    assert operation["requestBody"]["required"] is True
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    schemas = tenants.description["components"]["schemas"]
    assert set(schemas["ChatRequest"]["properties"]) >= {"messages", "document", "documents", "stream"}
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert set(schemas["ErrorView"]["required"]) == {"message", "type", "param", "code"}
