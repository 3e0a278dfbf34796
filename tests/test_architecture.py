"""The architecture's rules, held by reading the source: who imports whom, no module state, one reader of the environment.

Each rule is a function of a file's path and source that names what breaks it; each is shown to catch an offender.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("router", "backends", "gateway", "observability")
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8") for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}

MAY_IMPORT = {
    "router": {"router"},
    "backends": {"router", "observability", "backends"},
    "gateway": set(PACKAGES),
    "observability": {"observability"},
}
# Values and functions over them: no clock, chance, file, network, process, thread or log among them.
ROUTER_MAY_IMPORT = {
    *("__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "difflib", "enum"),
    *("fractions", "functools", "hashlib", "heapq", "hmac", "itertools", "json", "math", "numbers", "operator", "re", "statistics"),
    *("string", "struct", "sys", "textwrap", "types", "typing", "unicodedata", "msgspec", "numpy", "router"),
}
MAY_READ_ENVIRONMENT = {
    "gateway/config.py": "it is the one place that reads settings",
    "backends/embedding.py": "sets HF_HUB_OFFLINE before the library is imported, which reads it then",
    "backends/local/environments.py": "passes its own environment on to pip",
    "backends/local/model.py": "the same, in a process of its own under the worker's interpreter",
    "backends/local/stack.py": "passes its own environment on to the processes that it starts",
}
GATEWAY_ROOMS = ("tenants", "shelf", "tiers", "ingestion", "upkeep", "asking", "api")
"""The gateway's folders that a question's or a document's way leads through: each imports only itself and what stands before it."""
COMPILERS = {"compile", "Decoder", "Encoder", "get_logger", "getLogger"}
DECLARATIONS = {"MetaData", "Table", "alias"}
"""SQLAlchemy's words for a schema, which are named as the tables are."""
MAX_LINES = 300

Rule = Callable[[str, str], Iterator[str]]


def imports_only_what_its_package_may(path: str, source: str) -> Iterator[str]:
    package = path.partition("/")[0]
    for line, name in imported(source):
        if name in (*PACKAGES, "tests") and name not in MAY_IMPORT[package]:
            yield f"{path}:{line}: {package} imports {name}"


def gateway_rooms_are_in_order(path: str, source: str) -> Iterator[str]:
    room = path.removeprefix("gateway/").partition("/")[0]
    if not path.startswith("gateway/") or room not in GATEWAY_ROOMS:
        return
    later = GATEWAY_ROOMS[GATEWAY_ROOMS.index(room) + 1 :]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("gateway."):
            other = node.module.split(".")[1]
            if other in later or other in ("app", "cli"):
                yield f"{path}:{node.lineno}: {room} imports {other}"


def router_imports_only_values(path: str, source: str) -> Iterator[str]:
    for line, name in imported(source):
        if path.startswith("router/") and name not in ROUTER_MAY_IMPORT:
            yield f"{path}:{line}: router imports {name}"


def router_never_waits(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        waits = isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if path.startswith("router/") and (waits or (isinstance(node, ast.comprehension) and node.is_async)):
            yield f"{path}:{getattr(node, 'lineno', '?')}: router waits"


def has_no_module_state(path: str, source: str) -> Iterator[str]:
    """Only constants (UPPER_CASE), types (CamelCase), and private compiled patterns, codecs and loggers are made at import."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"{path}:{node.lineno}: global {', '.join(node.names)}"
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        maker = makes(getattr(node, "value", None))
        for name in names:
            allowed = is_constant(name) or is_type(name) or name in ("__all__", "log") or maker in DECLARATIONS
            if maker is not None and not allowed and not (name.startswith("_") and maker in COMPILERS):
                yield f"{path}:{node.lineno}: module state `{name}`"


def reads_the_environment_in_one_place(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) and node.module == "os" else [attribute]
        if path not in MAY_READ_ENVIRONMENT and {"environ", "environb", "getenv", "getenvb", "putenv"} & set(names):
            yield f"{path}:{node.lineno}: reads the environment"


def is_short(path: str, source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MAX_LINES:
        yield f"{path}: {lines} lines"


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, first part of the name) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").partition(".")[0]


def is_constant(name: str) -> bool:
    return re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name) is not None


def is_type(name: str) -> bool:
    return re.fullmatch(r"_?([A-Z][a-z0-9]*)+", name) is not None


def makes(value: ast.expr | None) -> str | None:
    """What makes a new object in this expression: the function's name, or the kind of literal; None if nothing does."""
    while isinstance(value, ast.Attribute):
        value = value.value
    if isinstance(value, ast.Tuple):
        return next((maker for element in value.elts if (maker := makes(element))), None)
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2]
    mutable = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return type(value).__name__ if isinstance(value, mutable) else None


def broken(rule: Rule, sources: dict[str, str] = SOURCES) -> list[str]:
    return [violation for path, source in sources.items() for violation in rule(path, source)]


