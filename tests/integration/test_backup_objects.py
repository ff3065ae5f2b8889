"""Snapshots in an object store that speaks like S3, a real server on loopback."""

from __future__ import annotations

import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from support.backups import Backups, backups_of
from support.servers import Server
from support.waiting import until

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.damage import Absent, Damaged, Taken
from dbshield.backup.keys import SigningKey
from dbshield.backup.object_lock import LockedObjects
from dbshield.backup.objects import PART_BYTES, Objects, credentials
from dbshield.backup.repository import Repository
from dbshield.backup.wal import Piece
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_prune import Start, Trimmed, trim
from dbshield.cluster import temporary_folder
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, ConfigError

BUCKET = "backups"
PIECE = Piece(
    environment="test",
    plan="nightly",
    system="7710951481578435799",
    timeline=1,
    kind="segment",
    name="000000010000000000000002",
    segment_size=1 << 20,
    start=2 << 20,
    end=3 << 20,
    size=0,
    stored=0,
    sha256="",
    plain="",
    recipients=(),
    mark=0,
    marked_at="",
    shipped_at="2026-05-01T12:00:01.000000Z",
)
CREDENTIALS = "AWS_ACCESS_KEY_ID=testing\nAWS_SECRET_ACCESS_KEY=hunter2hunter2\n"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    yield address
    server.stop()


@pytest.fixture
def plan(endpoint: str, tmp_path: Path) -> BackupConfig:
    file = tmp_path / "credentials"
    file.write_text(CREDENTIALS)
    file.chmod(0o600)
    return BackupConfig(
        destination=f"s3://{BUCKET}/{tmp_path.name}",
        encryption="none",
        credentials_file=file,
        endpoint=endpoint,
        region="us-east-1",
    )


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


# Object Lock -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    """Of a database with one table: each member of its snapshots is a dozen requests."""
    name = f"backup_locked_{worker_id}"
    with server18.connect() as admin:
        admin.execute(f'create database "{name}"')
    try:
        with server18.connect(name) as source:
            source.execute("create table t as select g from generate_series(1, 100) g")
        with backups_of(server18, name, tmp_path / "shield") as made:
            yield made
    finally:
        server18.drop(name)


def client_of(endpoint: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="hunter2hunter2",
    )


def one_after_the_other(small: Backups) -> str:
    """A snapshot, and the second that its name begins with is over: where names alone tell, the next one is newer."""
    made = str(small.backup()["snapshot"])
    over = time.time() // 1 + 1
    assert until(lambda: time.time() >= over)
    return made


def test_what_is_locked_stays(small: Backups, endpoint: str, plan: BackupConfig, tmp_path: Path) -> None:
    client = client_of(endpoint)
    settings = {
        "same_device": None,
        "endpoint": plan.endpoint,
        "region": plan.region,
        "credentials_file": str(plan.credentials_file),
        "object_lock": "governance",
        "object_lock_days": 30,
    }
    small.write_config(destination=plan.destination, **settings)
    done = small.run("backup")
    assert done.returncode == 2
    assert f"the bucket {BUCKET} has no Object Lock" in done.stderr
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    small.write_config(destination="s3://locked/shop", keep_last=1)
    first, second = one_after_the_other(small), one_after_the_other(small)
    checked = small.json("backup", "verify", first)
    assert checked["verified"] is True
    assert datetime.fromisoformat(checked["locked_until"]) > datetime.now(UTC) + timedelta(days=29)

    # Retention waits for the end of the lock, and says when that is.
    decided = small.json("backup", "prune")
    assert decided["removed"] == []
    kept = {each["snapshot"]: each["because"] for each in decided["kept"]}
    (said,) = [why for why in kept[first] if why.startswith("locked until ")]
    assert datetime.fromisoformat(said.removeprefix("locked until ")) > datetime.now(UTC) + timedelta(days=29)

    # With the plan's own credentials nothing can be destroyed. What is hidden by a delete without a version, or lies below
    # another one, is what is read, and is told.
    keys = {name: f"shop/test/{first}/{name}" for name in ("manifest.json", "manifest.sig", "record.json", "globals.sql")}
    versions = {found["Key"]: found for found in client.list_object_versions(Bucket="locked")["Versions"]}
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket="locked", Key=keys["manifest.json"], VersionId=versions[keys["manifest.json"]]["VersionId"])
    client.delete_object(Bucket="locked", Key=keys["manifest.json"])
    client.put_object(Bucket="locked", Key=keys["manifest.sig"], Body=b"{}")
    client.put_object(Bucket="locked", Key=keys["record.json"], Body=b"x")
    client.put_object(Bucket="locked", Key=keys["globals.sql"], Body=b"x" * versions[keys["globals.sql"]]["Size"])
    found = small.json("backup", "verify", first, "--identity", str(small.identity))
    assert (found["verified"], found["opened"]) == (True, True)
    assert [said.partition(" at ")[0].partition(", ")[0] for said in found["covered"]] == [
        f"manifest.json of {first} was hidden by a delete marker",
        f"manifest.sig of {first} was written over",
        f"globals.sql of {first} was written over",
        f"record.json of {first} was written over",
    ]
    (entry,) = small.cli("audit", "search", "--kind", "backup-tampered", "--json").splitlines()
    assert f"globals.sql of {first} was written over" in entry
    words = ("--snapshot", first, "--identity-file", str(small.identity))
    ground = temporary_folder("dbshield-locked-test-")
    try:
        done = small.run("restore", "--to-folder", str(ground / "restored"), *words)
        assert done.returncode == 0, done.stderr
        assert "1 tables are as they were backed up" in done.stdout
        assert f"TAMPERED WITH: manifest.json of {first} was hidden" in done.stderr
        # By what is at the destination alone, where an older snapshot must not seem to be the newest.
        lost = ("--public-key", small.public_key, "--plan", "nightly")
        client.delete_object(Bucket="locked", Key=f"shop/test/{second}/manifest.json")
        found = small.json("restore", "--to-folder", str(ground / "newest"), *lost, "--identity-file", str(small.identity))
        assert (found["snapshot"], len(found["covered"])) == (second, 1)
    finally:
        shutil.rmtree(ground)

    # A lock that somebody with the right to do so has taken away is missed, and then retention removes every version.
    for key, found in versions.items():
        if key.startswith(f"shop/test/{first}/"):
            client.put_object_retention(
                Bucket="locked", Key=key, VersionId=found["VersionId"], Retention={}, BypassGovernanceRetention=True
            )
    assert "manifest.json is not locked" in small.json("backup", "verify", first, status=1)["problems"]
    assert small.json("backup", "prune")["removed"] == [first]
    left = client.list_object_versions(Bucket="locked", Prefix=f"shop/test/{first}/")
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
    assert small.json("backup", "verify", second)["verified"] is True


