"""The vault: what is sealed opens with the same key for the same row, and in no other case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.vault import Vault
from dbshield.errors import StoreError

KEY = bytes(range(32))


@given(st.text(max_size=200))
def test_a_secret_reads_back(secret: str) -> None:
    vault = Vault(KEY)
    sealed = vault.seal(secret, identity="agents/1/password")
    assert vault.unseal(sealed, identity="agents/1/password") == secret
    assert len(sealed) == 1 + 4 + 12 + len(secret.encode()) + 16


def test_the_same_secret_never_looks_the_same() -> None:
    vault = Vault(KEY)
    sealed = {vault.seal("hunter2", identity="a") for _ in range(100)}
    assert len(sealed) == 100
    assert not any(b"hunter2" in text for text in sealed)


@given(st.data())
def test_a_changed_seal_does_not_open(data: st.DataObject) -> None:
    vault = Vault(KEY)
    sealed = bytearray(vault.seal("hunter2", identity="a"))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreError):
        vault.unseal(bytes(sealed), identity="a")


@given(st.binary(max_size=64))
def test_nothing_else_opens(junk: bytes) -> None:
    with pytest.raises(StoreError):
        Vault(KEY).unseal(junk, identity="a")


def test_a_seal_belongs_to_its_row_and_its_key() -> None:
    sealed = Vault(KEY).seal("hunter2", identity="agents/1/password")
    with pytest.raises(StoreError, match="belongs to another agent"):
        Vault(KEY).unseal(sealed, identity="agents/2/password")
    with pytest.raises(StoreError, match="sealed with another key") as caught:
        Vault(bytes(32)).unseal(sealed, identity="agents/1/password")
    assert "hunter2" not in str(caught.value)


def test_the_key_file_is_for_its_owner_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    before = os.umask(0)
    try:
        vault = Vault.create(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Vault.create(path)
    sealed = vault.seal("x", identity="a")
    assert Vault.load(path).unseal(sealed, identity="a") == "x"


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    Vault.create(path)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(StoreError, match="open to others") as caught:
            Vault.load(path)
        assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "content", [b"", b"dbshield-secret-key-1:", b"dbshield-secret-key-1:AAAA", b"key:" + b"A" * 44, b"\xff\xfe", b"x" * 1000]
)
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"secret\.key"):
        Vault.load(path)


def test_a_missing_key_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there") as caught:
        Vault.load(tmp_path / "secret.key")
    assert "dbshield init" in caught.value.hint


def test_derived_secrets_differ_by_purpose_and_key() -> None:
    assert Vault(KEY).derive("a") == Vault(KEY).derive("a")
    assert len({Vault(KEY).derive("a"), Vault(KEY).derive("b"), Vault(bytes(32)).derive("a"), KEY}) == 4
