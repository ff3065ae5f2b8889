"""Approved statements on real servers: what the executor runs, saves, refuses, and what undo brings back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.executing import Stage, stage
from support.servers import Server

from dbshield.control.approval import State


@pytest.fixture
def here(server: Server, tmp_path: Path) -> Iterator[Stage]:
    with stage(server, tmp_path) as made:
        yield made


EXTRAS = """
    create table shop.ledger (id bigint generated always as identity primary key, amount numeric not null, noted text,
        doubled numeric generated always as (amount * 2) stored);
    insert into shop.ledger (amount, noted) select i, case when i % 3 = 0 then null else E'a\\tb\\\\n' || i end
        from generate_series(1, 500) i;
    create table shop.notes (body text, at timestamptz default now());
    insert into shop.notes select 'note ' || i % 40, timestamptz '2026-01-01 10:00+02' from generate_series(1, 200) i;
    create table shop.tree (id int primary key, parent int references shop.tree on delete set null, name text);
    insert into shop.tree select i, nullif(i / 2, 0), 'node ' || i from generate_series(1, 100) i;
    grant select (id, status) on shop.orders to reporting;
    comment on table shop.orders is 'what was bought';
    comment on column shop.orders.total is 'with tax';
    create rule no_updates as on update to shop.secrets where new.id = 0 do instead nothing;
    create table shop.counts (what text primary key, n bigint);
    insert into shop.counts values ('customers', 2000);
    grant all on shop.counts to app_owner;
    create function shop.count_customers() returns trigger language plpgsql as
        $$ begin update shop.counts set n = n - 1 where what = 'customers'; return old; end $$;
    create trigger customers_counted after delete on shop.customers for each row execute function shop.count_customers();
    create sequence shop.ticket; select setval('shop.ticket', 77);
    create table shop.tickets (id int default nextval('shop.ticket') primary key, what text);
    insert into shop.tickets select i, 'x' from generate_series(1, 20) i;
"""

UNDONE = {
    "drop table": "drop table shop.order_items",
    "drop table cascade": "drop table shop.orders cascade",
    "drop table with a view": "drop table shop.customers cascade",
    "drop partitioned": "drop table shop.events",
    "drop partition": "drop table shop.events_2026_01",
    "drop identity": "drop table shop.ledger",
    "drop several": "drop table shop.orders, shop.order_items, shop.secrets cascade",
    "drop schema": "drop schema archive cascade",
    "drop view": "drop view shop.active_customers",
    "drop materialized view": "drop materialized view shop.sales_by_day",
    "drop index": "drop index shop.orders_customer",
    "drop sequence cascade": "drop sequence shop.ticket cascade",
    "drop function": "drop function shop.order_count(integer)",
    "drop function cascade": "drop function shop.count_customers() cascade",
    "drop trigger": "drop trigger customers_touch on shop.customers",
    "drop rule": "drop rule no_updates on shop.secrets",
    "drop constraint": "alter table shop.orders drop constraint orders_customer_id_fkey",
    "truncate": "truncate shop.order_items",
    "truncate cascade": "truncate shop.customers cascade",
    "truncate partitioned": "truncate shop.events",
    "truncate restart": "truncate shop.ledger restart identity",
    "delete all": "delete from shop.order_items",
    "delete cascade": "delete from shop.customers",
    "delete some": "delete from shop.customers where id % 7 = 0",
    "delete partitioned": "delete from shop.events where id < 1000",
    "delete without key": "delete from shop.notes where body like '%1'",
    "delete identity": "delete from shop.ledger where id > 100",
    "delete sets null": "delete from shop.tree where id < 10",
    "delete in a with": "with gone as (delete from shop.orders where id < 50 returning *) select count(*) from gone",
    "delete by a function": "select shop.wipe_customers()",
    "delete in a do block": "do $$ begin delete from shop.order_items where order_id < 99;"
    " begin delete from shop.orders where id < 99; exception when others then raise; end; end $$",
    "update all": "update shop.orders set total = 0, status = 'gone'",
    "update without key": "update shop.notes set body = 'same'",
    "update partitioned": "update shop.events set kind = 'x' where id < 500",
    "update generated": "update shop.ledger set amount = -1",
    "update key": "update shop.tickets set id = id + 1000",
    "upsert": "insert into shop.settings values ('vat', '0'), ('theme', 'dark')"
    " on conflict (key) do update set value = excluded.value",
}


@pytest.mark.parametrize("name", UNDONE)
def test_what_was_destroyed_comes_back(here: Stage, name: str) -> None:
    here.sql(EXTRAS)
    before = here.facts()
    done = here.run(UNDONE[name])
    assert done.state is State.DONE, done.error
    assert here.lost(before), "the statement destroyed nothing, so nothing is shown"
    assert done.undo == done.id
    here.undo(done)
    assert here.lost(before) == []
