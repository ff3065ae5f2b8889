"""A logical snapshot, restored into an empty cluster: everything is there, and whatever is not is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from support.backups import Backups, backups_of
from support.servers import SETTINGS, SOURCES, Server

from dbshield.backup import sealing
from dbshield.backup.binaries import programs
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.damage import Damaged, WrongKey
from dbshield.backup.engine import Silent
from dbshield.backup.logical import measured
from dbshield.backup.reader import Reader
from dbshield.backup.record import compare_tables, from_tree
from dbshield.backup.repository import Repository
from dbshield.backup.restore_logical import Restored, restore, target_of
from dbshield.backup.source import Source
from dbshield.backup.store import Folder
from dbshield.backup.work import work_folder
from dbshield.cluster import Cluster, temporary_folder
from dbshield.errors import BackupError

pytestmark = pytest.mark.one_server

EXTRA = """
create table shop.oddities (
    t int primary key, a float8, b numeric, c timestamptz, d bytea, e jsonb, f interval, g text[], h money, i regclass, "J k" text
);
insert into shop.oddities
select g, g / 3.0, g / 7.0, '2026-01-01'::timestamptz + g * interval '1.5 hours', sha256(g::text::bytea),
    jsonb_build_object('a', g), g * interval '1 month 3 seconds', array['x', null, g::text], g::money, 'shop.orders', null
