"""Physical snapshots and everything that can go wrong with them: nothing of it is ever taken for a snapshot that restores."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.backups import Backups, backups_of
from support.clusters import WITH_WAL, a_cluster
from support.doctoring import doctored
from support.servers import Server
from support.waiting import until

from dbshield.backup import tablespaces
from dbshield.backup.damage import Damaged
from dbshield.backup.drill import Wish, run_drill
from dbshield.backup.engine import Silent
from dbshield.backup.run import take
from dbshield.cluster import temporary_folder
from dbshield.config import load_config
from dbshield.errors import BackupError

NAME = "shop"
HBA = ("local replication postgres peer map=dbshield",)
TABLES = """
create table parts (id int primary key, code text);
insert into parts select g, 'p' || g from generate_series(1, 3000) g;
create table lost (n int, t text);
insert into lost select g, repeat('x', 50) from generate_series(1, 500) g;
vacuum (freeze, analyze);
checkpoint;
"""
SLOTS = "select count(*) from pg_replication_slots where slot_name ~ '^dbshield_'"
STREAMS = "select count(*) from pg_stat_replication"


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    folder = temporary_folder("dbshield-sabotage-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory, ground: Path) -> Iterator[Backups]:
    """A plan for a server without page checksums."""
    with a_cluster(18, WITH_WAL, hba=HBA) as cluster:
        cluster.ensure()
        command: list[str | Path] = [cluster.binaries.program("pg_checksums"), "--disable", "-D", cluster.data]
        subprocess.run(command, check=True, capture_output=True, **cluster.account.process())
        cluster.start(tethered=True, throwaway=True)
        server = Server(major=18, cluster=cluster, passwords={}, ca=Path("/nonexistent"))
        with server.connect() as admin:
            admin.execute(f"create database {NAME}")
        with server.connect(NAME) as source:
            for statement in TABLES.strip().split(";\n"):
                source.execute(statement.encode())
        with backups_of(server, NAME, tmp_path_factory.mktemp("sabotage") / "shield") as made:
            made.write_config(engine="physical", drill_folder=str(ground / "drills"), identity_file=str(made.identity))
            made.cli("backup", "setup")
            yield made


@pytest.fixture(scope="module")
def taken(backups: Backups) -> str:
    return str(backups.backup()["snapshot"])


@pytest.fixture
def sabotaged(backups: Backups, taken: str) -> Iterator[Path]:
    """The folder of the snapshot, as it was again afterwards."""
    folder = backups.destination / "test"
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    try:
        yield folder / taken
    finally:
        shutil.rmtree(folder)
        copy.rename(folder)


def problems(found: dict[str, Any]) -> list[str]:
    return [f"{each['name']}: {text}" for each in found["checks"] for text in each["problems"]]


def bad(backups: Backups, snapshot: str) -> str:
    """The only problem of a snapshot that failed its drill."""
    found = backups.json("restore-drill", "--snapshot", snapshot, status=1)
    assert found["verdict"] == "failed"
    (said,) = problems(found)
    return said


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# At the destination ----------------------------------------------------------------------------------------------------------


def test_whatever_is_changed_in_any_member_is_told(backups: Backups, taken: str, sabotaged: Path) -> None:
    (segment, *_) = sorted((sabotaged / "wal").iterdir())
    wal = f"wal/{segment.name}"
    differs = "is not what was written: its SHA-256 differs"
    for name, place, said in (
        ("base.tar", -1000, f"members: base.tar {differs}"),
        ("backup_manifest", -100, f"members: backup_manifest {differs}"),
        (wal, -50, f"members: {wal} {differs}"),
        # What age reads first: for whom it is sealed.
        (wal, 30, f"members: {wal} {differs}"),
        ("record.json", -10, f"members: record.json {differs}"),
        ("manifest.json", 40, f"manifest: the manifest of {taken} is not what was signed"),
        ("manifest.sig", 50, "manifest: "),
    ):
        good = (sabotaged / name).read_bytes()
        flip(sabotaged / name, place)
        assert bad(backups, taken).startswith(said), name
        (sabotaged / name).write_bytes(good)
    good = segment.read_bytes()
    segment.write_bytes(good[:-9])
    assert bad(backups, taken) == f"members: {wal} has only {len(good) - 9} of {len(good)} bytes"
    segment.unlink()
    assert bad(backups, taken) == f"members: {wal} of {taken} is not there"


def test_another_snapshot_in_its_place_is_told(backups: Backups, taken: str, sabotaged: Path) -> None:
    other = doctored(backups, taken, lambda folder: None)
    shutil.rmtree(sabotaged)
    (sabotaged.parent / other).rename(sabotaged)
    assert bad(backups, taken) == f"manifest: test/{taken} holds the manifest of test/{other}"


# In it, although every hash is right -----------------------------------------------------------------------------------------


def test_rows_that_a_page_has_lost_are_missed(backups: Backups, taken: str, ground: Path) -> None:
    with backups.server.connect(NAME) as source:
        # In memory the page is good, and stays clean; what the disk has of it is what a base backup reads.
        assert source.execute("select count(*) from lost").fetchone() == (500,)
        source.execute("checkpoint")
        (path,) = source.execute("select pg_relation_filepath('lost')").fetchone() or ("",)
        with (backups.server.cluster.data / str(path)).open("r+b") as file:
            # The first two line pointers, after the header of 24 bytes: unused.
            file.seek(24)
            good = file.read(8)
            file.seek(24)
            file.write(bytes(8))
        made = backups.backup()["snapshot"]
        with (backups.server.cluster.data / str(path)).open("r+b") as file:
            file.seek(24)
            file.write(good)
    found = backups.json("restore-drill", "--snapshot", made, status=1)
    assert problems(found) == [f"rows: {NAME}: public.lost: 498 rows, expected 500 rows"]
    passed = {each["name"] for each in found["checks"] if each["outcome"] == "passed"}
    assert {"base-backup", "replay", "amcheck", "read-back"} <= passed
    shutil.rmtree(Path(found["evidence"]))


@pytest.mark.long
def test_wal_that_is_changed_inside_is_told(backups: Backups, taken: str) -> None:
    def change(folder: Path) -> None:
        for segment in (folder / "wal").iterdir():
            data = bytearray(segment.read_bytes())
            # Behind the header of the segment, where the records up to the moment are.
            data[64:8192] = bytes(8128)
            segment.write_bytes(data)

    made = doctored(backups, taken, change)
    found = backups.json("restore-drill", "--snapshot", made, status=1)
    assert problems(found) == ["start: the WAL of the snapshot has no checkpoint that recovery could begin at"]
    shutil.rmtree(Path(found["evidence"]))


def test_wal_that_makes_a_tablespace_is_not_replayed(backups: Backups, taken: str) -> None:
    cluster = backups.server.cluster
    place = cluster.folder / "space"
    place.mkdir()
    cluster.account.own(place, 0o700)
    here = "select pg_current_wal_lsn()::text"
    with backups.server.connect() as admin:
        (before,) = admin.execute(here).fetchone() or ("",)
        admin.execute(f"create tablespace elsewhere location '{place}'")
        (after,) = admin.execute(here).fetchone() or ("",)
        admin.execute("drop tablespace elsewhere")
        (end,) = admin.execute(here).fetchone() or ("",)
    program = cluster.binaries.program("pg_waldump")
    wal = cluster.data / "pg_wal"
    with pytest.raises(Damaged, match="the WAL makes the tablespace"):
        tablespaces.require_none_made(program, wal, timeline=1, start=str(before), end=str(end))
    tablespaces.require_none_made(program, wal, timeline=1, start=str(after), end=str(end))
    # Beyond the end of the WAL recovery finds nothing either; where nobody could look, nobody says that there is none.
    tablespaces.require_none_made(program, wal, timeline=1, start=str(after), end="FF/0")
    with pytest.raises(BackupError, match="could not open directory"):
        tablespaces.require_none_made(program, wal / "nowhere", timeline=1, start=str(before), end=str(end))


# While it is made ------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from dbshield.backup.run import take
from dbshield.config import load_config
from dbshield.errors import BackupError
from dbshield.store.database import Database

where = sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly:
    name = ""
    def step(self, name, total):
        self.name = name
        if where == name: die()
    def advance(self, amount):
        if where == "in " + self.name: die()

times = []

def clock():
    times.append(datetime.now(UTC))
    # The second time is when all members are there, and the manifest is about to be signed.
    if where == "sign" and len(times) == 2: die()
    return times[-1]

config = load_config(Path(sys.argv[1]))
take(config, "nightly", Database(config.control.url), clock=clock, progress=Deadly())
"""
LONG = ("base backup", "in base backup", f"in count {NAME}")
STEPS = ["sign", *(pytest.param(step, marks=pytest.mark.long) for step in LONG)]


