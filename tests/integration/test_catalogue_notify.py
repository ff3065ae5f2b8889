"""What sql/catalogue_notify.sql tells, and that it is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from support.servers import Server

NOTIFY = Path(__file__).parents[2] / "sql" / "catalogue_notify.sql"
CHANNEL = "dbshield_catalogue"
PATIENCE = 30.0

TOLD = [
    "create function shop.one() returns int language sql as 'select 1'",
    "create or replace function shop.order_count(customer integer) returns bigint language sql stable as 'select 0::bigint'",
    "alter function shop.touch() volatile",
    "alter function shop.touch() rename to touched",
    "alter procedure shop.archive_orders() owner to app_owner",
    "drop function shop.order_count(integer)",
    "drop procedure shop.archive_orders()",
    "drop routine shop.purge_cancelled",
    "create operator shop.=== (leftarg = integer, rightarg = integer, function = int4eq)",
    "create cast (shop.customers as integer) with inout",
    "create aggregate shop.total(integer) (sfunc = int4pl, stype = integer, initcond = '0')",
    "create extension pg_trgm",
    "drop extension pg_trgm",
    "create schema more create table a (b int)",
    "set session_replication_role = replica; create function shop.two() returns int language sql as 'select 1'",
    "do $$ begin create function shop.three() returns int language sql as 'select 1'; end $$",
    "create trigger late before insert on shop.settings for each row execute function shop.touched()",
    "alter trigger late on shop.settings rename to later",
    "alter table shop.settings disable trigger later",
    "drop trigger later on shop.settings",
    "create constraint trigger late after insert on shop.settings for each row execute function shop.touched()",
    "create or replace trigger late before insert on shop.orders for each row execute function shop.touched()",
    "create rule late as on insert to shop.settings do also select 1",
    "alter rule late on shop.settings rename to later",
    "drop rule later on shop.settings",
    "create policy late on shop.settings using (true)",
    "alter policy late on shop.settings using (false)",
    "drop policy late on shop.settings",
    "create table shop.more (a integer default length('x'), b integer check (b > 0))",
    "create table shop.part_of partition of shop.events for values from ('2026-03-01') to ('2026-04-01')",
    "create table shop.taken as select 1 as a",
    "select 1 as a into shop.taken_too",
    "alter table shop.more add column c integer",
    "alter table shop.more alter c set default 1",
    "alter table shop.more add constraint c_is_small check (c < 9)",
    "alter table shop.taken inherit shop.taken_too",
    "alter table shop.events detach partition shop.part_of",
    "alter table shop.taken rename to taken_away",
    "alter index shop.taken_away rename to taken",
    "create index on shop.more (abs(a))",
    "create index concurrently on shop.more (abs(b))",
    "alter index shop.more_abs_idx alter column 1 set statistics 10",
    "create domain shop.small as integer check (value < 9)",
    "alter domain shop.small add check (value > 0)",
    "create view shop.seen as select * from shop.more",
    "alter view shop.seen rename to seen_again",
    "drop view shop.seen_again",
    "create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;"
    " create foreign table shop.away (a integer) server nowhere",
    "alter foreign table shop.away alter a set default 1",
    "create extension postgres_fdw",
    """do $$ begin
        execute format('create server here foreign data wrapper postgres_fdw options (host %L, port %L, dbname %L)',
            split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database());
        create user mapping for public server here options (user 'postgres');
    end $$; create schema abroad""",
    "import foreign schema shop limit to (orders) from server here into abroad",
    "set session_replication_role = replica; create rule late as on insert to shop.settings do also select 1",
    "drop table shop.settings",
    "create function pg_temp.touch() returns trigger language plpgsql as 'begin return new; end';"
    ' create trigger "late on pg_temp.orders" before insert on shop.orders for each row execute function pg_temp.touch()',
    "drop function pg_temp.touch() cascade",
    "alter schema shop rename to store",
    "drop owned by app_owner cascade",
]
"""One after the other."""

TEMPORARY = [
    "create temp table here (a integer default length('x'), b integer check (b > 0), primary key (a))",
    "create temp table taken as select 1 as a",
    "select 1 as a into temp taken_too",
    "alter table here add column c integer default length('xx')",
    "alter table taken rename to taken_away",
    "create index on here (abs(a))",
    "create temp view seen as select * from here",
    "create view seen_as_well as select * from here",
    "alter view seen rename to seen_again",
    "create trigger late before insert on here for each row execute function shop.touch()",
    "alter trigger late on here rename to later",
    "create rule late as on insert to here do also select 1",
    "alter rule late on here rename to later",
    "create policy late on here using (true)",
    "alter policy late on here using (false)",
    "create function pg_temp.one() returns integer language sql as 'select 1'",
    "alter function pg_temp.one() stable",
    "create domain pg_temp.small as integer check (value < 9)",
    "alter domain pg_temp.small add check (value > 0)",
    "create aggregate pg_temp.total(integer) (sfunc = int4pl, stype = integer, initcond = '0')",
    "create operator pg_temp.=== (leftarg = integer, rightarg = integer, function = int4eq)",
    "drop trigger later on here",
    "drop policy late on here",
    "create trigger late before insert on here for each row execute function shop.touch()",
    "create policy late on here using (true)",
    "drop rule later on here",
    "drop view seen_again",
    "drop aggregate pg_temp.total(integer)",
    "drop operator pg_temp.=== (integer, integer)",
    "drop function pg_temp.one()",
    "drop domain pg_temp.small",
    "drop table here cascade",
    "begin; create temp table gone (a integer default length('x')) on commit drop; commit",
]
"""One after the other."""

NOT_TOLD = [
    *TEMPORARY,
    "drop index concurrently shop.orders_customer",
    "drop schema archive cascade",
    "create table if not exists shop.settings (key text)",
    "alter table if exists shop.nowhere add column note text",
    "create materialized view shop.kept as select 1 as a",
    "create sequence shop.numbers",
    "comment on table shop.settings is 'x'",
    "grant select on shop.settings to agent_read",
    "reindex table shop.settings",
    "drop table shop.settings",
    "create type shop.parcel as (n int)",
    "drop type shop.parcel",
    "delete from shop.order_items",
    "begin; create function shop.one() returns int language sql as 'select 1'; rollback",
]


def heard(admin: psycopg.Connection[tuple[object, ...]], listener: psycopg.Connection[tuple[object, ...]]) -> None:
    """Wait until the listener has all that was told up to now, and forget it."""
    admin.execute(f"notify {CHANNEL}, 'up to here'")
    assert any(notice.payload == "up to here" for notice in listener.notifies(timeout=PATIENCE))


def listen(server: Server, database: str) -> psycopg.Connection[tuple[object, ...]]:
    listener = server.connect(database)
    listener.execute(f"listen {CHANNEL}")
    return listener


def test_what_is_told(server: Server, database: str) -> None:
    with server.connect(database) as admin, listen(server, database) as listener:
        admin.execute(NOTIFY.read_text())
        for text in TOLD:
            admin.execute(text)
            found = [notice.channel for notice in listener.notifies(timeout=PATIENCE, stop_after=1)]
            assert found == [CHANNEL], text


def test_what_is_not_told(server: Server, database: str) -> None:
    with server.connect(database) as admin, listen(server, database) as listener:
        admin.execute(NOTIFY.read_text())
        for text in NOT_TOLD:
            admin.execute(text)
            admin.execute("notify dbshield_catalogue, 'nothing else'")
            payloads = [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=1)]
            assert payloads == ["nothing else"], text


def test_a_migration_tells_once(server: Server, database: str) -> None:
    with server.connect(database) as admin, listen(server, database) as listener:
        admin.execute(NOTIFY.read_text())
        heard(admin, listener)
        with admin.transaction():
            for number in range(50):
                admin.execute(
                    f"create table shop.t{number} (a integer); create view shop.v{number} as select * from shop.t{number}"
                )
        admin.execute("notify dbshield_catalogue, 'the end'")
        payloads = [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=2)]
        assert payloads == ["", "the end"]


def test_it_is_installed_again_and_again(server: Server, database: str) -> None:
    with server.connect(database) as admin, listen(server, database) as listener:
        for _ in range(3):
            admin.execute(NOTIFY.read_text())
        heard(admin, listener)
        admin.execute(TOLD[0])
        assert len(list(listener.notifies(timeout=PATIENCE, stop_after=1))) == 1
        (count,) = admin.execute("select count(*) from pg_event_trigger").fetchone() or (0,)
        assert count == 2


def test_a_plain_role_cannot_call_it_or_get_rid_of_it(server: Server, database: str) -> None:
    with server.connect(database) as admin:
        admin.execute(NOTIFY.read_text())
    with psycopg.connect(server.agent_dsn("migrate", database), autocommit=True) as agent:
        for text in (
            "select dbshield.catalogue_changed()",
            "drop event trigger dbshield_catalogue_changed",
            "alter event trigger dbshield_catalogue_changed disable",
            "drop function dbshield.catalogue_changed() cascade",
            "create or replace function dbshield.catalogue_changed() returns event_trigger language plpgsql as 'begin end'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                agent.execute(text)
