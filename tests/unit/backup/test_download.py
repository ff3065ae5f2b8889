"""What was fetched is kept: only what lacks is fetched again, whatever was kept is believed only by its hash."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbshield.backup import manifest as manifests
from dbshield.backup.damage import Damaged
from dbshield.backup.download import KEPT_SECONDS, downloads
from dbshield.backup.keys import SigningKey
from dbshield.backup.manifest import Manifest, Server
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository
from dbshield.backup.store import Folder, Source
from dbshield.errors import BackupError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONTENT = os.urandom(3 << 20)


class Breaking(Folder):
    """A store that is far away: it counts what it gives, and breaks after so many bytes."""

    given = 0
    breaks_at: int | None = None

    @contextlib.contextmanager
    def open(self, key: str, *, start: int = 0) -> Iterator[Source]:
        with super().open(key, start=start) as source:
            yield _Counting(self, source)


class _Counting:
    def __init__(self, store: Breaking, source: Source) -> None:
        self._store = store
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        if self._store.breaks_at is not None and self._store.given >= self._store.breaks_at:
            raise BackupError("the connection broke")
        data = self._source.read(min(size, 1 << 16))
        self._store.given += len(data)
        return data


@pytest.fixture
def store(tmp_path: Path) -> Breaking:
    return Breaking(tmp_path / "far")


@pytest.fixture
def reader(store: Breaking, tmp_path: Path) -> Reader:
    key = SigningKey.create(tmp_path / "backup.key")
    repository = Repository(store)
    writer = repository.begin("staging", NOW, recipients=[], level=1)
    for name in ("a", "b"):
        writer.add(name, io.BytesIO(name.encode() + CONTENT))
    manifest, _ = writer.finish(
        lambda members: Manifest(
            snapshot=writer.snapshot,
            environment="staging",
            plan="nightly",
            engine="logical",
            kind="full",
            parent=None,
            began=manifests.moment(NOW),
            ended=manifests.moment(NOW),
            server=Server(version=180006, system="7", timeline=1, lsn="0/1"),
            recipients=(),
            programs="18.6",
            dbshield="0",
            members=members,
        ),
        key,
    )
    found = repository.open("staging", manifest.snapshot, {key.name: key.public})
    store.given = 0
    return found


def restore(reader: Reader, base: Path) -> None:
    with downloads(base, reader.manifest) as kept:
        near = reader.through(kept)
        for name in ("a", "b"):
            assert near.read(name, ()) == name.encode() + CONTENT


def stored(reader: Reader, *names: str) -> int:
    return sum(reader.manifest.member(name).stored for name in names)


def test_what_breaks_goes_on_where_it_was(reader: Reader, store: Breaking, tmp_path: Path) -> None:
    work = tmp_path / "work"
    store.breaks_at = stored(reader, "a") + (1 << 20)
    with pytest.raises(BackupError, match="the connection broke"):
        restore(reader, work)
    folder = work / "downloads" / reader.manifest.snapshot
    assert {path.suffix for path in folder.iterdir()} == {"", ".part"}
    store.breaks_at = None
    restore(reader, work)
    # Every byte came once.
    assert store.given == stored(reader, "a", "b")
    assert not folder.exists()


def test_what_is_kept_is_believed_by_its_hash_alone(reader: Reader, store: Breaking, tmp_path: Path) -> None:
    work = tmp_path / "work"
    store.breaks_at = stored(reader, "a") + (1 << 20)
    with pytest.raises(BackupError):
        restore(reader, work)
    store.breaks_at = None
    for path in (work / "downloads" / reader.manifest.snapshot).iterdir():
        if path.name not in {"owner", "lock"}:
            data = bytearray(path.read_bytes())
            data[1000] ^= 1
            path.write_bytes(data)
    restore(reader, work)
    assert store.given > stored(reader, "a", "b") + stored(reader, "a")


def test_what_is_bad_at_the_destination_is_told_and_not_kept(reader: Reader, store: Breaking, tmp_path: Path) -> None:
    path = store.root / "staging" / reader.manifest.snapshot / "a"
    good = path.read_bytes()
    for bad, said in ((good[:-5], "has only"), (good + b"x", "has more than"), (b"x" + good[1:], "SHA-256 differs")):
        path.write_bytes(bad)
        with pytest.raises(Damaged, match=said):
            restore(reader, tmp_path / "work")
    path.write_bytes(good)
    restore(reader, tmp_path / "work")


def test_nothing_goes_into_a_folder_that_is_not_its_own(reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "work" / "downloads" / reader.manifest.snapshot
    folder.mkdir(parents=True, mode=0o700)
    (folder / "somebody's").write_text("data")
    with pytest.raises(BackupError, match="nothing is written into it"):
        restore(reader, tmp_path / "work")
    (folder / "owner").write_text("another manifest")
    with pytest.raises(BackupError, match="nothing is written into it"):
        restore(reader, tmp_path / "work")
    assert (folder / "somebody's").read_text() == "data"
    folder.chmod(0o755)
    with pytest.raises(BackupError, match="is not a private folder"):
        restore(reader, tmp_path / "work")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match="is not a private folder"):
        restore(reader, tmp_path / "work")


def test_one_restore_of_a_snapshot_fetches_at_a_time(reader: Reader, tmp_path: Path) -> None:
    with downloads(tmp_path, reader.manifest), pytest.raises(BackupError, match="another restore fetches"):
        restore(reader, tmp_path)
    restore(reader, tmp_path)


def test_what_nobody_came_back_for_goes(reader: Reader, store: Breaking, tmp_path: Path) -> None:
    store.breaks_at = 1
    with pytest.raises(BackupError):
        restore(reader, tmp_path)
    kept = tmp_path / "downloads" / reader.manifest.snapshot
    other = kept.with_name("20200101t000000z-aaaaaaaa")
    kept.rename(other)
    store.breaks_at = None
    restore(reader, tmp_path)
    assert other.exists()
    long_ago = time.time() - KEPT_SECONDS - 60
    os.utime(other, (long_ago, long_ago))
    restore(reader, tmp_path)
    assert not other.exists()
