"""What undo brings back on real servers, and what it tells instead of touching anything."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.executing import Stage, control_of, now, stage
from support.servers import Server

from dbshield.control.approval import State
from dbshield.control.undo import UndoConflict
from dbshield.control.undo_files import UndoError
from dbshield.control.undo_store import UndoStore
from dbshield.errors import Refused, StoreError

pytestmark = pytest.mark.one_server(by="module")


@pytest.fixture(scope="module")
def control(server: Server) -> Iterator[str]:
    with control_of(server) as dsn:
        yield dsn


@pytest.fixture
def here(server: Server, control: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(server, control, tmp_path) as made:
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
    create table shop.coins (value numeric not null unique, number int generated always as identity, face text);
    insert into shop.coins (value, face) select i + 0.50, 'head' from generate_series(1, 9) i;
    create rule no_coins as on insert to shop.coins do instead nothing;
    create rule no_faces as on update to shop.coins where new.face = 'head' do instead nothing;
    create table shop.aliases (alias text unique, target text);
    insert into shop.aliases values (null, 'nobody'), ('a', 'b'), ('c', 'd');
    create table shop.teams (id int primary key, lead int);
    create table shop.members (id int primary key, team int references shop.teams);
    insert into shop.teams select i, i from generate_series(1, 3) i;
    insert into shop.members select i, i from generate_series(1, 3) i;
    alter table shop.teams add foreign key (lead) references shop.members;
    create unique index members_by on shop.members (id, (team + 1));
    create unique index members_only on shop.members (id);
    alter index shop.members_by alter column 2 set statistics 500;
    comment on index shop.members_by is 'for the report';
    alter table shop.members cluster on members_by;
    alter table shop.members replica identity using index members_only;
    create function shop.seen() returns trigger language plpgsql as $$ begin return null; end $$;
    create trigger events_seen after update on shop.events for each row execute function shop.seen();
    alter table shop.events_2026_01 disable trigger events_seen;
    create constraint trigger tree_seen after update on shop.tree deferrable for each row execute function shop.seen();
    create index events_kind on shop.events (kind);
    create statistics shop.order_kinds (dependencies) on customer_id, status from shop.orders;
    comment on statistics shop.order_kinds is 'for the planner';
    alter sequence shop.ticket owned by shop.tickets.id;
    alter default privileges in schema shop grant select, insert on tables to public;
    alter default privileges in schema shop grant all on sequences to public;
    alter default privileges grant execute on functions to reporting;
    alter default privileges revoke execute on functions from public;
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
    "drop index with all that is said of it": "drop index shop.members_by; drop index shop.members_only",
    "drop index of partitions": "drop index shop.events_kind",
    "drop statistics": "drop statistics shop.order_kinds",
    "drop trigger of partitions": "drop trigger events_seen on shop.events",
    "drop function of a constraint trigger": "drop function shop.seen() cascade",
    "drop sequence cascade": "drop sequence shop.ticket cascade",
    "drop function": "drop function shop.order_count(integer)",
    "drop function cascade": "drop function shop.count_customers() cascade",
    "drop trigger": "drop trigger customers_touch on shop.customers",
    "drop rule": "drop rule no_updates on shop.secrets",
    "drop constraint": "alter table shop.orders drop constraint orders_customer_id_fkey",
    "truncate": "truncate shop.order_items",
    "truncate cascade": "truncate shop.customers cascade",
    "truncate partitioned": "truncate shop.events",
    "truncate a circle": "truncate shop.teams, shop.members",
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
    "delete under a rule": "delete from shop.coins",
    "update under a rule, all that it holds": "update shop.coins set value = value * 1.0, number = default, face = 'tail'",
    "update without key, unique": "update shop.aliases set target = 'z'",
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


DIFFERENT = {
    "a row was changed since": (
        "update shop.settings set value = 'x'",
        "update shop.settings set value = 'y' where key = 'vat'",
        "vat",
    ),
    "a row is gone since": ("update shop.settings set value = 'x'", "delete from shop.settings where key = 'vat'", "vat"),
    "a key is taken": ("delete from shop.settings", "insert into shop.settings values ('theme', 'new')", "theme"),
    "a table is there again": ("drop table shop.settings", "create table shop.settings (a int)", "shop.settings is there again"),
    "another table stands where a view was": (
        "drop view shop.active_customers",
        "create table shop.active_customers ()",
        "is there",
    ),
    "a table has other columns": ("delete from shop.settings", "alter table shop.settings add column more int", "other columns"),
    "a table is gone": ("delete from shop.settings", "drop table shop.settings", "not there any more"),
    "a schema is gone": ("drop table archive.orders_2025", "drop schema archive", "schema archive is not there"),
    "a parent is missing": ("delete from shop.order_items", "delete from shop.orders where id = 1", "foreign key"),
    "another row would go with it": (
        "update shop.teams set id = id + 100 where id = 1",
        "insert into shop.players values (1, 101)",
        "1 rows of shop.players refer to rows of shop.teams that the statement made",
    ),
    "a view is there instead": (
        "delete from shop.settings",
        "alter table shop.settings rename to kept; create view shop.settings as select * from shop.kept",
        "no table any more",
    ),
    "another row has the value": (
        "delete from shop.products where id = 300 and id not in (select product_id from shop.order_items where order_id < 0)",
        "insert into shop.products values (7777, 'SKU-300', 'x', 1, 1)",
        "duplicate key",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_conflict_is_told_and_nothing_is_touched(here: Stage, name: str) -> None:
    statement, meanwhile, said = DIFFERENT[name]
    here.sql("delete from shop.order_items where product_id = 300")
    here.sql("create table shop.teams (id int primary key); insert into shop.teams values (1)")
    here.sql("create table shop.players (id int primary key, team int references shop.teams on delete cascade)")
    done = here.run(statement)
    assert done.state is State.DONE, done.error
    here.sql(meanwhile)
    before = here.facts()
    with pytest.raises(UndoConflict, match=said):
        here.undo(done)
    assert here.facts() == before


REFUSED = {
    "begin": ("begin; delete from shop.settings; commit", "begins or ends a transaction"),
    "commit": ("delete from shop.settings; commit", "begins or ends a transaction"),
    "savepoint": ("savepoint a", "begins or ends a transaction"),
    "unreadable": ("delete from from shop.settings", "cannot be read"),
    "empty": ("", "no statement"),
    "cursor": ("fetch all from c", "cursor"),
    "prepared": ("execute p", "prepared statement"),
    "vacuum": ("vacuum full shop.settings", "cannot run inside a transaction block"),
    "concurrently": ("drop index concurrently shop.orders_customer", "cannot run inside a transaction block"),
    "database": ("drop database template1", "cannot run inside a transaction block"),
    "copy in": ("copy shop.settings from stdin", "no client"),
    "copy out": ("copy shop.settings to stdout", "no client"),
    "commit in a body": ("do $$ begin delete from shop.settings; commit; end $$", "transaction"),
    "its own mistake": ("delete from shop.nothing", "does not exist"),
    "column": ("alter table shop.settings drop column value", "no undo point can bring back"),
    "type": ("alter table shop.products alter column price type integer", "no undo point can bring back"),
    "owner": ("alter table shop.settings owner to postgres", "no undo point can bring back"),
    "replaced function": (
        "create or replace function shop.order_count(customer integer) returns bigint language sql as $$ select 0::bigint $$",
        "no undo point can bring back",
    ),
    "large object": ("select lo_unlink(424242)", "no undo point can bring back"),
    "rows without a value": ("delete from shop.nothings", "hold no value of their own"),
    "role": ("drop role {role}", "no undo point can bring back"),
    "move to another partition": (
        "update shop.events set at = '2026-02-02' where id = 59",
        "no undo point can tell",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_undone_or_run_here_is_refused(here: Stage, name: str) -> None:
    statement, said = REFUSED[name]
    # Of this test alone: other workers look at what they share.
    role = f"of_{here.database}"
    if name == "role":
        here.sql(f"create role {role}")
    here.sql("create table shop.nothings (); insert into shop.nothings default values")
    before = here.facts()
    failed = here.run(statement.replace("{role}", role))
    if name == "role":
        here.sql(f"drop role {role}")  # It is still there.
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert said in failed.error["message"], failed.error
    assert here.facts() == before
    assert not list(here.folder.glob("*")), "nothing was saved, and nothing is left of it"


def test_without_undo_a_human_may_have_it_all_the_same(here: Stage) -> None:
    done = here.run("alter table shop.settings drop column value", without_undo=True)
    assert done.state is State.DONE
    assert done.undo is None
    assert here.sql("select * from shop.settings limit 1") == [("currency",)]
    with pytest.raises(Refused, match="nothing was saved"):
        here.undo(done)


def test_two_who_undo_at_once_do_not_bring_rows_back_twice(here: Stage) -> None:
    """In a table without a key nothing else would tell."""
    here.sql("create table shop.plain (note text); insert into shop.plain values ('a'), ('b')")
    done = here.run("delete from shop.plain")
    store = UndoStore(here.control)
    with store.using(done.id) as use:
        undone = here.undo(done)
        with pytest.raises(Refused, match="undone right now"), store.using(done.id):
            pytest.fail("two undo the same")
        use(by="ann", now=now(), rows=undone.rows)
    with pytest.raises(Refused, match="undone already, by ann"), store.using(done.id):
        pytest.fail("it was undone twice")
    assert here.sql("select count(*) from shop.plain") == [(2,)]


def test_what_the_statement_inserted_elsewhere_stays_and_is_told(here: Stage) -> None:
    here.sql("create table shop.kept (like shop.settings)")
    done = here.run("with gone as (delete from shop.settings returning *) insert into shop.kept select * from gone")
    assert here.undo(done).left == ("3 rows that the statement inserted into shop.kept stay",)
    assert here.sql("select count(*) from shop.settings") == here.sql("select count(*) from shop.kept") == [(3,)]


@pytest.mark.parametrize("kept", [True, False])
def test_an_undo_whose_commit_nobody_heard_of_is_not_done_again(here: Stage, *, kept: bool) -> None:
    """Its process ends, or the control database goes away, between the two commits; or before the first one."""
    here.sql("create table shop.plain (note text); insert into shop.plain values ('a'), ('b')")
    done = here.run("delete from shop.plain")
    store = UndoStore(here.control)
    if kept:
        here.undo(done, began=lambda transaction: store.began(done.id, transaction))
    else:
        with pytest.raises(StoreError), store.using(done.id):
            here.undo(done, began=lambda transaction: lost(store, done.id, transaction))
    assert store.get(done.id).undone_at is None
    undone = here.undo(done, earlier=store.get(done.id).undoing)
    assert (undone.rows, "an earlier undo" in " ".join(undone.left)) == ({"shop.plain": 2}, kept)
    assert here.sql("select count(*) from shop.plain") == [(2,)]


def test_an_undo_that_goes_on_is_not_begun_again(here: Stage) -> None:
    """Whoever is at it has lost the control database, and with it the lock that says so."""
    here.sql("create table shop.plain (note text); insert into shop.plain values ('a'), ('b')")
    done = here.run("delete from shop.plain")

    def meanwhile(transaction: str) -> None:
        with pytest.raises(Refused, match="right now"):
            here.undo(done, earlier=transaction)

    here.undo(done, began=meanwhile)
    assert here.sql("select count(*) from shop.plain") == [(2,)]
    with pytest.raises(Refused, match="cannot say what became of it"):
        here.undo(done, earlier="9999999999")


def lost(store: UndoStore, approval: str, transaction: str) -> None:
    store.began(approval, transaction)
    raise StoreError("the control database does not answer")


def test_a_server_that_counts_no_rows_runs_nothing_that_is_to_be_undone(here: Stage) -> None:
    here.sql(f'alter database "{here.database}" set track_counts = off')
    failed = here.run("delete from shop.settings")
    assert failed.state is State.FAILED
    assert "does not count" in str(failed.error)
    assert here.sql("select count(*) from shop.settings") == [(3,)]
    assert here.run("delete from shop.settings", without_undo=True).state is State.DONE


def test_an_undo_that_failed_may_be_tried_again(here: Stage) -> None:
    done = here.run("delete from shop.settings")
    store = UndoStore(here.control)
    with pytest.raises(UndoConflict), store.using(done.id):
        raise UndoConflict(done.id, ["something is in the way"])
    assert store.get(done.id).undone_at is None


def test_a_file_that_was_changed_is_not_brought_back(here: Stage) -> None:
    done = here.run("delete from shop.settings")
    rows = here.folder / done.id / "1.before"
    rows.write_text(rows.read_text().replace("EUR", "USD"))
    with pytest.raises(UndoError, match="was changed since"):
        here.undo(done)
    assert here.sql("select count(*) from shop.settings") == [(0,)]
    assert stat.S_IMODE((here.folder / done.id).stat().st_mode) == 0o700
