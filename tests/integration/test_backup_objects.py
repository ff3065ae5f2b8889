"""Snapshots in an object store that speaks like S3, a real server on loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.backups import Backups, backups_of
from support.buckets import CREDENTIALS, PIECE
from support.servers import Server

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.damage import Absent, Damaged, Taken
from dbshield.backup.keys import SigningKey
from dbshield.backup.objects import PART_BYTES, Objects, credentials
from dbshield.backup.repository import Repository
from dbshield.backup.wal_archive import Archive
from dbshield.cluster import temporary_folder
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, ConfigError


def whole(store: Objects, key: str) -> bytes:
    with store.open(key) as source:
        pieces = []
        while data := source.read(1 << 20):
            pieces.append(data)
        return b"".join(pieces)


def test_a_large_object_goes_in_parts_and_comes_back(plan: BackupConfig) -> None:
    store = Objects.of(plan)
    content = os.urandom(2 * PART_BYTES + 12345)
    with store.create("test/large") as sink:
        for start in range(0, len(content), 65536):
            sink.write(content[start : start + 65536])
    assert whole(store, "test/large") == content
    (found,) = store.list("test")
    assert (found.key, found.size) == ("test/large", len(content))
    store.delete("test/large")
    store.delete("test/large")
    assert list(store.list("test")) == []


def test_nothing_is_written_over(plan: BackupConfig) -> None:
    store = Objects.of(plan)
    store.put_new("a", b"first")
    with pytest.raises(Taken):
        store.put_new("a", b"second")
    with pytest.raises(Taken), store.create("a") as sink:
        sink.write(b"third")
    assert whole(store, "a") == b"first"
    # What was repeated because an answer got lost is no second writer.
    store.put_new("a", b"first")


def test_wal_in_a_bucket(plan: BackupConfig, tmp_path: Path) -> None:
    """Each piece is one request that fails where its name is taken, whoever else archives there."""
    archive, key = Archive(Objects.of(plan), "test", "nightly"), SigningKey.create(tmp_path / "key")
    trusted = {key.name: key.public}
    data = os.urandom(PIECE.segment_size)
    whole, new = archive.put(PIECE, data, to=(), level=1, key=key, trusted=trusted)
    later = replace(PIECE, shipped_at="2026-05-01T12:00:09.000000Z")
    assert (new, archive.put(later, data, to=(), level=1, key=key, trusted=trusted)) == (True, (whole, False))
    with pytest.raises(BackupError, match="the archive has another"):
        archive.put(PIECE, data[::-1], to=(), level=1, key=key, trusted=trusted)
    (found,) = archive.held(PIECE.system)
    assert (found.name, archive.head(found.key, trusted)) == (PIECE.name, whole)
    assert archive.read(found.key, trusted, ()) == (whole, data)
    archive.remove(found)
    assert archive.held() == ()


def test_an_upload_that_fails_is_no_object(plan: BackupConfig) -> None:
    store = Objects.of(plan)
    with pytest.raises(ValueError, match="the source broke"), store.create("half") as sink:
        sink.write(os.urandom(2 * PART_BYTES))
        raise ValueError("the source broke")
    with pytest.raises(Absent), store.open("half"):
        pass


def test_what_the_store_says_is_a_line_without_secrets(plan: BackupConfig) -> None:
    elsewhere = plan.model_copy(update={"destination": "s3://no-such-bucket/x"})
    with pytest.raises(BackupError) as caught:
        Objects.of(elsewhere).put_new("a", b"x")
    assert "s3://no-such-bucket/x/a" in caught.value.message
    assert "\n" not in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("address", "message"),
    [("http://192.0.2.7:9000", "not on this machine"), ("ftp://localhost", "no URL"), ("https://a:b@localhost", "no URL")],
)
def test_an_endpoint_without_tls_is_on_this_machine(plan: BackupConfig, address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Objects.of(plan.model_copy(update={"endpoint": address}))


def test_credentials_are_for_their_owner(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"# ours\n\n{CREDENTIALS}")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        credentials(file)
    file.chmod(0o600)
    assert credentials(file) == {"aws_access_key_id": "testing", "aws_secret_access_key": "hunter2hunter2"}
    file.write_text("hunter2\n")
    with pytest.raises(ConfigError, match="line 1 is no NAME=value") as caught:
        credentials(file)
    assert "hunter2" not in caught.value.message


@pytest.fixture
def backups(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    name = f"backup_objects_{worker_id}"
    server18.clone(name)
    try:
        with backups_of(server18, name, tmp_path / "shield") as made:
            yield made
    finally:
        server18.drop(name)


def test_a_snapshot_in_a_bucket(backups: Backups, plan: BackupConfig) -> None:
    backups.write_config(
        destination=plan.destination,
        same_device=None,
        endpoint=plan.endpoint,
        region=plan.region,
        credentials_file=str(plan.credentials_file),
    )
    made = backups.backup()
    assert made["destination"] == plan.destination
    checked = backups.json("backup", "verify", made["snapshot"], "--identity", str(backups.identity))
    assert (checked["verified"], checked["opened"], checked["problems"]) == (True, True, [])
    store = Objects.of(plan)
    with backups.store() as control:
        reader = Repository(store).open("test", made["snapshot"], Catalogue(control).trusted())
    member = max(reader.manifest.members, key=lambda member: member.stored)
    key = f"test/{made['snapshot']}/{member.name}"
    data = bytearray(whole(store, key))
    data[len(data) // 2] ^= 1
    store.delete(key)
    with store.create(key) as sink:
        sink.write(bytes(data))
    with pytest.raises(Damaged, match="SHA-256 differs"):
        reader.check(member)
    assert backups.json("backup", "verify", made["snapshot"], status=1)["problems"] == [
        f"{member.name} is not what was written: its SHA-256 differs"
    ]
    store.delete(key)
    assert backups.json("backup", "verify", made["snapshot"], status=1)["problems"] == [
        f"{member.name} of {made['snapshot']} is not there"
    ]
    assert Repository(store).remove("test", made["snapshot"]) == len(reader.manifest.members) + 2
    assert Repository(store).list() == ()


def test_a_restore_from_a_bucket_goes_on_where_it_was(backups: Backups, plan: BackupConfig, tmp_path: Path) -> None:
    backups.write_config(
        destination=plan.destination,
        same_device=None,
        endpoint=plan.endpoint,
        region=plan.region,
        credentials_file=str(plan.credentials_file),
        identity_file=str(backups.identity),
    )
    made = backups.backup()["snapshot"]
    store = Objects.of(plan)
    key = f"test/{made}/globals.sql"
    good = whole(store, key)
    store.delete(key)
    ground = temporary_folder("dbshield-bucket-test-")
    try:
        done = backups.run("restore", "--to-folder", str(ground / "restored"))
        assert done.returncode == 2
        assert f"globals.sql of {made} is not there" in done.stderr
        kept = backups.state / "backup" / "downloads" / made
        sizes = {path.name: path.stat().st_size for path in kept.iterdir()}
        assert len(sizes) > 5
        for path in kept.iterdir():
            if path.name not in {"owner", "lock"}:
                assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
        with store.create(key) as sink:
            sink.write(good)
        assert backups.json("restore", "--to-folder", str(ground / "restored"))["tables_compared"] > 1
        assert not kept.exists()
    finally:
        shutil.rmtree(ground)
