"""LMCache's encrypted frames: a real one opens, and whatever was done to one shows."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from backends.lmcache.sealed import FRAME_BYTES, Seal
from router.documents import Salt
from tests.backends.lmcache.samples import MASTER_KEY, OTHER, SALT, frame

REAL = bytes.fromhex("014455c15bf6c2483b1b815fc5a0b5d0361724dc5ff61b63f8423be41d53bb5d5d198373be0e629039f21f731feffe637601a18fd8")
"""What LMCache 0.5.6's AesGcmSerializer made of 24 bytes with MASTER_KEY and SALT."""
WHOLE = frame()
NAME = "chunk"
SEAL = Seal(MASTER_KEY, SALT)

positions = st.integers(0, len(WHOLE) - 1)


def test_a_frame_that_lmcache_wrote_is_whole() -> None:
    assert SEAL.holds(REAL, NAME)
    assert len(REAL) == 24 + FRAME_BYTES


@given(st.binary(max_size=200), st.sampled_from([SALT, OTHER]))
def test_what_was_stored_under_a_salt_is_whole_there_and_nowhere_else(content: bytes, salt: Salt) -> None:
    stored = frame(salt, content)
    assert [Seal(MASTER_KEY, each).holds(stored, NAME) for each in (SALT, OTHER)] == [salt == SALT, salt == OTHER]


@given(positions)
def test_a_cut_frame_shows(length: int) -> None:
    assert not SEAL.holds(WHOLE[:length], NAME)


@given(positions, st.integers(0, 7))
def test_a_flipped_bit_shows(position: int, bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[position] ^= 1 << bit
    assert not SEAL.holds(bytes(damaged), NAME)


@given(positions, st.integers(1, len(WHOLE)))
def test_zeros_show(start: int, length: int) -> None:
    damaged = WHOLE[:start] + bytes(len(WHOLE[start : start + length])) + WHOLE[start + length :]
    assert SEAL.holds(damaged, NAME) == (damaged == WHOLE)


@given(st.binary(min_size=1, max_size=40))
def test_more_behind_a_frame_shows(more: bytes) -> None:
    assert not SEAL.holds(WHOLE + more, NAME)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_frame(other: bytes) -> None:
    assert not SEAL.holds(other, NAME)
    assert not SEAL.holds(b"\x01" + other, NAME)


def test_another_key_opens_nothing() -> None:
    assert not Seal(bytes(32), SALT).holds(WHOLE, NAME)


def test_a_later_version_of_the_frame_is_not_taken_for_whole() -> None:
    assert not SEAL.holds(b"\x02" + WHOLE[1:], NAME)


def named(name: str, content: bytes = b"content") -> bytes:
    """A frame as `backends/local/kv_server.py` writes it."""
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"lmcache-l2-aesgcm-v1" + SALT.encode()).derive(MASTER_KEY)
    return b"\x02" + bytes(12) + AESGCM(key).encrypt(bytes(12), content, name.encode())


def test_a_named_frame_holds_under_its_own_name_alone() -> None:
    seal = Seal(MASTER_KEY, SALT, named=True)
    assert seal.holds(named("chunk-1"), "chunk-1")
    assert not seal.holds(named("chunk-1"), "chunk-2")


def test_named_and_nameless_frames_do_not_pass_for_one_another() -> None:
    assert not Seal(MASTER_KEY, SALT, named=True).holds(REAL, "chunk-1")
    assert not Seal(MASTER_KEY, SALT).holds(named("chunk-1"), "chunk-1")
