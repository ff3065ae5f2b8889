"""The key file: one key or several, written whole or not at all, and a vault that notices another."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from dbshield.control import key_file
from dbshield.control.key_file import CURRENT, NEXT, OLD, KeyRing, key_name
from dbshield.control.vault import Vault, sealed_by
from dbshield.errors import StoreError

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


def line(word: str, key: bytes) -> str:
    return f"{word}:{base64.b64encode(key).decode()}\n"


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def exchange(path: Path, ring: KeyRing) -> None:
    key_file.replace(path, key_file.staged(path, ring))


@pytest.mark.parametrize(
    "ring",
    [
        KeyRing(current=ONE),
        KeyRing(current=ONE, following=TWO),
        KeyRing(current=ONE, older=(THREE, TWO)),
        KeyRing(current=ONE, following=TWO, older=(THREE,)),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, ring: KeyRing) -> None:
    path = tmp_path / "secret.key"
    key_file.create(path)
    exchange(path, ring)
    assert key_file.read(path) == ring
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    "text",
    [
        line(NEXT, ONE),
        line(OLD, ONE),
        line(CURRENT, ONE) + line(CURRENT, TWO),
        line(CURRENT, ONE) + line(NEXT, TWO) + line(NEXT, THREE),
        line(CURRENT, ONE) + line("dbshield-secret-key-2", TWO),
        line(CURRENT, ONE) + line(OLD, TWO[:31]),
        line(CURRENT, ONE) + "what?\n",
        line(CURRENT, ONE) * 1 + line(OLD, TWO) * 100,
    ],
)
def test_what_is_half_a_file_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret.key"
    put(path, text)
    with pytest.raises(StoreError, match="does not hold a key"):
        key_file.read(path)


def test_an_exchange_goes_by_three_steps() -> None:
    first = KeyRing(current=ONE)
    prepared = first.prepared()
    assert (prepared.current, prepared.older) == (ONE, ())
    assert prepared.following not in {None, ONE}
    switched = prepared.switched()
    assert switched == KeyRing(current=prepared.following or b"", older=(ONE,))
    assert switched.retired() == KeyRing(current=prepared.following or b"")
    assert repr(prepared) == "KeyRing()", "no key in a log"


def test_what_a_killed_exchange_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    key_file.create(path)
    before = path.read_bytes()
    left = key_file.staged(path, KeyRing(current=TWO))
    assert left.exists()
    assert path.read_bytes() == before
    exchange(path, KeyRing(current=THREE))
    assert key_file.read(path).current == THREE
    assert not left.exists()


def test_a_vault_opens_with_every_key_and_seals_with_the_current_one() -> None:
    ring = KeyRing(current=ONE, following=TWO, older=(THREE,))
    vault = Vault.of(ring)
    for key in ring.every:
        assert vault.unseal(Vault(key).seal("hunter2", identity="a"), identity="a") == "hunter2"
    assert sealed_by(vault.seal("x", identity="a")) == key_name(ONE) == vault.name
    assert vault.derive("p") == Vault(ONE).derive("p")
    assert vault.derived("p") == (Vault(ONE).derive("p"), Vault(THREE).derive("p"))


def test_a_vault_that_stands_notices_another_file(tmp_path: Path) -> None:
    """As a proxy's does that has run since before the exchange."""
    path = tmp_path / "secret.key"
    standing = Vault.create(path)
    ring = key_file.read(path).prepared().switched()
    sealed = Vault.of(ring).seal("hunter2", identity="a")
    for _ in range(2):
        with pytest.raises(StoreError, match="sealed with another key"):
            standing.unseal(sealed, identity="a")
    exchange(path, ring)
    assert standing.unseal(sealed, identity="a") == "hunter2"
    path.chmod(0o644)
    assert standing.unseal(sealed, identity="a") == "hunter2"
    with pytest.raises(StoreError, match="sealed with another key"):
        standing.unseal(Vault(TWO).seal("x", identity="a"), identity="a")
