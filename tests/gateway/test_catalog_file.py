"""catalog.yaml: the shelf follows the file, and a bad file changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.engine import Gate
from tests.fakes.gateway import CONTEXT, RESERVE, Gateway, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import EXPENSES, LEASE, Catalog, problem, shelf, until, until_problem, until_ready


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Catalog, Gateway]]:
    """A catalog that declares the lease, and texts beside it that are none; the gateway over it."""
    catalog = Catalog(tmp_path_factory.mktemp("watched"))
    catalog.text("blank", " \n")
    (catalog.folder / "latin.md").write_bytes("Über alles".encode("latin-1"))
    (catalog.folder / "paper.pdf").write_bytes(b"%PDF-1.7")
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        await until_ready(gateway, "lease")
        yield catalog, gateway


async def test_declared_documents_are_there_at_start_and_read(catalog: Catalog) -> None:
    catalog.write(
        "documents:\n- id: lease\n  file: lease.md\n  title: The lease\n  summary: A flat.\n  tags: [housing]\n"
        "  questions: ['What is the deposit?']\n- {id: expenses, file: expenses.md}\n"
    )
    async with catalog.gateway().running() as gateway:
        found = await shelf(gateway)
        assert set(found) == {"lease", "expenses"}
        assert (found["lease"]["source"], found["lease"]["shared"]) == ("catalog", True)
        assert (found["lease"]["title"], found["lease"]["summary"]) == ("The lease", "A flat.")
        assert (found["lease"]["tags"], found["lease"]["questions"]) == (["housing"], ["What is the deposit?"])
        assert found["expenses"]["title"] == "Expenses"
        for name in found:
            await until_ready(gateway, name)
        assert (await gateway.ask("Do taxis need a receipt?"))["headers"]["x-document-id"] == "expenses"
        assert await problem(gateway) == ""


async def test_the_shelf_follows_the_file(catalog: Catalog) -> None:
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        await until_ready(gateway, "lease")
        await gateway.add("# Mine\n\nOver HTTP.", id="mine")
        await gateway.add("# Ours\n\nOver HTTP.", id="ours", shared=True)
        catalog.declare("lease", "expenses")
        await until(gateway, {"lease", "expenses", "mine", "ours"})
        catalog.declare("expenses, title: Renamed")
        await until(gateway, {"expenses", "mine", "ours"})
        assert (await shelf(gateway))["expenses"]["title"] == "Renamed"
        catalog.declare()
        await until(gateway, {"mine", "ours"})
        assert (await shelf(gateway))["mine"]["state"] == "ready"


async def test_a_changed_text_is_read_while_the_old_one_answers(catalog: Catalog) -> None:
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        await until_ready(gateway, "lease")
        old = gateway.workers[0].bodies[-1]["cache_salt"]
        gate = Gate(gateway.workers[0], lambda body: body["max_tokens"] == 1)
        catalog.text("lease", LEASE.replace("2,400", "3,600"))
        new = (await gate.reached())["cache_salt"]
        assert new != old
        await gateway.ask("What is the deposit?", document="lease")
        assert gateway.workers[0].bodies[-1]["cache_salt"] == old
        gate.open()
        await until_ready(gateway, "lease")
        await gateway.ask("What is the deposit?", document="lease")
        assert gateway.workers[0].bodies[-1]["cache_salt"] == new


async def test_texts_in_other_folders_are_followed_too(catalog: Catalog) -> None:
    other = catalog.folder.parent / "elsewhere"
    other.mkdir()
    (other / "rules.md").write_text("# Rules\n\nNo shoes.")
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        catalog.write("documents:\n- {id: rules, file: ../elsewhere/rules.md}\n")
        await until(gateway, {"rules"})
        await until_ready(gateway, "rules")
        before = (await shelf(gateway))["rules"]["updated_at"]
        (other / "rules.md").write_text("# Rules\n\nShoes are fine.")

        async def is_changed() -> bool:
            return bool((await shelf(gateway))["rules"]["updated_at"] > before)

        await eventually(is_changed)


async def test_a_mounted_folder_that_is_swapped_as_a_whole_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap so: catalog.yaml -> ..data/catalog.yaml, ..data -> a folder with the time in its name."""
    mount = tmp_path / "mount"
    for generation, text in (("..1", LEASE), ("..2", EXPENSES)):
        (mount / generation).mkdir(parents=True)
        (mount / generation / "text.md").write_text(text)
        (mount / generation / "catalog.yaml").write_text(f"documents:\n- {{id: doc{generation[2:]}, file: text.md}}\n")
    (mount / "..data").symlink_to("..1")
    (mount / "catalog.yaml").symlink_to("..data/catalog.yaml")
    (mount / "text.md").symlink_to("..data/text.md")
    async with Gateway(tmp_path, catalog=mount / "catalog.yaml").running() as gateway:
        await until(gateway, {"doc1"})
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").replace(mount / "..data")
        await until(gateway, {"doc2"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("documents: [", "not valid YAML"),
        ("documents:\n- {id: lease, file: lease.md, colour: red}\n", "`documents[0].colour`: unknown field"),
        ("documents:\n- {id: lease, file: nowhere.md}\n- {id: Bad Id, file: lease.md}\n", "can't be a document id"),
        ("documents:\n- {id: lease, file: nowhere.md}\n- {id: x, file: blank.md}\n", "nowhere.md can't be read"),
        ("documents:\n- {id: lease, file: nowhere.md}\n- {id: x, file: blank.md}\n", "blank.md is empty"),
        ("documents:\n- {id: lease, file: lease.md}\n- {id: lease, file: expenses.md}\n", "declared twice"),
        ("documents:\n- {id: lease, file: latin.md}\n", "is not UTF-8"),
        ("documents:\n- {id: lease, file: paper.pdf}\n", "is no PDF that can be read"),
        ("documents:\n- {id: lease, file: lease.md, tenant: '*'}\n", "can't be a tenant id"),
        (None, "can't be read"),
    ],
)
async def test_a_bad_file_keeps_the_last_good_state_and_is_told_until_it_is_mended(
    watched: tuple[Catalog, Gateway], text: str | None, words: str
) -> None:
    catalog, gateway = watched
    if text is None:
        catalog.path.unlink()
    else:
        catalog.write(text)
    await until_problem(gateway, words)
    assert str(catalog.path) in await problem(gateway)
    assert set(await shelf(gateway)) == {"lease"}
    assert (await gateway.ask("What is the deposit?", document="lease"))["choices"]
    catalog.declare("lease", "expenses")
    await until(gateway, {"lease", "expenses"})
    await until_problem(gateway, "")
    catalog.declare("lease")
    await until(gateway, {"lease"})


