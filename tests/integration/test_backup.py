"""Backups of real servers by the command line: whole ones, damaged ones, and what a backup refuses to begin with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support.backups import Backups, backups_of, backups_of_clone, files, left_behind
from support.servers import Server

from dbshield.backup import look, sealing
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.engine import Silent
from dbshield.backup.repository import Repository
from dbshield.backup.run import take
from dbshield.backup.source import Connection
from dbshield.backup.store import Folder
from dbshield.config import load_config

pytestmark = pytest.mark.one_server


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of(server, database, tmp_path / "shield") as made:
        yield made


@pytest.fixture
def backups18(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of_clone(server18, f"backup_{worker_id}", tmp_path / "shield") as made:
        yield made


def test_a_snapshot_is_made_listed_shown_and_verified(backups: Backups) -> None:
    backups.cli("backup", "setup")
    made = backups.backup()
    assert made["environment"] == "test"
    assert made["encrypted"] is True
    assert made["canary"] is True
    assert made["interrupted"] == []
    assert 0 < made["stored_bytes"] < made["bytes"]
    (found,) = backups.listed()
    assert (found["snapshot"], found["state"], found["objects"]) == (made["snapshot"], "complete", made["objects"])
    shown = backups.json("backup", "show", made["snapshot"])
    (database,) = shown["record"]["databases"]
    rows = {f"{table['schema']}.{table['name']}": table["rows"] for table in database["tables"]}
    with backups.server.connect(backups.database) as connection:
        for name, count in rows.items():
            if count is not None and name.startswith(("shop.", "archive.")):
                assert connection.execute(sql.SQL("select count(*) from only {}").format(sql.SQL(name))).fetchone() == (count,)
        orders = connection.execute("select count(*) from shop.orders").fetchone()
    assert rows["shop.orders"] == (orders[0] if orders else None)
    assert rows["dbshield_backup.canary"] == 1
    assert rows["shop.sales_by_day"] is None
    checked = backups.json("backup", "verify", made["snapshot"], "--identity", str(backups.identity))
    assert checked["verified"] is True
    assert checked["opened"] is True
    assert checked["objects"] == made["objects"]
    assert "all as they were written" in backups.cli("backup", "verify", made["snapshot"][:20])
    assert left_behind(backups) == []
    # Only the manifest, its signature and the claim can be read without the identity.
    for path in backups.destination.rglob("*"):
        if path.is_file() and path.name not in {"manifest.json", "manifest.sig", "claim"}:
            assert path.read_bytes().startswith(b"age-encryption.org/v1\n"), path
    assert backups.database not in (backups.destination / "test" / made["snapshot"] / "manifest.json").read_text()


def test_the_second_snapshot_stands_beside_the_first(backups18: Backups) -> None:
    first, second = backups18.backup(), backups18.backup()
    assert first["snapshot"] != second["snapshot"]
    assert [found["snapshot"] for found in backups18.listed()] == [second["snapshot"], first["snapshot"]]
    listed = backups18.cli("backup", "list")
    assert listed.splitlines()[0].split() == [
        "snapshot", "environment", "plan", "engine", "state", "began", "size", "stored", "drill",
    ]  # fmt: skip
    assert "remark: no canary was written: there is no table for it" in backups18.run("backup").stderr


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_whatever_is_changed_at_the_destination_is_named(backups18: Backups) -> None:
    made = backups18.backup()
    folder = backups18.destination / "test" / made["snapshot"]
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    name = largest.relative_to(folder).as_posix()
    good = largest.read_bytes()

    def problems(*, status: int = 1, opened: bool = False) -> list[str]:
        identity = ("--identity", str(backups18.identity)) if opened else ()
        found = backups18.json("backup", "verify", made["snapshot"], *identity, status=status)
        assert found["verified"] is (status == 0)
        return list(found["problems"])

    assert problems(status=0) == []
    flip(largest, len(good) // 2)
    for opened in (False, True):
        assert problems(opened=opened) == [f"{name} is not what was written: its SHA-256 differs"]
    largest.write_bytes(good[:-1])
    assert problems(opened=True) == [f"{name} has only {len(good) - 1} of {len(good)} bytes"]
    largest.unlink()
    assert problems() == [f"{name} of {made['snapshot']} is not there"]
    largest.write_bytes(good)
    (folder / "stranger").write_bytes(b"x")
    assert problems() == ["stranger does not belong to it"]
    (folder / "stranger").unlink()
    manifest = (folder / "manifest.json").read_bytes()
    flip(folder / "manifest.json", 40)
    assert problems() == [f"the manifest of {made['snapshot']} is not what was signed"]
    (folder / "manifest.json").write_bytes(manifest)
    assert problems(status=0, opened=True) == []


def test_another_snapshot_in_its_place_is_named(backups18: Backups) -> None:
    first, second = backups18.backup(), backups18.backup()
    folder = backups18.destination / "test"
    (folder / first["snapshot"]).rename(folder / "away")
    (folder / second["snapshot"]).rename(folder / first["snapshot"])
    found = backups18.json("backup", "verify", first["snapshot"], status=1)
    assert found["problems"] == [f"test/{first['snapshot']} holds the manifest of test/{second['snapshot']}"]


def test_another_identity_gives_no_verdict(backups18: Backups) -> None:
    made = backups18.backup()
    other = backups18.folder / "other.txt"
    backups18.cli("backup", "key", "--identity", str(other))
    done = backups18.run("backup", "verify", made["snapshot"], "--identity", str(other))
    assert done.returncode == 2
    assert "is sealed for another key" in done.stderr


def test_the_destination_must_survive_the_database(backups: Backups) -> None:
    backups.write_config(same_device=None)
    done = backups.run("backup")
    assert done.returncode == 1
    assert "lies on the file system of the database" in done.stderr
    assert 'same_device = "allowed"' in done.stderr
    backups.write_config(same_device="allowed", same_account=None, destination=f"file://{backups.state}/backups")
    done = backups.run("backup")
    assert done.returncode == 1
    assert "lies in dbshield's own state folder" in done.stderr
    open_ = backups.folder / "open"
    open_.mkdir()
    open_.chmod(0o777)
    backups.write_config(same_account=None, destination=f"file://{open_}/backups")
    done = backups.run("backup")
    assert done.returncode == 1
    assert "can be changed by the account of the database server" in done.stderr
    owner = backups.server.cluster.data.stat()
    open_.chmod(0o700)
    os.chown(open_, owner.st_uid, owner.st_gid)
    done = backups.run("backup")
    assert done.returncode == 1
    assert "it is the owner" in done.stderr
    backups.write_config(same_account="allowed")
    assert backups.backup()["objects"] > 0
    assert len(backups.listed()) == 1


def test_a_folder_on_another_device_needs_no_word(backups18: Backups) -> None:
    here = backups18.folder.stat().st_dev
    place = next((path for path in ("/dev/shm", "/tmp") if Path(path).stat().st_dev != here), None)
    assert place, "this test needs /dev/shm or /tmp to be another device"
    name = f"{place}/dbshield-test-{os.getpid()}"
    backups18.write_config(same_device=None, destination=f"file://{name}")
    try:
        assert backups18.backup()["destination"] == f"file://{name}"
    finally:
        subprocess.run(["rm", "-rf", name], check=True)


def test_what_is_not_encrypted_says_so(backups18: Backups) -> None:
    recipients = backups18.plan["encrypt_to"]
    backups18.write_config(encrypt_to=None)
    done = backups18.run("backup")
    assert done.returncode == 2
    assert "encrypt_to is missing" in done.stderr
    backups18.write_config(encryption="none")
    made = backups18.backup()
    assert made["encrypted"] is False
    folder = backups18.destination / "test" / made["snapshot"]
    assert json.loads((folder / "manifest.json").read_text())["recipients"] == []
    assert backups18.json("backup", "verify", made["snapshot"])["opened"] is True
    # Not even verifiers of passwords leave the server in clear.
    globals_ = unpacked(folder / "globals.sql")
    assert b"agent_read" in globals_
    assert b"SCRAM-SHA-256" not in globals_
    backups18.write_config(encryption=None, encrypt_to=recipients)


def unpacked(path: Path) -> bytes:
    with path.open("rb") as stream:
        return bytes(zstandard.ZstdDecompressor().stream_reader(stream).read())


def test_a_role_that_does_not_see_every_row_makes_no_snapshot(backups18: Backups) -> None:
    with backups18.server.connect(backups18.database) as admin:
        admin.execute("select lo_unlink(oid) from pg_largeobject_metadata")
        admin.execute("create table shop.private (id int); alter table shop.private enable row level security")
        admin.execute("drop role if exists backup_reader; create role backup_reader login password 'reads-it-all'")
        admin.execute("grant pg_read_all_data to backup_reader")
        cluster = backups18.server.cluster
        backups18.variables["READER"] = "reads-it-all"
        backups18.write_config(
            source=f"host={cluster.host} port={cluster.port} user=backup_reader dbname={backups18.database}",
            password_env="READER",
            same_account=None,
        )
        try:
            done = backups18.run("backup")
            assert (done.returncode, "its data_directory is not seen" in done.stderr) == (1, True)
            backups18.write_config()
            admin.execute("grant pg_read_all_settings to backup_reader")
            done = backups18.run("backup")
            assert (done.returncode, "row-level security" in done.stderr) == (2, True), done.stderr
            assert "reads-it-all" not in done.stderr
            assert [found["state"] for found in backups18.listed()] == ["failed"]
            admin.execute("alter role backup_reader bypassrls")
            assert backups18.backup()["objects"] > 0
        finally:
            admin.execute("drop owned by backup_reader; drop role backup_reader")


def test_the_wrong_cluster_is_not_backed_up(backups18: Backups) -> None:
    with backups18.store() as store, store.transaction() as connection:
        connection.execute(text("update dbshield.environments set system_identifier = 42 where name = 'test'"))
    done = backups18.run("backup")
    assert done.returncode == 2
    assert "another cluster answers in place of test" in done.stderr
    assert backups18.listed() == []


def test_what_is_missing_is_named(backups18: Backups) -> None:
    (backups18.state / "backup.key").rename(backups18.state / "away.key")
    done = backups18.run("backup")
    assert (done.returncode, "dbshield backup key" in done.stderr) == (2, True)
    (backups18.state / "away.key").rename(backups18.state / "backup.key")
    done = backups18.run("backup", "--plan", "weekly")
    assert (done.returncode, 'no plan of backups "weekly"' in done.stderr) == (2, True)
    done = backups18.run("backup", "show", "nothing")
    assert (done.returncode, "dbshield backup list" in done.stderr) == (2, True)
    backups18.write_config(databases=["no_such_database"])
    done = backups18.run("backup")
    assert (done.returncode, "cannot be reached" in done.stderr) == (2, True)
    backups18.write_config(databases=None, binaries=str(backups18.folder))
    done = backups18.run("backup")
    assert (done.returncode, "its programs are not here" in done.stderr) == (2, True)
    assert backups18.listed() == []
    assert files(backups18.destination) == []


def test_the_catalogue_keeps_what_was_signed(backups18: Backups) -> None:
    made = backups18.backup()
    with backups18.store() as store:
        for change in ("state = 'failed', error = 'x'", "manifest = '{}'", "record = null", "ended = now()"):
            with pytest.raises(IntegrityError, match="is complete, and stays as it is"), store.transaction() as connection:
                connection.execute(text(f"update dbshield.snapshots set {change} where id = :id"), {"id": made["snapshot"]})
        with store.transaction() as connection:
            connection.execute(text("update dbshield.snapshots set drilled = 'passed' where id = :id"), {"id": made["snapshot"]})
    assert [found["drilled"] for found in backups18.listed()] == ["passed"]


def test_every_backup_stands_in_the_audit(backups18: Backups) -> None:
    made = backups18.backup()
    backups18.write_config(databases=["no_such_database"])
    assert backups18.run("backup").returncode == 2
    with psycopg.connect(backups18.control) as connection:
        lines = [row[0] for row in connection.execute("select entry::text from dbshield.audit order by 1")]
    noted = [json.loads(line) for line in lines if '"backup"' in line]
    assert any(line.get("snapshot") == made["snapshot"] and line["outcome"] == "complete" for line in noted)
    assert any(line["outcome"] == "failed" and "cannot be reached" in line["error"] for line in noted)


def test_a_role_made_while_roles_are_dumped_is_in_dump_and_record_alike(
    backups18: Backups, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"came_between_{worker_id}"
    asked: list[int] = []
    with backups18.server.connect() as admin:

        def roles(connection: Connection) -> Mapping[str, Mapping[str, Any]]:
            found = look_at_roles(connection)
            asked.append(len(found))
            if len(asked) == 1:
                admin.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            return found

        look_at_roles = look.roles
        monkeypatch.setattr(look, "roles", roles)
        try:
            with backups18.store() as store:
                config = load_config(backups18.config)
                made = take(config, "nightly", store, clock=lambda: datetime.now(UTC), progress=Silent())
                reader = Repository(Folder(backups18.destination)).open(
                    "test", made.manifest.snapshot, Catalogue(store).trusted()
                )
        finally:
            admin.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))
    # Once before and once after each dump; others may make roles on this server too.
    assert len(asked) >= 4
    assert role in made.record.roles
    assert f"CREATE ROLE {role};".encode() in reader.read("globals.sql", sealing.identities(backups18.identity))
