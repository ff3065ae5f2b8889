"""`dbshield restore` of logical snapshots: into a new folder, into a server, single tables; and never over anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from support.backups import Backups, backups_of, backups_of_clone
from support.doctoring import filling
from support.servers import SETTINGS, SOURCES, Server
from support.waiting import until

from dbshield.cluster import Cluster, temporary_folder


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter, to restore to."""
    folder = temporary_folder("dbshield-restore-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of(server, database, tmp_path / "shield") as made:
        yield made


@pytest.fixture
def backups18(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of_clone(server18, f"restore_{worker_id}", tmp_path / "shield") as made:
        yield made


@contextmanager
def started(server: Server, data: Path) -> Iterator[Cluster]:
    """A server on a restored data folder, which is moved to where a cluster has it."""
    home = data.parent / "home"
    home.mkdir()
    home.chmod(0o711)
    cluster = Cluster(home / "server", binaries=SOURCES[server.major](), settings={"fsync": "off"})
    cluster.folder.mkdir()
    cluster.account.own(cluster.folder, 0o700)
    data.rename(cluster.data)
    cluster.start(tethered=True)
    try:
        yield cluster
    finally:
        cluster.stop("immediate")


@contextmanager
def empty_server(server: Server) -> Iterator[Cluster]:
    folder = temporary_folder("dbshield-restore-")
    cluster = Cluster(folder / "cluster", binaries=SOURCES[server.major](), settings={**SETTINGS, "max_connections": "50"})
    try:
        cluster.start(tethered=True, throwaway=True)
        yield cluster
    finally:
        cluster.remove()
        folder.rmdir()


def databases(cluster: Cluster) -> set[str]:
    with psycopg.connect(cluster.dsn(), autocommit=True) as there:
        return {name for (name,) in there.execute("select datname from pg_database where not datistemplate")}


def url(cluster: Cluster) -> str:
    return f"host={cluster.socket_folder} port={cluster.port} user=postgres dbname=postgres"


def test_into_a_new_folder_and_never_over_one(backups: Backups, ground: Path) -> None:
    made = backups.backup()
    target = ground / "restored"
    arguments = ("restore", "--to-folder", str(target), "--identity-file", str(backups.identity))
    done = backups.json(*arguments)
    assert done["snapshot"] == made["snapshot"]
    assert done["databases"] == [backups.database]
    assert done["tables_compared"] > 5
    assert [path.name for path in ground.iterdir()] == ["restored"]
    again = backups.run(*arguments)
    assert again.returncode == 2
    assert f"{target} is not empty, and nothing is written over" in again.stderr
    with started(backups.server, target) as cluster, psycopg.connect(cluster.dsn(backups.database)) as there:
        assert there.execute("select count(*) from shop.orders").fetchone() == (6000,)
        # Those of the seed: whatever other roles the server had at that moment, other tests', came along.
        agents = "select count(*) from pg_roles where rolname in ('agent_read', 'agent_write', 'agent_migrate')"
        assert there.execute(agents).fetchone() == (3,)


def test_into_a_server_under_another_name_until_it_is_whole(backups18: Backups) -> None:
    made = backups18.backup()
    name = backups18.database
    with empty_server(backups18.server) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as there:
            there.execute("create role agent_read login password 'its own' connection limit 7")
        arguments = ("restore", "-s", made["snapshot"], "--to", url(cluster), "-i", str(backups18.identity))
        done = backups18.json(*arguments)
        assert done["databases"] == [name]
        assert databases(cluster) == {"postgres", name}
        with psycopg.connect(cluster.dsn(name), autocommit=True) as there:
            assert there.execute("select count(*) from shop.orders").fetchone() == (6000,)
            # A role that was there keeps what it had; one that was not comes with its password.
            kept = (
                "select rolconnlimit, (select rolpassword ~ '^SCRAM' from pg_authid where rolname = 'agent_write') from pg_roles"
            )
            assert there.execute(kept + " where rolname = 'agent_read'").fetchone() == (7, True)
        again = backups18.run(*arguments)
        assert again.returncode == 2
        assert f"the target has a database {name} already" in again.stderr
        with psycopg.connect(cluster.dsn(name), autocommit=True) as there:
            assert there.execute("select count(*) from shop.orders").fetchone() == (6000,)
            there.execute("delete from shop.order_items")
        # Single tables come beside what is there.
        done = backups18.json(*arguments, "--table", "shop.order_items", "--table", "shop.customers")
        assert done["databases"] == [f"{name}_partial"]
        assert done["tables_compared"] == 2
        with psycopg.connect(cluster.dsn(f"{name}_partial"), autocommit=True) as there:
            assert there.execute("select count(*) from shop.order_items").fetchone() == (12000,)
            assert there.execute("select count(*) from shop.orders").fetchone() == (0,)
            keys = "select count(*) from pg_constraint where conrelid = 'shop.order_items'::regclass and contype = 'p'"
            assert there.execute(keys).fetchone() == (1,)
        wrong = backups18.run(*arguments[:3], "--to-folder", "/nonexistent/x", "-i", str(backups18.identity))
        assert "the folder /nonexistent is not there" in wrong.stderr


def test_a_table_that_is_not_there_and_a_superuser_that_is_none(backups18: Backups) -> None:
    backups18.backup()
    with empty_server(backups18.server) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as there:
            there.execute("create database others")
        arguments = ("restore", "--to", url(cluster), "-i", str(backups18.identity))
        done = backups18.run(*arguments, "--table", "shop.nothing_of_the_kind")
        assert done.returncode == 2
        assert "the snapshot has no shop.nothing_of_the_kind" in done.stderr
        assert databases(cluster) == {"postgres", "others"}
        done = backups18.run("restore", "--to", url(cluster).replace("user=postgres", "user=postgres password=x"))
        assert "--to holds a password" in done.stderr
        assert " password=x" not in done.stderr


def test_what_fails_leaves_nothing(backups18: Backups, ground: Path) -> None:
    made = backups18.backup()
    target = ground / "restored"
    other = backups18.folder / "other.txt"
    backups18.cli("backup", "key", "--identity", str(other))
    to = ("--to-folder", str(target))
    right = ("-i", str(backups18.identity))
    done = backups18.run("restore", *to, "-i", str(other))
    assert (done.returncode, "is sealed for another key" in done.stderr) == (2, True), done.stderr
    done = backups18.run("restore", *to)
    assert (done.returncode, "no identity was given" in done.stderr) == (2, True), done.stderr
    done = backups18.run("restore", *to, *right, "--at", "2026-05-01T12:00:00Z")
    assert (done.returncode, "no physical snapshot of test ended before" in done.stderr) == (2, True), done.stderr
    done = backups18.run("restore", *to, *right, "-s", made["snapshot"], "--at", "2026-05-01T12:00:00Z")
    assert (done.returncode, "a logical snapshot restores to the moment" in done.stderr) == (2, True), done.stderr
    process = backups18.start("restore", *to, *right, file_blocks=100)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, "cannot be written: File too large" in said) == (2, True), said
    folder = backups18.destination / "test" / made["snapshot"]
    sizes = {path: path.stat().st_size for path in folder.rglob("*.dat")}
    max(sizes, key=lambda path: sizes[path]).unlink()
    done = backups18.run("restore", *to, *right)
    assert (done.returncode, "is not there" in done.stderr) == (2, True), done.stderr
    assert list(ground.iterdir()) == []
    assert not list((backups18.state / "backup").glob("work-*"))


def test_without_the_control_database_by_the_public_key(backups18: Backups, ground: Path) -> None:
    made = backups18.backup()
    with psycopg.connect(backups18.control, autocommit=True) as control:
        control.execute("drop schema dbshield cascade")
    target = ground / "restored"
    arguments = ("restore", "--to-folder", str(target), "-i", str(backups18.identity), "--public-key")
    stranger = backups18.public_key[:-8] + "AAAAAAA="
    done = backups18.run(*arguments, stranger)
    assert (done.returncode, "which is not known here" in done.stderr) == (2, True), done.stderr
    assert backups18.json(*arguments, backups18.public_key)["snapshot"] == made["snapshot"]
    assert (target / "PG_VERSION").read_text() == "18\n"


def test_a_killed_restore_leaves_nothing_that_could_be_taken_for_one(backups18: Backups, ground: Path) -> None:
    with backups18.server.connect(backups18.database) as source:
        source.execute("create table shop.slow as select g, repeat('x', 500) as t from generate_series(1, 60000) g")
    backups18.backup()
    target = ground / "restored"
    arguments = ("restore", "--to-folder", str(target), "-i", str(backups18.identity))
    process = backups18.start(*arguments)
    assert until(lambda: filling(ground, ".restored.restoring") or process.poll() is not None)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    # The server that was tethered to it goes, with its data.
    assert until(lambda: not list(ground.glob(".restored.restoring/work-*/cluster/server/data")))
    assert json.loads(backups18.cli(*arguments, "--json"))["databases"] == [backups18.database]
    assert [path.name for path in ground.iterdir()] == ["restored"]