def test_locked_wal_stays_and_is_read_below_what_lies_over_it(endpoint: str, plan: BackupConfig, tmp_path: Path) -> None:
    """Segments for as long as snapshots; the beginning of one, which is put anew all the time, for a day."""
    client, key = client_of(endpoint), SigningKey.create(tmp_path / "key")
    trusted = {key.name: key.public}
    client.create_bucket(Bucket="locked-wal", ObjectLockEnabledForBucket=True)
    changed = {"destination": "s3://locked-wal/shop", "object_lock": "governance", "object_lock_days": 30}
    store = LockedObjects.of(plan.model_copy(update=changed))
    archive, now = Archive(store, "test", "nightly"), datetime.now(UTC)
    data = os.urandom(PIECE.segment_size)
    half = replace(PIECE, kind="partial", end=PIECE.start + 1000)
    later = replace(PIECE, name="000000010000000000000003", start=3 << 20, end=4 << 20)
    whole, _ = archive.put(PIECE, data, to=(), level=1, key=key, trusted=trusted)
    for piece, content in ((half, data[:1000]), (later, data[::-1])):
        archive.put(piece, content, to=(), level=1, key=key, trusted=trusted)
    days = [((archive.held_until(each) or now) - now).days for each in archive.held()]
    assert days == [29, 0, 29]

    # Written over and hidden, by somebody who may write and cannot delete. The shipper still meets its own.
    place = f"shop/{whole.key}"
    client.put_object(Bucket="locked-wal", Key=place, Body=b"dbshield-wal-1\nnonsense")
    assert archive.read(whole.key, trusted, ()) == (whole, data)
    client.delete_object(Bucket="locked-wal", Key=place)
    assert len(archive.held()) == 3
    assert archive.head(whole.key, trusted) == whole
    assert store.covered() == (f"{whole.name} of the WAL archive was written over or hidden",)
    client.put_object(Bucket="locked-wal", Key=place, Body=b"")
    assert archive.put(PIECE, data, to=(), level=1, key=key, trusted=trusted) == (whole, False)

    # Nothing needs the three any more: what is locked stays, and is not asked for one by one.
    needed = [Start(system=PIECE.system, timeline=1, lsn=10 << 20, segment_size=PIECE.segment_size)]
    trimmed = trim(archive, needed, now)
    assert (trimmed.gone, trimmed.locked_until is not None and (trimmed.locked_until - now).days) == (0, 0)
    for found in client.list_object_versions(Bucket="locked-wal")["Versions"]:
        if "ObjectLockMode" in client.head_object(Bucket="locked-wal", Key=found["Key"], VersionId=found["VersionId"]):
            client.put_object_retention(
                Bucket="locked-wal",
                Key=found["Key"],
                VersionId=found["VersionId"],
                Retention={},
                BypassGovernanceRetention=True,
            )
    assert trim(archive, needed, now) == Trimmed(gone=3)
    assert not {"Versions", "DeleteMarkers"} & set(client.list_object_versions(Bucket="locked-wal"))


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
