"""A drill of a snapshot that somebody wrote over: it reads what Object Lock kept, and its record says so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backups import Backups, backups_of, small_database
from support.buckets import client_of
from support.servers import Server

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.drill_store import Drills, check
from dbshield.cluster import temporary_folder
from dbshield.config import BackupConfig


@pytest.fixture
def locked(server18: Server, worker_id: str, plan: BackupConfig, tmp_path: Path) -> Iterator[Backups]:
    """A plan that locks, of a database with one table."""
    name = f"drill_locked_{worker_id}"
    ground = temporary_folder("dbshield-drill-locked-test-")
    try:
        with small_database(server18, name), backups_of(server18, name, tmp_path / "shield") as made:
            made.write_config(
                same_device=None,
                destination="s3://drilled/shop",
                endpoint=plan.endpoint,
                region=plan.region,
                credentials_file=str(plan.credentials_file),
                object_lock="governance",
                object_lock_days=30,
                drill_folder=str(ground / "drills"),
                identity_file=str(made.identity),
            )
            yield made
    finally:
        shutil.rmtree(ground)


def test_a_drill_reads_what_the_lock_kept_and_its_record_says_so(locked: Backups, endpoint: str) -> None:
    client = client_of(endpoint)
    client.create_bucket(Bucket="drilled", ObjectLockEnabledForBucket=True)
    snapshot = locked.backup()["snapshot"]
    sizes = {
        found["Key"].removeprefix(f"shop/test/{snapshot}/"): found["Size"]
        for found in client.list_objects_v2(Bucket="drilled", Prefix=f"shop/test/{snapshot}/")["Contents"]
    }
    (member,) = [name for name in sizes if "/dump/" in name and not name.endswith("toc.dat")]
    # The rows themselves as garbage of their size, and the manifest away.
    client.put_object(Bucket="drilled", Key=f"shop/test/{snapshot}/{member}", Body=b"x" * sizes[member])
    client.delete_object(Bucket="drilled", Key=f"shop/test/{snapshot}/manifest.json")

    found = locked.json("restore-drill")
    assert (found["verdict"], found["snapshot"]) == ("passed", snapshot)
    outcomes = {each["name"]: each["outcome"] for each in found["checks"]}
    assert {name: outcomes[name] for name in ("manifest", "members", "rows", "content")} == dict.fromkeys(
        ("manifest", "members", "rows", "content"), "passed"
    )
    covered = [said.partition(" at ")[0].partition(", ")[0] for said in found["covered"]]
    assert sorted(covered) == sorted(
        [f"manifest.json of {snapshot} was hidden by a delete marker", f"{member} of {snapshot} was written over"]
    )

    with locked.store() as store:
        (kept,) = Drills(store).list(environment="test")
        check(kept, Catalogue(store).trusted())
    (measure,) = [each["measure"] for each in kept.drill.checks if each["name"] == "members"]
    for said in found["covered"]:
        assert said in measure, "the signed record names it"
        assert said in Path(found["report"][1]).read_text()
    (entry,) = locked.cli("audit", "search", "--kind", "backup-tampered", "--json").splitlines()
    assert f"{member} of {snapshot} was written over" in entry
