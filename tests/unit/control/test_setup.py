"""The state folder and the key: made once, kept afterwards, refused where others could change them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dbshield.config import Config
from dbshield.control.setup import make_key, make_state
from dbshield.control.vault import Vault
from dbshield.errors import StoreError


def test_the_state_folder_is_made_once_and_closed_whatever_the_umask(tmp_path: Path) -> None:
    config = Config(state=tmp_path / "a" / "state")
    before = os.umask(0)
    try:
        assert make_state(config) is True
    finally:
        os.umask(before)
    assert config.state.stat().st_mode & 0o066 == 0
    assert make_state(config) is False


def test_a_state_folder_where_anybody_writes_is_refused(tmp_path: Path) -> None:
    config = Config(state=tmp_path / "state")
    config.state.mkdir()
    config.state.chmod(0o777)
    with pytest.raises(StoreError, match="anybody may write") as caught:
        make_state(config)
    assert caught.value.hint == f"chmod o-w {config.state}"


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be made"):
        make_state(Config(state=tmp_path / "file" / "state"))


def test_the_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    assert make_key(path) is True
    sealed = Vault.load(path).seal("x", identity="a")
    assert make_key(path) is False
    assert Vault.load(path).unseal(sealed, identity="a") == "x"
    path.write_text("something else", encoding="utf-8")
    with pytest.raises(StoreError, match="does not hold a key"):
        make_key(path)
    with pytest.raises(StoreError, match="cannot be made"):
        make_key(tmp_path / "absent" / "secret.key")