def test_the_rules_see_the_packages() -> None:
    assert {path.partition("/")[0] for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 30


def test_packages_import_only_what_they_may() -> None:
    assert broken(imports_only_what_its_package_may) == []


def test_the_gateways_rooms_import_only_what_stands_before_them() -> None:
    assert broken(gateway_rooms_are_in_order) == []
    assert {path.split("/")[1] for path in SOURCES if path.count("/") > 1 and path.startswith("gateway/")} >= set(GATEWAY_ROOMS)


def test_the_router_imports_only_values() -> None:
    assert broken(router_imports_only_values) == []


def test_the_router_never_waits() -> None:
    assert broken(router_never_waits) == []


def test_no_module_holds_state() -> None:
    assert broken(has_no_module_state) == []


def test_the_environment_is_read_in_one_place() -> None:
    assert broken(reads_the_environment_in_one_place) == []


def test_every_exception_to_the_environments_rule_is_a_file_that_needs_it() -> None:
    assert [path for path in MAY_READ_ENVIRONMENT if "os.environ" not in SOURCES.get(path, "")] == []


def test_files_are_short() -> None:
    assert broken(is_short, SOURCES | TESTS) == []


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (imports_only_what_its_package_may, "router/x.py", "import backends.base"),
        (imports_only_what_its_package_may, "backends/x.py", "def f():\n    from gateway.config import load"),
        (imports_only_what_its_package_may, "observability/x.py", "from router import errors"),
        (imports_only_what_its_package_may, "gateway/x.py", "from tests.fakes import engine"),
        (gateway_rooms_are_in_order, "gateway/shelf/x.py", "from gateway.tiers.hosts import Hosts"),
        (gateway_rooms_are_in_order, "gateway/api/x.py", "from gateway.app import create_app"),
        (router_imports_only_values, "router/x.py", "import time"),
        (router_imports_only_values, "router/x.py", "from os.path import join"),
        (router_imports_only_values, "router/x.py", "if True:\n    import random as r"),
        (router_imports_only_values, "router/x.py", "import structlog"),
        (router_never_waits, "router/x.py", "async def f(): ..."),
        (router_never_waits, "router/x.py", "f = lambda stream: [x async for x in stream]"),
        (has_no_module_state, "gateway/x.py", "cache = {}"),
        (has_no_module_state, "gateway/x.py", "a, B = 1, set()"),
        (has_no_module_state, "gateway/x.py", "_sessions: dict[str, int] = dict()"),
        (has_no_module_state, "gateway/x.py", "_get = Client().get"),
        (has_no_module_state, "gateway/x.py", "decode = msgspec.json.Decoder()"),
        (has_no_module_state, "gateway/x.py", "def f():\n    global now\n    now = 1"),
        (reads_the_environment_in_one_place, "gateway/x.py", "import os\nos.getenv('HOME')"),
        (reads_the_environment_in_one_place, "backends/x.py", "def f(e=os.environ): ..."),
        (reads_the_environment_in_one_place, "backends/x.py", "from os import environ as e"),
        (is_short, "gateway/x.py", "\n" * (MAX_LINES + 1)),
    ],
)
def test_a_rule_catches_what_breaks_it(rule: Rule, path: str, source: str) -> None:
    assert len(broken(rule, {path: source})) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (imports_only_what_its_package_may, "backends/x.py", "import router.errors, observability, backends.base, aiohttp"),
        (
            router_imports_only_values,
            "router/x.py",
            "import numpy as np\nfrom collections.abc import Sequence\nfrom router import errors",
        ),
        (gateway_rooms_are_in_order, "gateway/asking/x.py", "from gateway.tiers.hosts import Hosts\nfrom gateway.pool import x"),
        (router_imports_only_values, "backends/x.py", "import asyncio"),
        (router_never_waits, "backends/x.py", "async def f(): await g()"),
        (
            has_no_module_state,
            "gateway/x.py",
            "LIMITS = {'a': 1}\n_WORDS = re.compile('a')\nKey = NewType('Key', str)\nlog = get_logger()",
        ),
        (
            has_no_module_state,
            "gateway/x.py",
            "_decode = msgspec.json.Decoder(int).decode\n_decoder = msgspec.json.Decoder()\nname = 'x'",
        ),
        (has_no_module_state, "gateway/x.py", "def f():\n    cache = {}\n    return cache"),
        (reads_the_environment_in_one_place, "gateway/config.py", "import os\nos.environ['HOME']"),
        (reads_the_environment_in_one_place, "gateway/x.py", "import os\nos.getpid()"),
        (is_short, "gateway/x.py", "\n" * MAX_LINES),
    ],
)
def test_a_rule_leaves_the_rest_alone(rule: Rule, path: str, source: str) -> None:
    assert broken(rule, {path: source}) == []