from generate_series(1, 500) g;
create table shop.nothing ();
insert into shop.nothing default values;
create table shop."We""ird ta$ble" (t text);
insert into shop."We""ird ta$ble" values ('a'), ('a'), (null);
create sequence shop.backwards increment -1;
select nextval('shop.backwards'), nextval('shop.backwards');
alter database {name} set "DateStyle" = 'German';
"""


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path) -> Iterator[Backups]:
    with server.connect(database) as connection:
        connection.execute(EXTRA.format(name=database).encode())
    with backups_of(server, database, tmp_path / "shield") as made:
        made.cli("backup", "setup")
        yield made


@contextmanager
def empty_cluster(server: Server) -> Iterator[Cluster]:
    folder = temporary_folder("dbshield-restore-")
    cluster = Cluster(folder / "cluster", binaries=SOURCES[server.major](), settings={**SETTINGS, "max_connections": "50"})
    try:
        cluster.start(tethered=True, throwaway=True)
        yield cluster
    finally:
        cluster.remove()
        folder.rmdir()


def reader_of(backups: Backups, snapshot: str) -> Reader:
    with backups.store() as store:
        return Repository(Folder(backups.destination)).open("test", snapshot, Catalogue(store).trusted())


def restored_into(backups: Backups, cluster: Cluster, snapshot: str) -> Restored:
    tools = programs(backups.server.major, cluster.binaries.folder)
    with work_folder(backups.folder / "work") as work:
        return restore(
            reader_of(backups, snapshot),
            sealing.identities(backups.identity),
            target_of(cluster.dsn(), tools, work),
            jobs=2,
            progress=Silent(),
        )


def test_everything_comes_back_and_what_does_not_is_named(backups: Backups) -> None:
    made = backups.backup()
    with backups.server.connect(backups.database) as source:
        # What happens after the snapshot is in none of it.
        source.execute("delete from shop.order_items; delete from shop.orders")
    with empty_cluster(backups.server) as cluster:
        done = restored_into(backups, cluster, made["snapshot"])
        assert done.differences == ()
        (kept,) = done.record.databases
        counted = {f"{table.schema}.{table.name}": table for table in kept.tables if not table.skipped}
        assert counted["shop.orders"].rows == 6000
        assert {"shop.oddities", "shop.nothing", 'shop.We"ird ta$ble', "archive.orders_2025"} <= set(counted)
        assert done.record.canary is not None
        source_ = Source(base=cluster.dsn(), databases=())
        with psycopg.connect(cluster.dsn(backups.database), autocommit=True) as there:
            assert there.execute("select moment from dbshield_backup.canary").fetchall() == [("before",)]
            assert there.execute("select count(*) from pg_roles where rolname ~ '^agent_'").fetchone() == (3,)
            verifier = "select rolpassword like 'SCRAM-SHA-256$%' from pg_authid where rolname = 'agent_read'"
            assert there.execute(verifier).fetchone() == (True,)

            def differing() -> list[str]:
                found = measured(source_, backups.database, jobs=1, like=kept)
                return [difference.what.partition(": ")[2] for difference in compare_tables(kept, found)]

            assert differing() == []
            # Each is one small loss that nothing but the record sees.
            for change, table in (
                ("delete from shop.oddities where t in (7, 8)", "shop.oddities"),
                (
                    "update shop.settings set value = value || ' ' where key = (select min(key) from shop.settings)",
                    "shop.settings",
                ),
                ('update shop."We""ird ta$ble" set t = \'b\' where t is null', 'shop.We"ird ta$ble'),
                ("truncate shop.nothing", "shop.nothing"),
                ("update shop.oddities set a = a + 1e-12 where t = 9", "shop.oddities"),
            ):
                there.execute("begin")
                there.execute(change.encode())
                there.execute("commit")
                assert table in differing(), change
        with pytest.raises(BackupError, match=f"the target has a database {backups.database} already"):
            restored_into(backups, cluster, made["snapshot"])


def test_the_order_of_rows_does_not_matter_and_settings_do_not_either(backups: Backups) -> None:
    with backups.server.connect() as admin:
        cluster = backups.server.cluster
        source = Source(base=cluster.dsn(), databases=())
        before = measured(source, backups.database, jobs=2)
        for setting in (
            "\"TimeZone\" = 'Asia/Tokyo'",
            "extra_float_digits = -10",
            "bytea_output = 'escape'",
            "\"IntervalStyle\" = 'sql_standard'",
            "search_path = 'shop'",
        ):
            admin.execute(f'alter database "{backups.database}" set {setting}'.encode())
        with backups.server.connect(backups.database) as connection:
            # The rows move to the end of the table, in another order.
            connection.execute('update shop.oddities set "J k" = null where t % 3 = 0')
            connection.execute("create function shop.leak(shop.oddities) returns text language sql as $$ select 'mine' $$")
            connection.execute("create cast (shop.oddities as text) with function shop.leak(shop.oddities)")
        after = measured(source, backups.database, jobs=1)
    assert compare_tables(before, after) == ()
    (oddities,) = [table for table in after.tables if table.name == "oddities"]
    assert oddities.fingerprint not in {None, "0:0"}


def test_a_table_beyond_the_budget_is_sampled_and_said_so(backups: Backups) -> None:
    backups.write_config(fingerprint_max_bytes=65536)
    done = backups.run("backup", "--json")
    assert done.returncode == 0
    shown = backups.json("backup", "show", backups.listed()[0]["snapshot"])
    record = from_tree(shown["record"])
    sampled = {f"{table.schema}.{table.name}": table for table in record.databases[0].tables if table.sample > 1}
    assert sampled["shop.order_items"].rows == 12000
    assert sampled["shop.order_items"].fingerprint not in {None, "0:0"}
    remarks = backups.run("backup").stderr
    assert "shop.order_items is counted in full; one row in" in remarks
    with empty_cluster(backups.server) as cluster:
        assert restored_into(backups, cluster, shown["snapshot"]).differences == ()
        with psycopg.connect(cluster.dsn(backups.database), autocommit=True) as there:
            there.execute("delete from shop.order_items where ctid = (select max(ctid) from shop.order_items)")
        source = Source(base=cluster.dsn(), databases=())
        found = measured(source, backups.database, jobs=1, like=record.databases[0])
        (difference,) = compare_tables(record.databases[0], found)
        assert (difference.expected, difference.found) == ("12000 rows", "11999 rows")


def test_what_is_damaged_never_reaches_the_target(backups: Backups) -> None:
    made = backups.backup()
    folder = backups.destination / "test" / made["snapshot"]
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    other = backups.folder / "other.txt"
    sealing.new_identity(other)
    with work_folder(backups.folder / "work") as work:
        tools = programs(backups.server.major, backups.server.cluster.binaries.folder)
        nowhere = target_of("host=/nonexistent", tools, work)
        for identity, error in ((backups.identity, Damaged), (other, WrongKey)):
            with pytest.raises(error):
                restore(reader_of(backups, made["snapshot"]), sealing.identities(identity), nowhere, jobs=1, progress=Silent())
    assert not list((backups.folder / "work").glob("work-*"))
