"""The WAL archive of real servers: any moment since a snapshot comes back, exactly, and what is missing is said before."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from support.backups import Backups
from support.clusters import WITH_WAL, server_with_wal
from support.control import tables_database
from support.executing import ENVIRONMENT, Stage, people
from support.servers import SOURCES, Server
from support.waiting import until

from dbshield.backup.wal_store import Archived, WalStore, covering
from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import EnvironmentConfig, load_config
from dbshield.control import audit_store
from dbshield.control.approval import State
from dbshield.control.executor import Executor
from dbshield.store.database import Database

NAME = "shop"
TABLES = """
create table acked (n bigint primary key);
create table orders (id int primary key, what text);
insert into orders select g, 'order ' || g from generate_series(1, 500) g;
"""
PATIENCE = 120.0
"""Seconds; for a machine that is busy with other things."""


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter."""
    folder = temporary_folder("dbshield-wal-test-")
    yield folder
    shutil.rmtree(folder)


@contextmanager
def planned(major: int, control_server: Server, folder: Path) -> Iterator[Backups]:
    """A server, and a plan whose WAL is archived every second. The control database is elsewhere: it outlives the server."""
    with server_with_wal(major) as server, tables_database(control_server) as control:
        with server.connect() as admin:
            admin.execute(f"create database {NAME}")
        with server.connect(NAME) as connection:
            connection.execute(TABLES)
        folder.mkdir()
        made = Backups(server, NAME, control, folder)
        made.set_up()
        made.write_config(engine="physical", wal_max_seconds=1, identity_file=str(made.identity))
        made.cli("backup", "setup")
        try:
            yield made
        finally:
            made.end()


@contextmanager
def archiving(backups: Backups) -> Iterator[None]:
    """`dbshield backup wal`, for as long as the block lasts."""
    process = backups.start("backup", "wal", "--plan", "nightly")
    try:
        yield
        assert process.poll() is None, process.communicate()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def archive_of(backups: Backups) -> Archived | None:
    with backups.store() as database:
        return next(iter(WalStore(database).all("test")), None)


def reaches(backups: Backups, moment: datetime) -> bool:
    found = archive_of(backups)
    return found is not None and found.marked_at is not None and found.marked_at > moment


def clock(connection: psycopg.Connection[Any]) -> datetime:
    found = (connection.execute("select clock_timestamp()").fetchone() or (None,))[0]
    assert isinstance(found, datetime)
    return found