@pytest.mark.parametrize("step", STEPS)
def test_a_backup_that_is_killed_at_any_step_is_none(backups: Backups, taken: str, step: str) -> None:
    there = {path.name for path in (backups.destination / "test").iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, backups.config, step],
        env=backups.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # The lock of one that is dead is there until the server has noticed.
    assert until(lambda: backups.listed()[0]["state"] == "interrupted")
    (newest, *_) = backups.listed()
    assert not (backups.destination / "test" / newest["snapshot"] / "manifest.json").exists()
    with backups.server.connect() as admin:
        assert until(lambda: (admin.execute(SLOTS).fetchone(), admin.execute(STREAMS).fetchone()) == ((0,), (0,)))
    # A drill of the newest takes the one before, and whoever begins the next clears up.
    assert backups.run("restore-drill", "--snapshot", newest["snapshot"]).returncode == 2
    process = backups.start("backup", "--json", file_blocks=1000)
    _, said = process.communicate()
    # That next one meets a full disk.
    assert process.returncode == 2, said
    assert "File too large" in said
    assert backups.listed()[0]["state"] == "failed"
    assert {path.name for path in (backups.destination / "test").iterdir()} == there
    assert not list((backups.state / "backup").glob("work-*"))


def test_a_full_disk_is_no_verdict_and_no_restore(backups: Backups, taken: str, ground: Path) -> None:
    process = backups.start("restore-drill", "--snapshot", taken, "--json", file_blocks=20_000)
    out, said = process.communicate()
    assert process.returncode == 2, said
    found = json.loads(out)
    assert found["verdict"] == "error"
    assert "File too large" in problems(found)[0]
    target = ground / "restored"
    process = backups.start("restore", "-s", taken, "--to-folder", str(target), file_blocks=20_000)
    _, said = process.communicate()
    assert process.returncode == 2
    assert "File too large" in said
    assert not target.exists()
    assert sorted(path.name for path in ground.iterdir()) == ["drills"]
    assert [path.name for path in (ground / "drills").iterdir()] == ["lock"]


