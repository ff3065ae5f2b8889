"""The WAL archive of real servers: any moment since a snapshot comes back, exactly, and what is missing is said before."""

from __future__ import annotations

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
from support.backups import Backups
from support.clusters import server_with_wal
from support.control import empty_database
from support.servers import SOURCES, Server
from support.waiting import until

from dbshield.backup.wal_store import Archived, WalStore
from dbshield.cluster import Cluster, temporary_folder
from dbshield.control import audit_store

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
    with server_with_wal(major) as server, empty_database(control_server) as control:
        with server.connect() as admin:
            admin.execute(f"create database {NAME}")
        with server.connect(NAME) as connection:
            connection.execute(TABLES)
        folder.mkdir()
        made = Backups(server, NAME, control, folder)
        made.set_up()
        made.write_config(engine="physical", wal_max_seconds=1, identity_file=str(made.identity))
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
def standing(backups: Backups, target: Path, ground: Path) -> Iterator[psycopg.Connection[Any]]:
    """A server on a folder that was restored."""
    home = ground / f"home-{target.name}"
    cluster = Cluster(home, binaries=SOURCES[backups.server.major](), settings={"fsync": "off"})
    home.mkdir(mode=0o711)
    cluster.account.own(home, 0o700)
    target.rename(cluster.data)
    cluster.start(tethered=True)
    try:
        with psycopg.connect(cluster.dsn(NAME), autocommit=True) as connection:
            yield connection
    finally:
        cluster.stop("immediate")


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
        shutil.rmtree(server.cluster.data)

        done = backups.json("restore", "--at", target.isoformat(), "--to-folder", str(ground / "at"))
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
        assert [path.name for path in ground.iterdir() if not path.name.startswith("home-")] == []
