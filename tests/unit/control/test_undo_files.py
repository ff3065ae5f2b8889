"""The folder of an undo point: whole or not there, and the same when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbshield.control.undo_files import Folder, UndoError, read_manifest
from dbshield.errors import Refused


def written(parent: Path, limit: int = 10_000) -> tuple[Path, bytes]:
    folder = Folder(parent, "apr-aaaaaaaa", limit=limit)
    with folder.file("1.before") as write:
        write(b"one\n")
        write(b"two\n")
    return parent / "apr-aaaaaaaa", folder.finish({"format": 1})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    folder, sha256 = written(tmp_path / "undo")
    manifest = read_manifest(folder, sha256)
    assert manifest["format"] == 1
    assert manifest["files"]["1.before"]["bytes"] == 8
    assert (tmp_path / "undo").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "undo").iterdir()] == ["apr-aaaaaaaa"]


def test_nothing_is_there_before_it_is_finished(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "apr-aaaaaaaa", limit=100)
    with folder.file("1.before") as write:
        write(b"one\n")
    assert not (tmp_path / "apr-aaaaaaaa").exists()
    folder.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["1.before", "manifest.json"])
def test_a_changed_byte_is_seen(tmp_path: Path, name: str) -> None:
    folder, sha256 = written(tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[0] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UndoError, match="was changed since"):
        read_manifest(folder, sha256)


def test_a_manifest_that_fits_other_files_is_not_the_one_that_was_written(tmp_path: Path) -> None:
    folder, sha256 = written(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UndoError, match="manifest"):
        read_manifest(folder, sha256)


@pytest.mark.parametrize("name", ["1.before", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder, sha256 = written(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UndoError):
        read_manifest(folder, sha256)


def test_the_limit_counts_all_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "apr-aaaaaaaa", limit=10)
    with folder.file("1.before") as write:
        write(b"12345678")
    with pytest.raises(Refused, match="10 bytes"), folder.file("2.before") as write:
        write(b"123")


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "undo").write_text("a file in its place")
    with pytest.raises(UndoError, match="cannot be written"):
        Folder(tmp_path / "undo", "apr-aaaaaaaa", limit=10)
