"""What the tests' own look at a database remembers: it has to see what a look at every row sees."""

from __future__ import annotations

import pytest
from support.cases import oracle, own
from support.remembered import Memory
from support.servers import Server

CHANGES = (
    "update shop.customers set name = 'another' where id = 1",
    "delete from shop.order_items where order_id = 7",
    "insert into shop.settings values ('new', 'value')",
    "begin; update shop.customers set name = 'x'; rollback",
    "delete from shop.settings where key = 'new'; insert into shop.settings values ('new', 'other')",
    "truncate shop.order_items",
    "alter table shop.customers add column more int default 7",
    "alter table shop.customers rename column more to other",
    "alter table shop.customers alter column other type text using 'again'",
    "create type shop.mood as enum ('good', 'bad'); alter table shop.settings add column mood shop.mood default 'good'",
    "alter type shop.mood rename value 'good' to 'fine'",
    "vacuum full shop.customers",
    "create table shop.made as select 1 as a",
    "drop table shop.made",
    "create table shop.made as select 2 as a",
    "create function shop.say(shop.mood) returns json language sql immutable as 'select to_json(1)';"
    " create cast (shop.mood as json) with function shop.say(shop.mood)",
    "create or replace function shop.say(shop.mood) returns json language sql immutable as 'select to_json(2)'",
    "select lo_create(0); refresh materialized view shop.sales_by_day",
    "refresh materialized view shop.sales_by_day with no data",
)
"""In this order: each is looked at after those before it."""
ORDERS = "shop.orders"


@pytest.mark.one_server
def test_every_change_is_seen(server: Server, database: str) -> None:
    memory = Memory()
    with server.connect(database) as reader, server.connect(database) as admin:
        before, again = (oracle.snapshot(memory.over(reader))["rows"] for _ in range(2))
        assert sum(map(len, before.values())) > 10_000
        # What did not change is not read again.
        assert all(one is other for one, other in zip(before[ORDERS].values(), again[ORDERS].values(), strict=True))
        for change in CHANGES:
            for one in change.split("; "):
                admin.execute(one.encode())
            assert own(oracle.snapshot(memory.over(reader)), reader) == own(oracle.snapshot(reader), reader), change
