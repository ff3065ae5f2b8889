"""What sql/catalogue_notify.sql tells, and that it is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from support.servers import Server

NOTIFY = Path(__file__).parents[2] / "sql" / "catalogue_notify.sql"
CHANNEL = "dbshield_catalogue"
PATIENCE = 5.0

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
    "alter schema shop rename to store",
    "drop owned by app_owner cascade",
]
"""One after the other."""

NOT_TOLD = [
    "create table shop.more (a int)",
    "drop table shop.settings",
    "drop index concurrently shop.orders_customer",
    "create index concurrently on shop.orders (total)",
    "alter table shop.customers add column note text",
    "drop schema archive cascade",
    "create type shop.parcel as (n int)",
    "drop type shop.parcel",
    "delete from shop.order_items",
    "begin; create function shop.one() returns int language sql as 'select 1'; rollback",
]


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
        admin.execute("notify dbshield_catalogue, 'the end'")
        payloads = [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=1)]
        assert payloads == ["the end"]


def test_it_is_installed_again_and_again(server: Server, database: str) -> None:
    with server.connect(database) as admin, listen(server, database) as listener:
        for _ in range(3):
            admin.execute(NOTIFY.read_text())
        list(listener.notifies(timeout=0.2))
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
