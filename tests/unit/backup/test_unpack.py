"""An archive that is unpacked while it is opened: what comes out counts only when all of it was what was backed up."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from dbshield.backup import manifest as manifests
from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.backup.keys import SigningKey
from dbshield.backup.manifest import Manifest, Server
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository
from dbshield.backup.store import Folder
from dbshield.backup.unpack import extract, streamed

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONTENT = os.urandom(3 << 20)
OWNER = pyrage.x25519.Identity.generate()


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as found:
        for name in ("1", "2"):
            entry = tarfile.TarInfo(name)
            entry.size = len(CONTENT)
            found.addfile(entry, io.BytesIO(CONTENT))
    return made.getvalue()


def reader(folder: Path, content: bytes, *, sealed: bool = True) -> Reader:
    """A snapshot with one member."""
    folder.mkdir()
    key = SigningKey.create(folder / "backup.key")
    repository = Repository(Folder(folder / "far"))
    recipients = (str(OWNER.to_public()),) if sealed else ()
    writer = repository.begin("staging", NOW, recipients=recipients, level=1)
    writer.add("base.tar", io.BytesIO(content))
    made, _ = writer.finish(
        lambda members: Manifest(
            snapshot=writer.snapshot,
            environment="staging",
            plan="nightly",
            engine="physical",
            kind="full",
            parent=None,
            began=manifests.moment(NOW),
            ended=manifests.moment(NOW),
            server=Server(version=180006, system="7", timeline=1, lsn="0/1"),
            recipients=recipients,
            programs="18.6",
            dbshield="0",
            members=members,
        ),
        key,
    )
    return repository.open("staging", made.snapshot, {key.name: key.public})


def stored(folder: Path) -> Path:
    (found,) = (folder / "far").rglob("base.tar")
    return found


def unpacked(found: Reader, folder: Path) -> list[bytes]:
    try:
        with streamed(found, "base.tar", [OWNER]) as stream:
            extract(stream, "base.tar", folder)
    finally:
        assert not [each for each in threading.enumerate() if each.name == "fetch-archive"]
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("sealed", [True, False])
def test_what_was_backed_up_comes_out(tmp_path: Path, sealed: bool) -> None:
    assert unpacked(reader(tmp_path / "a", archive(), sealed=sealed), tmp_path / "data") == [CONTENT, CONTENT]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("place", [200, 1 << 20, -1], ids=str)
def test_what_was_changed_is_told_by_its_hash(tmp_path: Path, sealed: bool, place: int) -> None:
    """Wherever it was changed, also where the archive itself has ended before."""
    found = reader(tmp_path / "a", archive(), sealed=sealed)
    data = bytearray(stored(tmp_path / "a").read_bytes())
    data[place] ^= 1
    stored(tmp_path / "a").write_bytes(data)
    with pytest.raises(Damaged, match="its SHA-256 differs"):
        unpacked(found, tmp_path / "data")


def test_what_is_cut_short_missing_or_somebody_elses_is_told_as_that(tmp_path: Path) -> None:
    found = reader(tmp_path / "a", archive())
    whole = stored(tmp_path / "a").read_bytes()
    stored(tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Damaged, match="has only"):
        unpacked(found, tmp_path / "b")
    stored(tmp_path / "a").write_bytes(whole)
    with pytest.raises(WrongKey), streamed(found, "base.tar", [pyrage.x25519.Identity.generate()]) as stream:
        extract(stream, "base.tar", tmp_path / "c")
    stored(tmp_path / "a").unlink()
    with pytest.raises(Absent):
        unpacked(found, tmp_path / "d")


def test_what_was_signed_and_is_no_archive_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"base\.tar is no base backup"):
        unpacked(reader(tmp_path / "a", os.urandom(1 << 20)), tmp_path / "data")


def test_a_disk_that_fails_ends_the_fetching(tmp_path: Path) -> None:
    found = reader(tmp_path / "a", archive())
    with pytest.raises(OSError, match="full"), streamed(found, "base.tar", [OWNER]) as stream:
        stream.read(10)
        raise OSError("the disk is full")
    assert not [each for each in threading.enumerate() if each.name == "fetch-archive"]