class Client:
    """Inserts a row after another, and notes the server's time before each and after it was acknowledged."""

    def __init__(self, dsn: str) -> None:
        self.acked: list[tuple[int, datetime, datetime]] = []
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(dsn,))

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def more(self) -> None:
        """Wait until some more rows were acknowledged."""
        enough = len(self.acked) + 20
        assert until(lambda: len(self.acked) > enough, deadline=PATIENCE)

    def _run(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            before = clock(connection)
            while not self._stop.is_set():
                number = len(self.acked) + 1
                connection.execute("insert into acked values (%s)", [number])
                after = clock(connection)
                self.acked.append((number, before, after))
                before = after


@contextmanager
def load(server: Server) -> Iterator[None]:
    """pgbench, at a rate that leaves the machine time for the rest."""
    program = server.cluster.binaries.folder / "pgbench"
    subprocess.run([program, "--initialize", "--quiet", "--scale=1", server.dsn(NAME)], check=True, capture_output=True)
    process = subprocess.Popen(
        [program, "--client=2", "--no-vacuum", "--rate=150", "--time=600", server.dsn(NAME)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None, "pgbench ended before the test did"
    finally:
        process.kill()
        process.wait()


@contextmanager
def restarted(backups: Backups, target: Path, ground: Path) -> Iterator[Server]:
    """A server on a folder that was restored."""
    home = ground / f"home-{target.name}"
    cluster = Cluster(home, binaries=SOURCES[backups.server.major](), settings=WITH_WAL)
    home.mkdir(mode=0o711)
    cluster.account.own(home, 0o700)
    target.rename(cluster.data)
    cluster.start(tethered=True)
    try:
        yield Server(major=backups.server.major, cluster=cluster, passwords={}, ca=Path("/nonexistent"))
    finally:
        cluster.stop("immediate")


@contextmanager
def standing(backups: Backups, target: Path, ground: Path) -> Iterator[psycopg.Connection[Any]]:
    with restarted(backups, target, ground) as server, server.connect(NAME) as connection:
        yield connection


@pytest.mark.parametrize("major", [15, pytest.param(18, marks=pytest.mark.long)], ids=lambda major: f"pg{major}")
def test_a_volume_that_is_deleted_under_load_comes_back(major: int, server18: Server, tmp_path: Path, ground: Path) -> None:
    """Everything that was acknowledged before the moment is there, and nothing after it."""
    with planned(major, server18, tmp_path / "shield") as backups:
        server = backups.server
        with archiving(backups), load(server), Client(server.dsn(NAME)) as client, server.connect(NAME) as someone:
            assert until(lambda: archive_of(backups), deadline=PATIENCE)
            made = backups.backup()["snapshot"]
            client.more()
            target = clock(someone)
            client.more()
            for _ in range(3):
                # More than one segment, of which one can be missing.
                someone.execute("select pg_switch_wal()")
                client.more()
            with backups.store() as database:
                entry = audit_store.record(database, kind="statement", environment="test", at=datetime.now(UTC), statement="…")
            someone.execute("delete from orders where id > 100")
            client.more()
            late = clock(someone)
            assert until(lambda: reaches(backups, late), deadline=PATIENCE)
        server.cluster.kill()
        # Out of reach at once: processes of the server that are about to end may still make files there.
        server.cluster.data.rename(server.cluster.folder / "lost")

        # Without the control database: what lies at the destination is enough.
        words = ("--plan", "nightly", "--public-key", backups.public_key, "--identity-file", str(backups.identity))
        done = backups.json("restore", "--at", target.isoformat(), "--to-folder", str(ground / "at"), *words)
        assert (done["snapshot"], done["goal"] is not None) == (made, True)
        assert datetime.fromisoformat(done["reached"]) <= target
        assert datetime.fromisoformat(done["archived_until"]) > late
        with standing(backups, ground / "at", ground) as restored:
            there = {number for (number,) in restored.execute("select n from acked")}
            assert there >= {number for number, _, after in client.acked if after <= target}
            assert not there & {number for number, before, _ in client.acked if before > target}
            assert 20 <= len(there) <= len(client.acked) - 60
            (sums,) = restored.execute(
                "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
            ).fetchone() or (None,)
            assert sums is True

        backups.cli("restore", "--before", str(entry), "--to-folder", str(ground / "before"))
        with standing(backups, ground / "before", ground) as restored:
            assert restored.execute("select count(*) from orders").fetchone() == (500,)

        # What cannot be done is said at once, with what could, and nothing is left.
        said = backups.run("restore", "--at", "2126-01-01T00:00:00Z", "--to-folder", str(ground / "no")).stderr
        assert "the WAL archive ends before 2126-01-01" in said
        assert f"The newest moment that it has is {done['archived_until']}" in said
        missing = sorted((backups.destination / "test" / "wal").rglob("0" * 7 + "1" + "?" * 16))[-2]
        missing.unlink()
        said = backups.run("restore", "--at", late.isoformat(), "--to-folder", str(ground / "no")).stderr
        assert f"the WAL archive has no {missing.name}" in said
        assert not [path.name for path in ground.iterdir() if not path.name.startswith("home-")]


@pytest.mark.parametrize("major", [15, pytest.param(18, marks=pytest.mark.long)], ids=lambda major: f"pg{major}")
def test_a_restore_goes_past_settings_that_were_raised(major: int, server18: Server, tmp_path: Path, ground: Path) -> None:
    """Recovery pauses where the WAL comes from a server that had more of something; it is given as much, and goes on."""
    with planned(major, server18, tmp_path / "shield") as backups, ExitStack() as stack:
        shipped = ("backup", "wal", "--until-shipped")
        backups.cli(*shipped)
        backups.backup()
        own = backups.server.cluster
        for changed in ({"max_connections": "130"}, {"max_connections": "160", "max_prepared_transactions": "7"}):
            backups.server.cluster.stop("fast")
            raised = Cluster(own.folder, binaries=own.binaries, settings={**WITH_WAL, **changed})
            backups.server = replace(backups.server, cluster=raised)
            stack.callback(raised.stop, "immediate")
            raised.start(tethered=True)
            with backups.server.connect(NAME) as connection:
                connection.execute("insert into acked select count(*) + 1 from acked")
                late = clock(connection)
        backups.write_config()
        backups.cli(*shipped)
        words = ("restore", "--at", late.isoformat())
        # Who asks for less is told how much it takes, before and on the way.
        for asked, needed in (("60", "100"), ("120", "130")):
            said = backups.run(*words, "--to-folder", str(ground / "no"), "--setting", f"max_connections={asked}")
            assert said.returncode == 2
            assert f"recovery needs max_connections = {needed}" in said.stderr
            assert f"--setting max_connections={asked} is lower" in said.stderr
            assert f"write --setting max_connections={needed}" in said.stderr
        assert not (ground / "no").exists()
        backups.cli(*words, "--to-folder", str(ground / "at"))
        with standing(backups, ground / "at", ground) as restored:
            assert restored.execute("select count(*) from acked").fetchone() == (2,)


def run_too_large(backups: Backups, statement: str) -> str:
    """An approved statement whose undo point may hold next to nothing, run by the executor; the approval's id."""
    address = f"host={backups.server.cluster.socket_folder} port={backups.server.cluster.port} user=postgres dbname={NAME}"
    settings = EnvironmentConfig(upstream=address, executor=address, undo_max_bytes=100)
    config = load_config(backups.config)
    database = Database(backups.control)
    try:
        stage = Stage(
            server=backups.server,
            database=NAME,
            control_dsn=backups.control,
            control=database,
            settings=settings,
            folder=backups.folder / "undo",
        )
        people(database)
        approval = stage.ask(statement)
        stage.approve(approval)

        def archived(_: str) -> str | None:
            return covering(database, config.backup, "test")

        Executor(database, backups.control, {ENVIRONMENT: settings}, stage.folder, archived=archived).work()
        done = stage.approvals.get(approval.id)
        assert (done.state, done.tag, done.undo) == (State.DONE, "DELETE 500", None), done.error
        return approval.id
    finally:
        database.close()


@pytest.mark.long
def test_a_restored_server_goes_on_and_what_is_lost_is_told(server18: Server, tmp_path: Path, ground: Path) -> None:
    """A place in the WAL as an undo point; the timeline of the server that was restored there; a slot that is gone."""
    shipped = ("backup", "wal", "--until-shipped")
    with planned(18, server18, tmp_path / "shield") as backups:
        # Of a strange cluster nothing is archived, and nothing is left there.
        pin = "update dbshield.environments set system_identifier = 1 where name = 'test'"
        with psycopg.connect(backups.control, autocommit=True) as control:
            control.execute(pin)
            said = backups.run(*shipped)
            assert (said.returncode, "another cluster answers" in said.stderr) == (2, True), said.stderr
            with backups.server.connect() as admin:
                assert admin.execute("select count(*) from pg_replication_slots").fetchone() == (0,)
            control.execute("update dbshield.environments set system_identifier = null, pinned_at = null, pinned_by = null")

        first = backups.json(*shipped)
        assert (first["timeline"], first["archived_until"] is not None) == (1, True)
        backups.backup()
        backups.cli(*shipped)
        approval = run_too_large(backups, "delete from public.orders")
        with backups.server.connect(NAME) as connection:
            connection.execute("insert into acked values (1)")
        backups.cli(*shipped)
        said = backups.run("undo", approval)
        assert said.returncode != 0
        (place,) = re.findall(r"dbshield restore --plan nightly --lsn (\S+) --to-folder DIR", said.stderr)
        assert f"in the WAL, at {place}" in backups.cli("undo", "list")

        backups.cli("restore", "--plan", "nightly", "--lsn", place, "--to-folder", str(ground / "second"))
        backups.server.cluster.stop("immediate")
        with restarted(backups, ground / "second", ground) as second:
            backups.server = second
            backups.write_config()
            with second.connect(NAME) as connection:
                assert connection.execute("select count(*) from orders").fetchone() == (500,)
                assert connection.execute("select count(*) from acked").fetchone() == (0,)
                connection.execute("insert into acked values (2)")
                after = clock(connection)
            assert backups.json(*shipped)["timeline"] == 2
            # From the snapshot of the first server, along both timelines.
            backups.cli("restore", "--at", after.isoformat(), "--to-folder", str(ground / "third"))
            with standing(backups, ground / "third", ground) as third:
                assert third.execute("select (select count(*) from orders), array(select n from acked)").fetchone() == (500, [2])
            # A disk that is full: told, and gone on from as soon as there is room.
            with second.connect(NAME) as connection:
                connection.execute("insert into acked values (3); select pg_switch_wal(); insert into acked values (4)")
            limited = backups.start(*shipped, file_blocks=1000)
            assert (limited.wait(timeout=PATIENCE), "pg_receivewal ended" in limited.communicate()[1]) == (2, True)
            assert "pg_receivewal ended" in backups.cli("audit", "search", "--kind", "wal-failed", "--json")
            assert backups.json(*shipped)["timeline"] == 2

            with second.connect(NAME) as connection:
                connection.execute("select pg_drop_replication_slot('dbshield_nightly')")
                for _ in range(3):
                    connection.execute("insert into acked select max(n) + 1 from acked; select pg_switch_wal(); checkpoint")
                later = clock(connection)
            backups.cli(*shipped)
            (gap,) = backups.cli("audit", "search", "--kind", "wal-gap", "--json").splitlines()
            assert "the replication slot dbshield_nightly was gone: the WAL archive has no 00000002" in gap
            said = backups.run("restore", "--at", later.isoformat(), "--to-folder", str(ground / "no"))
            assert said.returncode == 2
            assert "the WAL archive has no 00000002" in said.stderr
            backups.cli(*shipped)
            assert len(backups.cli("audit", "search", "--kind", "wal-gap", "--json").splitlines()) == 1

            # What the newest snapshot does not need goes with the old one.
            backups.write_config(keep_last=1, keep_failed_days=0)
            made = backups.backup()["snapshot"]
            backups.cli(*shipped)
            # Nothing of it goes while the newest is not to be seen, although no snapshot would go.
            backups.write_config(keep_last=9)
            lies = backups.destination / "test" / made
            lies.rename(backups.folder / "unseen")
            assert "nothing was removed" in backups.run("backup", "prune").stderr
            (backups.folder / "unseen").rename(lies)
            backups.write_config(keep_last=1)
            pruned = backups.json("backup", "prune")
            assert (len(pruned["removed"]), pruned["wal"] > 0) == (1, True)
            with second.connect(NAME) as connection:
                last = clock(connection)
            backups.cli(*shipped)
            done = backups.json("restore", "--at", last.isoformat(), "--to-folder", str(ground / "fourth"))
            assert done["snapshot"] == made

            backups.write_config(drill_folder=str(ground / "drills"))
            drilled = backups.json("restore-drill", "--random-point")
            outcomes = {each["name"]: each["outcome"] for each in drilled["checks"]}
            assert (drilled["verdict"], drilled["snapshot"], drilled["rpo_from"]) == ("passed", made, "archive"), drilled
            assert outcomes["moment"] == outcomes["replay"] == outcomes["canary"] == outcomes["read-back"] == "passed"
            assert {"rows", "content"}.isdisjoint(outcomes)
            # It says nothing of the snapshot itself.
            assert [each["drilled"] for each in backups.listed() if each["snapshot"] == made] == [None]

            # Recovery would make a tablespace in the source's own folder.
            (ground / "space").mkdir()
            second.cluster.account.own(ground / "space", 0o700)
            with second.connect(NAME) as connection:
                connection.execute(f"create tablespace space location '{ground / 'space'}'")
                last = clock(connection)
            backups.cli(*shipped)
            said = backups.run("restore", "--at", last.isoformat(), "--to-folder", str(ground / "fifth"))
            assert (said.returncode, "the WAL makes the tablespace" in said.stderr) == (2, True), said.stderr
            assert not (ground / "fifth").exists()
