"""Databases that are awkward to back up and to restore: a good one passes its drill all the same, and nothing of it is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.backups import Backups, backups_of
from support.clusters import WITH_WAL, a_cluster, server_with_wal
from support.servers import SETTINGS, SOURCES, Server

from dbshield.cluster import Cluster, temporary_folder

UNLOGGED = """
create unlogged table scratch (id serial primary key, other int generated always as identity, t text);
insert into scratch (t) select 'x' from generate_series(1, 50);
"""
FOREIGN = """
create extension postgres_fdw;
create server away foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1', connect_timeout '1');
create user mapping for current_user server away options (user 'nobody', password 'none');
create table years (id int generated always as identity, year int) partition by range (year);
create table years_2025 partition of years for values from (2025) to (2026);
create foreign table years_2024 partition of years for values from (2024) to (2025) server away;
insert into years (year) select 2025 from generate_series(1, 20);
"""
NO_EXTENSION = """
create function refuse() returns event_trigger language plpgsql as $$ begin raise exception 'no extensions here'; end $$;
create event trigger refused on ddl_command_start when tag in ('CREATE EXTENSION') execute function refuse();
alter event trigger refused enable always;
"""
LOGINS = """
create table logins (at timestamptz default now());
create function remember() returns event_trigger language plpgsql as $$ begin insert into logins default values; end $$;
create event trigger remembered on login execute function remember();
alter event trigger remembered enable always;
"""
OWN = """
create role app login;
alter database postgres owner to app;
alter database postgres set work_mem = '77MB';
alter role app in database postgres set search_path = 'x';
revoke connect on database postgres from public;
alter database postgres connection limit 7;
comment on database postgres is 'of the application';
"""
PROPERTIES = """
    select pg_encoding_to_char(d.encoding)::text, d.datcollate::text, pg_get_userbyid(d.datdba)::text, d.datconnlimit,
        has_database_privilege('public', d.oid, 'connect'), shobj_description(d.oid, 'pg_database'),
        (select array_agg(s.setconfig::text order by s.setconfig) from pg_db_role_setting s where s.setdatabase = d.oid)
    from pg_database d where d.datname = 'postgres'
"""


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter."""
    folder = temporary_folder("dbshield-awkward-")
    yield folder
    shutil.rmtree(folder)


@contextmanager
def large_segments(major: int) -> Iterator[Server]:
    """A server whose WAL segments are of 64 MB, as RDS has them: one does not start on its data with the usual settings."""
    settings = {**WITH_WAL, "min_wal_size": "128MB"}
    hba = ("local replication postgres peer map=dbshield", "local replication all scram-sha-256")
    with a_cluster(major, settings, hba) as cluster:
        cluster.ensure()
        program = cluster.binaries.program("pg_resetwal")
        subprocess.run([program, "--wal-segsize=64", cluster.data], check=True, capture_output=True, **cluster.account.process())
        cluster.start(tethered=True, throwaway=True)
        yield Server(major=major, cluster=cluster, passwords={}, ca=Path("/nonexistent"))


def create(server: Server, name: str, *, through: str = "postgres", text: str = "", **options: str) -> None:
    given = "".join(f" {option} '{value}'" for option, value in options.items())
    with server.connect(through) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)).as_bytes() + given.encode())
    with psycopg.connect(server.dsn(name), autocommit=True, client_encoding="UTF8") as there:
        there.execute(b"create table t (id serial primary key, x text); insert into t (x) values ('a'), ('B');" + text.encode())


def drilled(backups: Backups) -> dict[str, str]:
    """What was wrong in a drill of the newest snapshot, by check; checks that were not made as well."""
    found: dict[str, Any] = backups.json("restore-drill")
    assert found["verdict"] == "passed", found["checks"]
    return {each["name"]: each["outcome"] for each in found["checks"] if each["outcome"] != "passed"}


