"""Physical snapshots of real servers under load, restored by hand: exactly what was counted is there, and nothing after it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from support.backups import Backups, backups_of
from support.clusters import WITH_WAL, a_cluster, server_with_wal
from support.servers import Server, majors
from support.waiting import until

from dbshield.backup import moment, sealing, still
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.engine import Silent
from dbshield.backup.logical import measured
from dbshield.backup.moment import End
from dbshield.backup.reader import Reader
from dbshield.backup.record import Record, compare_sequences, compare_tables, from_tree
from dbshield.backup.repository import Repository
from dbshield.backup.run import take
from dbshield.backup.source import Source
from dbshield.backup.store import Folder
from dbshield.cluster import Cluster
from dbshield.config import load_config

NAME = "bench"
TABLES = """
create table acked (n bigserial primary key, t text);
create table open_ (t text);
create unlogged table scratch (t text);
insert into scratch values ('gone after recovery');
"""
LEFT = """
    select count(*) from pg_replication_slots
    where slot_name ~ '^dbshield_' or exists (select from pg_stat_replication where application_name = 'dbshield backup')
"""


@pytest.fixture(scope="module", params=majors(), ids=lambda major: f"pg{major}")
def walled(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_with_wal(request.param) as server:
        with server.connect() as admin:
            admin.execute(f"create database {NAME}")
        with server.connect(NAME) as connection:
            connection.execute(TABLES)
        command: list[str | Path] = [
            server.cluster.binaries.folder / "pgbench",
            "--initialize",
            "--quiet",
            "--scale=2",
            server.dsn(NAME),
        ]
        subprocess.run(command, check=True, capture_output=True)
        yield server


@pytest.fixture
def backups(walled: Server, tmp_path: Path) -> Iterator[Backups]:
    with backups_of(walled, NAME, tmp_path / "shield") as made:
        made.write_config(engine="physical")
        made.cli("backup", "setup")
        yield made


@contextmanager
def load(server: Server) -> Iterator[None]:
    """pgbench, for as long as the block lasts."""
    command: list[str | Path] = [
        server.cluster.binaries.folder / "pgbench",
        "--client=4",
        "--no-vacuum",
        "--time=600",
        server.dsn(NAME),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, "pgbench ended before the backup did"
    finally:
        process.kill()
        process.wait()


class Writer:
    """A client that inserts a row after another, and notes the WAL's end before each and after the server acknowledged it."""

    def __init__(self, dsn: str) -> None:
        self.acked: list[tuple[int, int, int]] = []
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(dsn,))

    def __enter__(self) -> Writer:
        self._thread.start()
        assert until(lambda: self.acked)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                before = here(connection)
                row = connection.execute("insert into acked (t) values ('x') returning n").fetchone()
                assert row is not None
                self.acked.append((int(row[0]), before, here(connection)))


def here(connection: psycopg.Connection[Any]) -> int:
    return moment.lsn(str((connection.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ("",))[0]))


def reader_of(backups: Backups, snapshot: str) -> Reader:
    with backups.store() as store:
        return Repository(Folder(backups.destination)).open("test", snapshot, Catalogue(store).trusted())


@contextmanager
def restored(backups: Backups, snapshot: str, record: Record) -> Iterator[Cluster]:
    """By hand, as the manual says: unpack, verify, add the WAL, replay to the target, and go on from there."""
    reader, identities = reader_of(backups, snapshot), sealing.identities(backups.identity)
    assert record.base is not None
    settings = {
        **WITH_WAL,
        "restore_command": "false",
        "recovery_target_lsn": record.base.target,
        "recovery_target_inclusive": "off",
        "recovery_target_timeline": str(record.base.timeline),
        "recovery_target_action": "pause",
    }
    with a_cluster(backups.server.major, settings) as cluster:
        cluster.data.mkdir(parents=True)
        cluster.account.own(cluster.folder, 0o700)
        reader.extract_file("base.tar", cluster.folder / "base.tar", identities)
        subprocess.run(["tar", "-xf", cluster.folder / "base.tar", "-C", cluster.data], check=True)
        copy = reader.read("backup_manifest", identities)
        assert (cluster.data / "backup_manifest").read_bytes() == copy
        subprocess.run([cluster.binaries.program("pg_verifybackup"), "--quiet", cluster.data], check=True, capture_output=True)
        for member in reader.manifest.members:
            if member.name.startswith("wal/"):
                there = cluster.data / "pg_wal" / member.name.removeprefix("wal/")
                there.unlink(missing_ok=True)
                reader.extract_file(member.name, there, identities)
        (cluster.data / "recovery.signal").touch()
        for path in (cluster.data, *cluster.data.rglob("*")):
            shutil.chown(path, cluster.account.uid, cluster.account.gid)
            path.chmod(0o700 if path.is_dir() else 0o600)
        cluster.start(tethered=True, throwaway=True)
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            paused = "select pg_get_wal_replay_pause_state() = 'paused'"
            assert until(lambda: connection.execute(paused).fetchone() == (True,))
            connection.execute("select pg_wal_replay_resume()")
            assert until(lambda: connection.execute("select pg_is_in_recovery()").fetchone() == (False,))
        yield cluster


