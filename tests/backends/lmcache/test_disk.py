"""The disk tier's folder with real files: what is counted, what is left alone, and what was damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.base import Damage, DiskScan
from backends.lmcache.disk import ABANDONED_AFTER_S, DiskFiles
from router.documents import Salt
from tests.backends.lmcache.samples import (
    CHUNK_BYTES,
    FRAME_BYTES,
    KEYS,
    MASTER_KEY,
    MODEL,
    OTHER,
    SALT,
    chunk_path,
    frame,
    grow_old,
    write_chunks,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kv"
    folder.mkdir()
    return folder


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "kv.key"
    path.write_bytes(MASTER_KEY)
    return path


@pytest.fixture
def disk(folder: Path, key_path: Path) -> DiskFiles:
    return DiskFiles(folder, MODEL, key_path=key_path)


@pytest.fixture
def plain(folder: Path) -> DiskFiles:
    return DiskFiles(folder, MODEL)


# --- looking


def test_an_empty_folder_holds_nothing(disk: DiskFiles) -> None:
    assert disk.scan() == DiskScan({}, {})


def test_every_chunk_is_found_by_salt_with_its_size(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder)
    write_chunks(folder, KEYS[:2], salt=OTHER, plain=True)
    assert disk.scan().chunks == {SALT: dict.fromkeys(KEYS, FRAME_BYTES), OTHER: dict.fromkeys(KEYS[:2], CHUNK_BYTES)}


def test_a_salt_is_as_old_as_its_youngest_chunk(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder, KEYS[:1], age_s=100)
    write_chunks(folder, KEYS[1:2], age_s=50)
    write_chunks(folder, KEYS[2:3], age_s=75)
    write_chunks(folder, KEYS[:1], salt=OTHER, age_s=1000)
    write_chunks(folder, KEYS[:1], salt=Salt("f0"), age_s=-1000)  # the clock was set back
    assert disk.scan().ages_s == pytest.approx({SALT: 50, OTHER: 1000, "f0": 0}, abs=5)


def test_an_empty_chunk_is_a_file_without_bytes(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder)[2].write_bytes(b"")
    assert disk.scan().chunks[SALT][KEYS[2]] == 0
    assert disk.sizes(KEYS, SALT)[KEYS[2]] == 0


def test_files_that_are_no_chunks_are_named_and_left_alone(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder)
    (folder / "README").write_text("mine")
    (folder / "upload.tmp").write_bytes(b"x")
    grow_old(folder / "upload.tmp", 1000)
    other = folder / chunk_path(folder, KEYS[0]).name.replace("smollm2", "other")
    other.write_bytes(frame())
    chunk_path(folder, KEYS[0], OTHER).mkdir()
    chunk_path(folder, KEYS[1], OTHER).symlink_to(chunk_path(folder, KEYS[1]))
    foreign = (chunk_path(folder, KEYS[0], OTHER).name, chunk_path(folder, KEYS[1], OTHER).name, other.name, "README", "upload.tmp")
    found = disk.scan()
    assert found.foreign == tuple(sorted(foreign))
    assert (set(found.chunks), found.partial) == ({SALT}, ())
    assert disk.remove_partial(foreign) == 0
    assert {path.name for path in folder.iterdir()} > set(foreign)


def test_a_folder_that_is_gone_is_an_os_error(disk: DiskFiles, folder: Path) -> None:
    folder.rmdir()
    for look in (disk.scan, disk.free_bytes):
        with pytest.raises(FileNotFoundError):
            look()
    assert disk.sizes(KEYS, SALT) == {}


def test_free_bytes_are_the_file_systems(disk: DiskFiles, folder: Path) -> None:
    found = os.statvfs(folder)
    assert disk.free_bytes() == pytest.approx(found.f_bavail * found.f_frsize, rel=0.1)


def test_sizes_of_chunks_that_are_files(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder, KEYS[1:3])
    write_chunks(folder, KEYS, salt=OTHER)
    assert disk.sizes(KEYS, SALT) == dict.fromkeys(KEYS[1:3], FRAME_BYTES)


# --- half-written files


def partial(folder: Path, number: int, age_s: float) -> Path:
    path = chunk_path(folder, KEYS[number], suffix=".tmp")
    path.write_bytes(frame()[:30])
    grow_old(path, age_s)
    return path


def test_a_file_that_nobody_finishes_is_partial(disk: DiskFiles, folder: Path) -> None:
    old, new = partial(folder, 0, ABANDONED_AFTER_S + 5), partial(folder, 1, ABANDONED_AFTER_S - 5)
    found = disk.scan()
    assert (found.partial, found.foreign, found.chunks) == ((old.name,), (), {})
    assert disk.remove_partial([old.name, new.name, "absent", chunk_path(folder, KEYS[2], suffix=".tmp").name]) == 1
    assert list(folder.iterdir()) == [new]


@pytest.mark.parametrize("escape", ["../{}", "./{}", "{}/"])
def test_only_names_within_the_folder_are_removed(disk: DiskFiles, folder: Path, escape: str) -> None:
    outside = partial(folder.parent, 0, 1000)
    inside = partial(folder, 0, 1000)
    assert disk.remove_partial([escape.format(outside.name), str(outside), str(inside)]) == 0
    assert outside.exists()
    assert inside.exists()


def test_a_chunk_is_not_removed_as_a_partial_one(disk: DiskFiles, folder: Path) -> None:
    paths = write_chunks(folder, age_s=1000)
    assert disk.remove_partial([path.name for path in paths]) == 0
    assert all(path.exists() for path in paths)


def test_while_no_server_runs_all_that_is_half_written_goes_and_nothing_else(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder, KEYS[:2])
    half = chunk_path(folder, KEYS[2], suffix=".tmp")
    half.write_bytes(b"begun just now")
    upload = folder / "upload.tmp"
    upload.write_bytes(b"somebody else's")
    assert disk.remove_all_partial() == 1
    assert not half.exists()
    assert upload.exists()
    assert all(chunk_path(folder, key).exists() for key in KEYS[:2])


# --- damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 4
    path.write_bytes(damaged)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def take_anothers(path: Path) -> None:
    path.write_bytes(frame(OTHER))


def take_plain(path: Path) -> None:
    path.write_bytes(bytes(CHUNK_BYTES))


DAMAGES = [cut, empty, zero, zero_the_end, flip_a_bit, lengthen, take_anothers, take_plain]


def test_whole_chunks_are_read_and_not_damaged(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder)
    assert disk.verify(KEYS, SALT) == Damage((), 4 * FRAME_BYTES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk_is_named(disk: DiskFiles, folder: Path, damage: Callable[[Path], None]) -> None:
    damage(write_chunks(folder)[2])
    assert disk.verify(KEYS, SALT).damaged == (KEYS[2],)


def test_absent_chunks_are_not_damaged(disk: DiskFiles, folder: Path) -> None:
    write_chunks(folder, KEYS[:1])
    assert disk.verify(KEYS, SALT) == Damage((), FRAME_BYTES)


def test_chunks_swapped_within_a_salt_are_not_told_apart(disk: DiskFiles, folder: Path) -> None:
    """As the docstring says: the seal does not cover the key."""
    one, two = write_chunks(folder, KEYS[:2])
    one.rename(folder / "aside")
    two.rename(one)
    (folder / "aside").rename(two)
    assert disk.verify(KEYS, SALT).damaged == ()


def test_a_chunk_that_the_disk_can_not_read_is_damaged(disk: DiskFiles, folder: Path) -> None:
    bad = write_chunks(folder)[1]
    bad.unlink()
    bad.symlink_to("/proc/self/mem")  # whose first page gives EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        bad.read_bytes()
    assert disk.verify(KEYS, SALT) == Damage((KEYS[1],), 3 * FRAME_BYTES)


def test_a_chunk_that_is_no_file_is_an_os_error_and_not_damage(disk: DiskFiles, folder: Path) -> None:
    chunk_path(folder, KEYS[0]).mkdir()
    with pytest.raises(IsADirectoryError):
        disk.verify(KEYS, SALT)


def test_without_the_key_nothing_is_called_damaged(disk: DiskFiles, folder: Path, key_path: Path) -> None:
    write_chunks(folder)
    key_path.write_bytes(b"")
    with pytest.raises(OSError, match="is empty"):
        disk.verify(KEYS, SALT)
    key_path.unlink()
    with pytest.raises(FileNotFoundError):
        disk.verify(KEYS, SALT)


@pytest.mark.parametrize(("damage", "shows"), [(cut, True), (empty, True), (lengthen, True), (flip_a_bit, False), (zero, False)])
def test_plain_chunks_show_damage_by_their_length_only(
    plain: DiskFiles, folder: Path, damage: Callable[[Path], None], shows: bool
) -> None:
    path = write_chunks(folder, plain=True)[2]
    path.write_bytes(os.urandom(CHUNK_BYTES))
    damage(path)
    expected = (KEYS[2],) if shows else ()
    assert DiskFiles(folder, MODEL, chunk_bytes=CHUNK_BYTES).verify(KEYS, SALT) == Damage(expected, 0)


def test_plain_chunks_are_compared_with_the_longest_where_nothing_else_is_known(plain: DiskFiles, folder: Path) -> None:
    paths = write_chunks(folder, plain=True)
    assert plain.verify(KEYS, SALT) == plain.verify((), SALT) == Damage()
    cut(paths[0])
    empty(paths[3])
    assert plain.verify(KEYS, SALT).damaged == (KEYS[0], KEYS[3])


def test_sealed_chunks_without_their_key_show_damage_by_their_length_only(folder: Path) -> None:
    paths = write_chunks(folder)
    files = DiskFiles(folder, MODEL, chunk_bytes=CHUNK_BYTES)
    assert files.verify(KEYS, SALT) == Damage()
    cut(paths[1])
    assert files.verify(KEYS, SALT) == Damage((KEYS[1],), 0)