@pytest.mark.long
def test_a_clock_that_went_back_gives_no_verdict(backups: Backups, taken: str) -> None:
    config = load_config(backups.config)
    newest = backups.backup()["snapshot"]
    with backups.store() as store:
        hour = timedelta(hours=1)
        later = take(config, "nightly", store, clock=lambda: datetime.now(UTC) - hour, progress=Silent()).manifest.snapshot
        drilled = run_drill(config, Wish(), store, clock=lambda: datetime.now(UTC), progress=Silent())
    assert drilled.snapshot.id == newest
    assert drilled.drill.verdict == "error"
    (clock,) = [each for each in drilled.drill.checks if each["name"] == "clock"]
    assert clock["problems"][0].startswith(f"{later} was made at a later LSN than {newest}")


def test_a_server_that_is_killed_makes_none(backups: Backups, taken: str) -> None:
    server = backups.server
    there = {path.name for path in (backups.destination / "test").iterdir()}
    # Closed without a word at its end: the server is gone by then.
    with contextlib.closing(server.connect(NAME)) as holder:
        # The base backup is at the destination, and its moment is looked for.
        holder.execute("begin; lock table parts in access exclusive mode")
        process = backups.start("backup", "--json")
        waits = "select count(*) from pg_locks where not granted and relation = 'parts'::regclass"
        assert until(lambda: holder.execute(waits).fetchone() == (1,) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        server.cluster.kill()
        _, said = process.communicate()
    assert process.returncode == 2, said
    server.cluster.start(tethered=True, throwaway=True)
    assert backups.listed()[0]["state"] in {"failed", "interrupted"}
    # The control database is on that server here, so what was written goes with the next one.
    made = backups.backup()["snapshot"]
    assert {path.name for path in (backups.destination / "test").iterdir()} == {*there, made}