async def test_a_bad_file_at_start_is_told_and_the_rest_serves(catalog: Catalog) -> None:
    catalog.write("documents: nothing\n")
    async with catalog.gateway().running() as gateway:
        assert "documents" in await problem(gateway)
        await gateway.add("# Mine\n\nOver HTTP.", id="mine")
        catalog.declare("lease")
        await until(gateway, {"lease", "mine"})


async def test_a_document_that_is_too_long_is_told_and_the_others_applied(catalog: Catalog) -> None:
    catalog.text("long", "word " * CONTEXT)
    catalog.declare("long", "lease")
    async with catalog.gateway().running() as gateway:
        assert set(await shelf(gateway)) == {"lease"}
        found = await problem(gateway)
        assert "long: The document takes" in found
        assert str(CONTEXT - RESERVE) in found
        catalog.text("long", "# Long\n\nNo longer.")
        await until(gateway, {"lease", "long"})
        await until_problem(gateway, "")


async def test_a_document_that_grows_too_long_keeps_its_last_version(catalog: Catalog) -> None:
    catalog.declare("lease")
    async with catalog.gateway().running() as gateway:
        await until_ready(gateway, "lease")
        before = await shelf(gateway)
        catalog.text("lease", "word " * CONTEXT)
        await until_problem(gateway, "lease: The document takes")
        assert await shelf(gateway) == before


async def test_a_change_while_the_database_is_away_is_applied_once_it_is_back(catalog: Catalog) -> None:
    catalog.declare("lease", "expenses")
    async with catalog.gateway().running() as gateway:
        for name in ("lease", "expenses"):
            await until_ready(gateway, name)
        store = gateway.store
        assert isinstance(store, MemoryStore)
        store.fault = "The disk is full."
        catalog.declare("lease")

        async def is_told() -> bool:
            report = await gateway.health(status=503)
            return "not applied yet: The disk is full." in report["problems"].get("catalog", "")

        await eventually(is_told)
        store.fault = None
        await until(gateway, {"lease"})
        await until_problem(gateway, "")
