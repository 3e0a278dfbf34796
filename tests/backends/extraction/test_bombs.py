"""Files that mean harm end at a limit of the child's, which the refusal names; the gateway's own process never takes them apart."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.extraction.extractor import MAX_WAITING, ExtractionBusy, Extractor, Kind, Unreadable
from backends.settings import Extraction
from tests.backends.extraction import pdfs
from tests.fakes.gateway import eventually

SPINS = b"<!--" * 2_000_000
"""A page over which its reader is busy for many seconds."""


def children() -> list[int]:
    """The processes that this one started to read a file."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"extraction/child.py" in (folder / "cmdline").read_bytes():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                found += [int(folder.name)] if int(stat[1]) == os.getpid() and stat[0] != "Z" else []
        except OSError:  # gone meanwhile
            continue
    return found


@asynccontextmanager
async def spinning(extractor: Extractor, count: int = 1) -> AsyncIterator[list[asyncio.Task[str]]]:
    tasks = [asyncio.create_task(extractor.text(SPINS, Kind.HTML)) for _ in range(count)]
    try:
        await eventually(lambda: children())
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def limits(pid: int) -> dict[str, str]:
    """The kernel's names of a process's limits, each with the hard one."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[47:68].strip() for line in lines}


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def descriptors(pid: int) -> set[str]:
    return {file.name for file in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.parametrize(
    ("data", "setting"),
    [
        (pdfs.inflated(200_000_000), "memory_mib"),
        (pdfs.inflated(1_000_000_000, twice=True), "memory_mib"),
        (pdfs.forms(depth=12, width=20), "memory_mib"),
        (pdfs.pages(500_000), "max_pages"),
        (pdfs.text(*["\n".join(["long " * 200] * 10)] * 150), "max_text_mib"),
    ],
    ids=["a stream", "a stream in a stream", "forms in forms", "half a million pages", "much text"],
)
async def test_a_bomb_is_refused_by_the_limit_that_it_meets(data: bytes, setting: str) -> None:
    assert len(data) < 4_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable, match=f"have the operator raise `extraction.{setting}`"):
        await Extractor(Extraction(memory_mib=192, max_text_mib=1)).text(data, Kind.PDF)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "the gateway itself took the memory (KiB)"
    assert children() == []


@pytest.mark.parametrize("data", [pdfs.tree(30, 10), pdfs.nested(500_000)], ids=["a page tree of 10^30", "nested lists"])
async def test_what_the_reader_sees_through_is_refused_too(data: bytes) -> None:
    with pytest.raises(Unreadable):
        await Extractor(Extraction(memory_mib=192)).text(data, Kind.PDF)


async def test_a_page_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(Unreadable, match="nested too deeply"):
        await Extractor(Extraction()).text(b"<div>" * 20_000 + b"x", Kind.HTML)


async def test_one_that_takes_too_long_is_ended_with_its_process() -> None:
    with pytest.raises(Unreadable, match=r"took longer than 0.5 s .* `extraction.time_s`"):
        await Extractor(Extraction(time_s=0.5)).text(SPINS, Kind.HTML)
    assert children() == []


async def test_one_that_waits_for_ever_is_ended_too(tmp_path: Path) -> None:
    """It takes no processor time: the clock on the wall ends it."""
    script = tmp_path / "child.py"
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(Unreadable, match=r"took longer than 0.3 s"):
        async with asyncio.timeout(20):
            await Extractor(Extraction(time_s=0.3), child=script).text(b"", Kind.PDF)


async def test_a_client_that_leaves_ends_the_process() -> None:
    async with spinning(Extractor(Extraction())):
        assert len(children()) == 1
    assert children() == []


async def test_the_child_has_bounded_everything_and_knows_nothing() -> None:
    os.environ["KVSHELF_SECRET_OF_A_TEST"] = "not for children"
    try:
        async with spinning(Extractor(Extraction(memory_mib=200, time_s=7))):
            (pid,) = children()
            await eventually(lambda: limits(pid)["Max open files"] == "0")  # its libraries are loaded
            found = limits(pid)
            assert found["Max address space"] == str(200 * 2**20)
            assert found["Max cpu time"] == "7"
            for name in ("Max open files", "Max processes", "Max file size", "Max core file size"):
                assert found[name] == "0", name
            assert environment(pid) == b""
            assert descriptors(pid) == {"0", "1", "2"}
            assert os.getpgid(pid) == os.getsid(pid) == pid
            assert os.readlink(f"/proc/{pid}/cwd") == "/"  # noqa: PTH115 - not a path to go on with
    finally:
        del os.environ["KVSHELF_SECRET_OF_A_TEST"]


async def test_a_locked_process_opens_no_file_and_no_socket(tmp_path: Path) -> None:
    """What it could still do, were somebody to run code in it: nothing with the machine or the network."""
    script = tmp_path / "child.py"
    child = Path(__file__).parents[3] / "backends" / "extraction" / "child.py"
    with socket.create_server(("127.0.0.1", 0)) as server:
        script.write_text(
            "import os, runpy, socket, sys, threading\n"
            f"child = runpy.run_path({str(child)!r})\n"
            "child['limit'](2**29, 5)\nchild['lock']()\nfound = []\n"
            f"for what in (lambda: open('/etc/passwd'), lambda: open({str(tmp_path / 'x')!r}, 'w'), os.fork,\n"
            f"             lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))):\n"
            "    os.close(2) if len(found) == 1 else None\n"
            "    try:\n        what()\n        found.append('could')\n    except OSError as error:\n        found.append('no')\n"
            "print(*found, os.getuid(), flush=True)\nos._exit(0)\n"
        )
        found = (await Extractor(Extraction(), child=script).text(b"", Kind.PDF)).split()
    assert (found[0], found[1], found[3]) == ("no", "no", "no")
    assert found[2] == "no" or found[4] == "0", "only root, whose processes the kernel does not count, could fork"


async def test_more_text_than_is_allowed_is_not_even_taken_in(tmp_path: Path) -> None:
    """The child counts what it writes; one that is made to count wrongly meets the same limit here."""
    script = tmp_path / "child.py"
    script.write_text("import sys\nsys.stdout.write('x' * 2**23)\n")
    with pytest.raises(Unreadable, match="over 1 MiB of text"):
        await Extractor(Extraction(max_text_mib=1, time_s=30), child=script).text(b"", Kind.PDF)


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 11)", "os._exit(1)", "1 / 0"])
async def test_a_child_that_breaks_is_a_refusal(tmp_path: Path, end: str) -> None:
    script = tmp_path / "child.py"
    script.write_text(f"import os, sys\nos.write(1, b'half a tex')\n{end}\n")
    with pytest.raises(Unreadable, match="broke the reader"):
        await Extractor(Extraction(), child=script).text(b"%PDF-" * 100_000, Kind.PDF)


async def test_so_many_files_are_read_at_once_and_no_more_wait_than_may() -> None:
    extractor = Extractor(Extraction(at_once=2))
    async with spinning(extractor, MAX_WAITING):
        await eventually(lambda: len(children()) == 2)
        with pytest.raises(ExtractionBusy) as caught:
            await extractor.text(SPINS, Kind.HTML)
        assert caught.value.retry_after_s > 0
        assert len(children()) == 2
    assert children() == []
    assert await extractor.text(b"<p>Words.", Kind.HTML)