@pytest.mark.one_server
def test_exactly_what_was_acknowledged_by_the_moment_is_there(backups: Backups) -> None:
    server = backups.server
    with server.connect(NAME) as held, server.connect(NAME) as prepared, load(server), Writer(server.dsn(NAME)) as writer:
        # Transactions that are older than the backup, and not over when it is.
        held.execute("begin; insert into open_ values ('not committed in time')")
        prepared.execute("begin; insert into open_ values ('prepared'); prepare transaction 'dbshield-test'")
        try:
            made = backups.backup()
        finally:
            prepared.execute("rollback prepared 'dbshield-test'")
        held.execute("commit; truncate open_")
    shown = backups.json("backup", "show", made["snapshot"])
    assert (shown["engine"], shown["kind"], shown["lsn"]) == ("physical", "full", made["lsn"])
    record = from_tree(shown["record"])
    assert record.base is not None
    assert (record.base.inexact, record.base.target) == ("", made["lsn"])
    target = moment.lsn(record.base.target)
    assert moment.lsn(record.base.start) < moment.lsn(record.base.end) <= target
    (kept,) = record.databases
    counted = {f"{table.schema}.{table.name}": table for table in kept.tables}
    assert {"public.acked", "public.pgbench_history", "public.open_", "dbshield_backup.canary"} <= set(counted)
    assert counted["public.scratch"].skipped == "an unlogged table: recovery empties it"
    with restored(backups, made["snapshot"], record) as cluster:
        found = measured(Source(base=cluster.dsn(), databases=()), NAME, jobs=2, like=kept)
        assert compare_tables(kept, found) == ()
        assert compare_sequences(kept, found) == ()
        with psycopg.connect(cluster.dsn(NAME), autocommit=True) as there:
            numbers = {n for (n,) in there.execute("select n from acked")}
            assert there.execute("select count(*) from open_").fetchone() == (0,)
            assert there.execute("select count(*) from pg_prepared_xacts").fetchone() == (1,)
            assert there.execute("select count(*) from pg_replication_slots").fetchone() == (0,)
            canary = "select moment from dbshield_backup.canary where snapshot = %s"
            assert there.execute(canary, [made["snapshot"]]).fetchall() == [("before",)]
    must = {n for n, _, after in writer.acked if after <= target}
    must_not = {n for n, before, _ in writer.acked if before >= target}
    assert must
    assert must_not
    assert must <= numbers
    assert not must_not & numbers
    # Nothing of it is left on the server, and none of it lies in clear at the destination.
    with server.connect() as admin:
        assert until(lambda: admin.execute(LEFT).fetchone() == (0,))
    for path in (backups.destination / "test" / made["snapshot"]).rglob("*"):
        if path.is_file() and path.name not in {"manifest.json", "manifest.sig", "claim"}:
            assert path.read_bytes().startswith(b"age-encryption.org/v1\n"), path


