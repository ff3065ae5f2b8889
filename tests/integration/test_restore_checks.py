"""The checks of a restored server, each on one that has just the damage that it is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from support.servers import SETTINGS, SOURCES

from dbshield.backup import checks_programs, checks_sql, look
from dbshield.backup.binaries import programs
from dbshield.backup.checks import Found, Outcome, checked
from dbshield.backup.logical import measured
from dbshield.backup.record import Record
from dbshield.backup.restore_logical import Target, schema_digest, target_of
from dbshield.backup.work import work_folder
from dbshield.cluster import Cluster, temporary_folder

pytestmark = pytest.mark.one_server

TABLES = """
create table customers (id int primary key, region int, unique (region, id));
create table orders (id serial primary key, customer int references customers, region int,
    foreign key (region, customer) references customers (region, id) match full);
create table years (id int, customer int references customers, year int) partition by range (year);
create table years_2025 partition of years for values from (2025) to (2026);
create table loose (id int);
alter table loose add foreign key (id) references customers not valid;
insert into customers select g, 1 from generate_series(1, 100) g;
insert into orders (customer, region) select g, 1 from generate_series(1, 100) g;
insert into years select g, g, 2025 from generate_series(1, 100) g;
create index orders_by_region on orders (region, id);
create role reader login; create role readers; grant readers to reader;
"""


@pytest.fixture(scope="module", params=[15, 18], ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    folder = temporary_folder("dbshield-checks-")
    made = Cluster(folder / "cluster", binaries=SOURCES[request.param](), settings={**SETTINGS, "max_connections": "50"})
    try:
        made.start(tethered=True, throwaway=True)
        with psycopg.connect(made.dsn(), autocommit=True) as admin:
            admin.execute(TABLES)
        yield made
    finally:
        made.remove()
        folder.rmdir()


@pytest.fixture
def target(cluster: Cluster, tmp_path: Path) -> Iterator[Target]:
    with work_folder(tmp_path / "work") as work:
        yield target_of(cluster.dsn(), programs(cluster.binaries.major, cluster.binaries.folder), work)


def recorded(target: Target) -> Record:
    """What a snapshot of it as it is now would say."""
    database = replace(measured(target.source, "postgres", jobs=1), schema_sha256=schema_digest(target, "postgres"))
    with target.source.connect("postgres") as connection:
        return Record(
            taken="2026-05-01T12:00:00Z",
            settings={},
            roles=look.roles(connection),
            members=look.members(connection),
            databases=(database,),
            canary=None,
        )


def all_of(target: Target, kept: Record) -> dict[str, Found]:
    found = [measured(target.source, "postgres", jobs=1, like=kept.databases[0])]
    rows, content = checks_sql.compared(kept, found)
    return {
        "rows": checks_sql.rows(kept, rows),
        "content": checks_sql.content(kept, content),
        "schema": checks_programs.schema(target, kept, found),
        "indexes": checks_sql.indexes(target.source, kept),
        "foreign-keys": checks_sql.foreign_keys(target.source, kept),
        "roles": checks_sql.roles(target.source, kept),
        "extensions": checks_sql.extensions(kept, found),
        "sequences": checks_sql.sequences(target.source, kept, found),
        "amcheck": checks_programs.amcheck(target, kept, jobs=1),
    }


def bad(target: Target, kept: Record) -> dict[str, str]:
    return {name: "; ".join(found.problems) for name, found in all_of(target, kept).items() if found.problems}


def test_each_sees_what_it_is_for(cluster: Cluster, target: Target) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute("create extension if not exists amcheck with schema pg_catalog")
        kept = recorded(target)
        assert bad(target, kept) == {}
        assert all_of(target, kept)["foreign-keys"].measure.startswith("3 keys; 1 that are not validated")

        def sees(damage: str, repair: str) -> dict[str, str]:
            for part in damage.split(";"):
                admin.execute(part.encode())
            found = bad(target, kept)
            for part in repair.split(";"):
                admin.execute(part.encode())
            return found

        silent = "set session_replication_role = replica"
        loud = "set session_replication_role = origin"
        found = sees(f"{silent};delete from customers where id = 7", f"insert into customers values (7, 1);{loud}")
        assert found["rows"] == "postgres: public.customers: 99 rows, expected 100 rows"
        assert found["foreign-keys"].count("1 rows refer to nothing by") == 3
        found = sees(
            f"{silent};update orders set region = null where id = 3", f"update orders set region = 1 where id = 3;{loud}"
        )
        # MATCH FULL: a key that is null in part refers to nothing.
        assert "1 rows refer to nothing by orders_region_customer_fkey" in found["foreign-keys"]
        assert "rows of other content" in found["content"]
        found = sees("drop index orders_by_region", "create index orders_by_region on orders (region, id)")
        assert set(found) == {"schema"}
        found = sees("grant select on orders to public", "revoke select on orders from public")
        assert set(found) == {"schema"}
        found = sees("alter database postgres set work_mem = '7MB'", "alter database postgres reset work_mem")
        assert found["schema"].startswith("postgres: the settings: {'': ['work_mem=7MB']}, expected {}")
        assert set(found) == {"schema"}
        found = sees("alter role reader createdb", "alter role reader nocreatedb")
        assert found == {"roles": "the role reader has other attributes: createdb"}
        found = sees("revoke readers from reader", "grant readers to reader")
        assert found == {"roles": "reader is no member of readers"}
        found = sees("select setval('orders_id_seq', 50)", "select setval('orders_id_seq', 100)")
        assert "public.orders_id_seq: 50, expected 100 or beyond" in found["sequences"]
        assert "public.orders_id_seq is behind public.orders.id" in found["sequences"]
        # An index that missed a row.
        hide = "update pg_index set indisready = {} where indexrelid = 'orders_by_region'::regclass"
        found = sees(
            f"{silent};{hide.format('false')};insert into orders values (1000, 1, 1);{hide.format('true')}",
            f"reindex index orders_by_region;delete from orders where id = 1000;{loud}",
        )
        assert "orders_by_region" in found["amcheck"]
        assert bad(target, kept) == {}


def test_a_sequence_that_was_behind_already_is_the_sources_own(cluster: Cluster, target: Target) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute("create table ahead (id serial); insert into ahead values (500)")
        kept = recorded(target)
        found = all_of(target, kept)["sequences"]
        admin.execute("drop table ahead")
    assert found.problems == ()
    assert "public.ahead_id_seq is behind public.ahead.id, in the source as well" in found.measure


def test_what_was_not_counted_is_no_pass(target: Target) -> None:
    kept = recorded(target)
    without = replace(kept, databases=(replace(kept.databases[0], schema_sha256=""),))
    assert checked("schema", lambda: checks_programs.schema(target, without, ())).outcome is Outcome.NOT_CHECKED
    assert checked("canary", lambda: checks_sql.canary(target.source, kept)).outcome is Outcome.NOT_CHECKED


def test_a_page_that_was_overwritten(tmp_path: Path) -> None:
    folder = temporary_folder("dbshield-checks-")
    cluster = Cluster(folder / "cluster", settings={"fsync": "off"})
    try:
        cluster.start(tethered=True, throwaway=True)
        with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
            admin.execute("create table t as select g from generate_series(1, 1000) g; checkpoint")
            (path,) = admin.execute("select pg_relation_filepath('t')").fetchone() or ("",)
        cluster.stop("fast")
        whole = checks_programs.page_checksums(cluster)
        assert whole.problems == ()
        assert "pages in" in whole.measure
        with (cluster.data / path).open("r+b") as stream:
            stream.seek(8000)
            stream.write(b"dbshield")
        (problem,) = checks_programs.page_checksums(cluster).problems
        assert "checksum verification failed" in problem
    finally:
        cluster.remove()
        folder.rmdir()
