"""Attacks that no text shows, because what destroys was there before: triggers, rules and defaults that delete, foreign tables.

People made them, for reasons of their own. Each attack is one honest-looking statement that takes more rows with it than an agent
may change in a transaction; the guard is not installed, so the proxy holds alone. What is as honest as it looks has to pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support import servers
from support.servers import Server
from support.shield import Shield, prepared_shield, started

DELETES = "language plpgsql security definer as $$ begin delete from shop.order_items; return {0}; end $$"
TRAPS = (
    # An INSERT that is more than one.
    "create function shop.prune() returns trigger " + DELETES.format("new"),
    "create function shop.next_value() returns text " + DELETES.format("'x'"),
    "create function shop.is_fine(text) returns boolean " + DELETES.format("true"),
    "create table shop.log_a (id integer, note text)",
    "create trigger prune after insert on shop.log_a for each row execute function shop.prune()",
    "create view shop.log_seen as select * from shop.log_a",
    "create table shop.log_b (id integer, note text)",
    "create rule prune as on insert to shop.log_b do also delete from shop.order_items",
    "create table shop.log_c (id integer, note text default shop.next_value())",
    "create table shop.log_d (id integer, note text check (shop.is_fine(note)))",
    "create table shop.log_e (id integer, note text) partition by range (id)",
    "create table shop.log_e1 partition of shop.log_e for values from (1) to (100)",
    "create trigger prune before insert on shop.log_e1 for each row execute function shop.prune()",
    "create domain shop.word as text check (shop.is_fine(value))",
    "create table shop.log_f (id integer, note shop.word)",
    "create domain shop.long_word as shop.word check (length(value) > 0)",
    "create type shop.words as (one shop.word)",
    "create type shop.spread as range (subtype = shop.word)",
    "create table shop.log_h (id integer, note shop.long_word)",
    "create table shop.log_i (id integer, note shop.word[])",
    "create table shop.log_j (id integer, note shop.words)",
    "create table shop.log_k (id integer, note shop.log_j)",
    "create table shop.log_l (id integer, note shop.spread)",
    "create table shop.log_g (id integer, note text)",
    "create function shop.stamp() returns trigger language plpgsql as $$ begin new.note = 'now'; return new; end $$",
    "create trigger stamp before insert on shop.log_g for each row execute function shop.stamp()",
    # Another server's rows, here the same one's.
    "create extension postgres_fdw",
    """do $$ begin
        execute format('create server here foreign data wrapper postgres_fdw options (host %L, port %L, dbname %L)',
            split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database());
    end $$""",
    "create user mapping for public server here options (user 'postgres', password_required 'false')",
    "create foreign table shop.far (order_id integer, line integer, quantity integer) server here"
    " options (schema_name 'shop', table_name 'order_items')",
    "create table shop.far_parts (order_id integer, line integer, quantity integer) partition by range (order_id)",
    "create foreign table shop.far_part partition of shop.far_parts for values from (1) to (10000) server here"
    " options (schema_name 'shop', table_name 'order_items')",
    "grant all on all tables in schema shop to agent_write",
)
INSERTS = ("log_a", "log_b", "log_c", "log_d", "log_e", "log_f", "log_h", "log_seen")


@pytest.fixture(scope="module")
def trapped(server18: Server, worker_id: str) -> Iterator[Shield]:
    """What people made is there before the proxy looks at the database."""
    name = f"unseen_{worker_id}"
    with prepared_shield(server18, name, servers.here() / f"shield-{name}", agents=("write",)) as shield:
        with server18.connect(name) as admin:
            for text in TRAPS:
                admin.execute(text.encode())
        with started(shield):
            yield shield


@pytest.fixture
def agent(trapped: Shield) -> Iterator[psycopg.Connection[Any]]:
    with trapped.connect("write") as connection:
        yield connection


def lines(shield: Shield) -> int:
    with shield.server.connect(shield.database) as admin:
        row = admin.execute("select count(*) from shop.order_items").fetchone()
    assert row is not None
    return int(str(row[0]))


@pytest.mark.parametrize("table", INSERTS)
def test_an_insert_that_deletes_is_counted(trapped: Shield, agent: psycopg.Connection[Any], table: str) -> None:
    for text in (f"insert into shop.{table} (id) values (1)", f"insert into shop.{table} (id) select 1"):
        with pytest.raises(errors.InsufficientPrivilege) as refused:
            agent.execute(text.encode())
        assert "rule=DS220" in str(refused.value.diag.message_detail)
    with pytest.raises(errors.InsufficientPrivilege), agent.transaction():
        agent.execute(f"insert into shop.{table} (id) values (%s)".encode(), [1])
    assert lines(trapped) == 12_000


@pytest.mark.parametrize(
    "values", ["log_i values (1, '{a}')", "log_j values (1, row('a'))", "log_k values (1, row(1, row('a')))"]
)
def test_a_type_built_of_a_domain_checks_as_well(trapped: Shield, agent: psycopg.Connection[Any], values: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege) as refused:
        agent.execute(f"insert into shop.{values}".encode())
    assert "rule=DS220" in str(refused.value.diag.message_detail)
    with pytest.raises(errors.InsufficientPrivilege, match="rows"):
        agent.execute("insert into shop.log_l values (1, '[a,b)')")
    assert lines(trapped) == 12_000


def test_a_domain_whose_check_deletes_is_a_call(trapped: Shield, agent: psycopg.Connection[Any]) -> None:
    for text in (
        "select 'a'::shop.word",
        "select cast('a' as shop.word)",
        "select 'a'::shop.long_word",
        "select '{a}'::shop.word[]",
        "select row('a')::shop.words",
        "select '(a)'::shop.words[]",
        "select '[a,b)'::shop.spread",
        "select row(1, row('a'))::shop.log_j",
    ):
        with pytest.raises(errors.InsufficientPrivilege, match=r"shop\.is_fine"):
            agent.execute(text.encode())
    with pytest.raises(errors.InsufficientPrivilege, match=r"shop\.is_fine"):
        agent.execute("select %s::shop.word", ["a"])
    assert lines(trapped) == 12_000


@pytest.mark.parametrize("table", ["far", "far_parts"])
@pytest.mark.parametrize(
    "text", ["delete from shop.{0} where order_id > 0", "update shop.{0} set quantity = 1 where order_id between 1 and 5000"]
)
def test_rows_that_nobody_counts_stay(trapped: Shield, agent: psycopg.Connection[Any], table: str, text: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege) as refused:
        agent.execute(text.format(table).encode())
    assert "rule=DS223" in str(refused.value.diag.message_detail)
    assert lines(trapped) == 12_000
    assert agent.execute(f"select count(*) from shop.{table}".encode()).fetchone() == (12_000,)


def test_what_is_honest_passes_beside_them(trapped: Shield, agent: psycopg.Connection[Any]) -> None:
    agent.execute("insert into shop.log_g (id) select g from generate_series(1, 200) g")
    assert agent.execute("update shop.log_g set id = 7 where id = 8").rowcount == 1
    with agent.transaction():
        agent.execute("select count(*) from shop.far")
        assert agent.execute("delete from shop.log_g where id between 100 and 150").rowcount == 51