def test_a_killed_backup_leaves_nothing_behind(backups: Backups) -> None:
    server = backups.server
    streams = "select count(*) from pg_stat_replication where state = 'streaming'"
    with server.connect(NAME) as holder, server.connect() as looker:
        # The search for the moment waits for this table, when the base backup is at the destination.
        holder.execute("begin; lock table acked in access exclusive mode")
        process = backups.start("backup", "--json")
        waits = "select count(*) from pg_locks where not granted and relation = 'acked'::regclass"
        assert until(lambda: holder.execute(waits).fetchone() == (1,) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        assert until(lambda: looker.execute(streams).fetchone() == (1,)), "the WAL does not stream"
        assert looker.execute(LEFT).fetchone() == (1,)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        holder.execute("rollback")
        assert until(lambda: looker.execute(LEFT).fetchone() == (0,) and looker.execute(streams).fetchone() == (0,))
    assert backups.let_go()
    assert [found["state"] for found in backups.listed()] == ["interrupted"]
    made = backups.backup()
    assert len(made["interrupted"]) == 1
    assert not list((backups.state / "backup").glob("work-*"))
    assert [path.name for path in (backups.destination / "test").iterdir()] == [made["snapshot"]]
    checked = backups.json("backup", "verify", made["snapshot"], "--identity", str(backups.identity))
    assert (checked["verified"], checked["opened"]) == (True, True)


def test_a_server_that_drops_the_base_backup_makes_none(backups: Backups) -> None:
    server = backups.server
    with server.connect() as admin:
        process = backups.start("backup", "--json")
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ '^BASE_BACKUP'"
        assert until(lambda: admin.execute(ended).fetchone() is not None or process.poll() is not None)
        out, said = process.communicate(timeout=60)
        assert process.returncode == 2, out
        assert "pg_basebackup failed" in said
    assert [found["state"] for found in backups.listed()] == ["failed"]
    assert not [path for path in backups.destination.rglob("*") if path.is_file()]


def test_a_role_that_is_no_superuser_needs_the_right_to_replicate(backups: Backups) -> None:
    with backups.server.connect(NAME) as admin:
        admin.execute("create role reader login bypassrls password 'reads-it-all'")
        admin.execute("grant pg_read_all_data, pg_monitor to reader")
        try:
            backups.variables["READER"] = "reads-it-all"
            socket = backups.server.cluster.socket_folder
            port = backups.server.cluster.port
            backups.write_config(source=f"host={socket} port={port} user=reader dbname={NAME}", password_env="READER")
            done = backups.run("backup")
            assert done.returncode == 2
            assert "the server makes no replication connection" in done.stderr
            assert "The role needs REPLICATION" in done.stderr
            assert "reads-it-all" not in done.stderr
            admin.execute("alter role reader replication")
            # A transaction that is older than the backup, of somebody else.
            with backups.server.connect(NAME) as held:
                held.execute("begin; insert into open_ values ('not committed in time')")
                made = backups.backup()
                held.execute("rollback")
            record = from_tree(backups.json("backup", "show", made["snapshot"])["record"])
            assert record.base is not None
            assert record.base.inexact == ""
        finally:
            admin.execute("drop owned by reader; drop role reader")


def test_a_server_without_wal_for_it_is_refused(server18: Server, worker_id: str, tmp_path: Path) -> None:
    name = f"minimal_{worker_id}"
    server18.clone(name)
    try:
        with backups_of(server18, name, tmp_path / "shield") as made:
            made.write_config(engine="physical")
            done = made.run("backup")
            assert done.returncode == 2
            assert "the server's wal_level is minimal" in done.stderr
    finally:
        server18.drop(name)


def test_where_no_moment_is_found_that_is_said(walled: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still, "SEARCH_TIME", 0.0)
    source = Source(base=walled.dsn(NAME), databases=(NAME,))

    def in_another_order(start: int, xid: int) -> tuple[End, ...]:
        later, earlier = End(lsn=start + 1, xid=xid, committed=True), End(lsn=start + 9, xid=xid - 1, committed=True)
        return later, earlier

    with still.found(source, "test", in_another_order) as found:
        assert not found.views
        assert found.inexact.startswith("transactions ended in another order")
        assert set(found.sequences) == {NAME}


@pytest.mark.one_server
def test_who_locks_a_table_for_long_keeps_no_snapshot_from_being_made(backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    """As VACUUM FULL does for hours: nothing can be counted, and what was backed up is kept all the same."""
    monkeypatch.setattr(still, "SEARCH_TIME", 0.0)
    monkeypatch.setattr(still, "LOCK_TIMEOUT", "200ms")
    config = load_config(backups.config)
    with backups.server.connect(NAME) as someone, backups.store() as store:
        for statement in ("lock table open_ in access exclusive mode", "alter sequence acked_n_seq rename to acked_n"):
            with someone.transaction(force_rollback=True):
                someone.execute(statement.encode())
                made = take(config, "nightly", store, clock=lambda: datetime.now(UTC), progress=Silent())
            assert made.record.base is not None
            assert made.record.base.inexact.startswith("a table or a sequence was locked by somebody else")


def test_a_transaction_that_nobody_decided_keeps_no_drill_waiting(backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared one comes back with a base backup, and its locks with it."""
    monkeypatch.setattr(still, "SEARCH_TIME", 0.0)
    monkeypatch.setattr(still, "LOCK_TIMEOUT", "200ms")
    with backups.server.connect(NAME) as someone, backups.store() as store:
        for statement in ("begin", "lock table open_ in access exclusive mode", "prepare transaction 'nobody''s'"):
            someone.execute(statement.encode())
        try:
            made = take(load_config(backups.config), "nightly", store, clock=lambda: datetime.now(UTC), progress=Silent())
        finally:
            someone.execute("rollback prepared 'nobody''s'")
    # Nothing was counted while the table was locked, so there is no verdict; but everything else was looked at.
    drilled = backups.json("restore-drill", "-s", made.manifest.snapshot, "-i", str(backups.identity), status=2)
    outcomes = {check["name"]: (check["outcome"], check["measure"]) for check in drilled["checks"]}
    assert outcomes["prepared"] == ("passed", "1 rolled back in the drill's own cluster, as they hold locks: nobody's")
    assert outcomes["read-back"][0] == outcomes["foreign-keys"][0] == "passed"