def test_a_dump_has_all_of_it(server18: Server, tmp_path: Path, ground: Path) -> None:
    with server_with_wal(15) as source:
        # Any bytes are text in it; libpq would take its name for a connection string.
        create(source, "a=b", encoding="SQL_ASCII", lc_collate="C", lc_ctype="C", text="insert into t (x) values (E'\\xe9')")
        create(source, "shop", text=FOREIGN + NO_EXTENSION)
        # initdb's own is of UTF-8.
        with source.connect("template1") as admin:
            admin.execute("drop database postgres")
        create(source, "postgres", through="template1", encoding="LATIN1", lc_collate="C", lc_ctype="C")
        with source.connect() as admin:
            for statement in OWN.strip().split("\n"):
                admin.execute(statement.encode())
            had = admin.execute(PROPERTIES).fetchone()
        with backups_of(server18, "shop", tmp_path / "shield") as backups:
            backups.server = source
            backups.write_config(
                databases=["a=b", "shop", "postgres"],
                drill_folder=str(ground / "drills"),
                identity_file=str(backups.identity),
            )
            backups.cli("backup", "setup")
            backups.backup()
            assert drilled(backups) == {}
            backups.cli("restore", "--to-folder", str(ground / "restored"))
        home = ground / "home" / "server"
        home.parent.mkdir(mode=0o711)
        cluster = Cluster(home, binaries=SOURCES[15](), settings={"fsync": "off"})
        home.mkdir()
        cluster.account.own(home, 0o700)
        (ground / "restored").rename(cluster.data)
        cluster.start(tethered=True)
        try:
            with psycopg.connect(cluster.dsn()) as there:
                assert there.execute(PROPERTIES).fetchone() == had
                assert there.execute("select array_agg(x order by x) from t").fetchone() == (["B", "a"],)
        finally:
            cluster.stop("immediate")


def test_a_base_backup_is_judged_by_what_recovery_keeps(server18: Server, tmp_path: Path, ground: Path) -> None:
    with large_segments(18) as source:
        create(source, "shop", text=UNLOGGED + FOREIGN + NO_EXTENSION + LOGINS)
        # What everything else connects to.
        with source.connect("shop") as admin:
            admin.execute("drop database postgres")
        with backups_of(server18, "shop", tmp_path / "shield") as backups:
            backups.server = source
            backups.write_config(engine="physical", drill_folder=str(ground / "drills"), identity_file=str(backups.identity))
            made = backups.backup()["snapshot"]
            assert drilled(backups) == {"canary": "not-checked"}
            done = backups.json("restore", "--to-folder", str(ground / "restored"))
            assert done["snapshot"] == made
            assert done["tables_compared"] == 3


def test_into_a_server_whatever_they_are_called(server18: Server, tmp_path: Path) -> None:
    names = ["customer_data_of_the_warehouse_2024", "customer_data_of_the_warehouse_2025", "日本語データベース本番環境の名前"]
    folder = temporary_folder("dbshield-awkward-")
    cluster = Cluster(folder / "cluster", binaries=SOURCES[18](), settings={**SETTINGS, "max_connections": "50"})
    try:
        for name in names:
            create(server18, name, text=LOGINS)
        cluster.start(tethered=True, throwaway=True)
        with backups_of(server18, names[0], tmp_path / "shield") as backups:
            backups.write_config(databases=names)
            made = backups.backup()["snapshot"]
            url = f"host={cluster.socket_folder} port={cluster.port} user=postgres dbname=postgres"
            arguments = ("restore", "-s", made, "--to", url, "-i", str(backups.identity))
            done = backups.json(*arguments)
            assert done["databases"] == names
            (partial,) = backups.json(*arguments, "--table", "public.t")["databases"][2:]
            with psycopg.connect(cluster.dsn(partial)) as there:
                assert there.execute("select count(*) from t").fetchone() == (2,)
    finally:
        cluster.remove()
        folder.rmdir()
        for name in names:
            server18.drop(name)
