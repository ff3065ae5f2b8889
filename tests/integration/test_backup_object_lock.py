"""Object Lock against a real store: what is locked stays, and is read below whatever was put over it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from support.backups import Backups, backups_of, small_database
from support.buckets import BUCKET, PIECE, client_of
from support.servers import Server
from support.waiting import until

from dbshield.backup.keys import SigningKey
from dbshield.backup.object_lock import LockedObjects
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_prune import Start, Trimmed, trim
from dbshield.cluster import temporary_folder
from dbshield.config import BackupConfig


@pytest.fixture
def small(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    name = f"backup_locked_{worker_id}"
    with small_database(server18, name), backups_of(server18, name, tmp_path / "shield") as made:
        yield made


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
    first, second = one_after_the_other(small), str(small.backup()["snapshot"])
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
    days = [round(((archive.held_until(each) or now) - now) / timedelta(days=1)) for each in archive.held()]
    assert days == [30, 1, 30]

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
    assert (trimmed.gone, round(((trimmed.locked_until or now) - now) / timedelta(days=1))) == (0, 1)
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
