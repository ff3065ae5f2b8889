"""Attacks by relations that an agent makes itself, and that take over what destroys: a default, a trigger, a domain, a rule.

What stood there before is in test_attacks_unseen.py. Here the catalogue cannot have told yet: the agent makes the relation and
inserts at once, or before it commits. The guard is not installed, so the proxy holds alone.
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

pytestmark = pytest.mark.one_server(by="module")

DELETES = "language plpgsql security definer as $$ begin delete from shop.order_items; return {0}; end $$"
TRAPS = (
    "create function shop.prune() returns trigger " + DELETES.format("new"),
    "create function shop.next_value() returns text " + DELETES.format("'x'"),
    "create function shop.is_fine(text) returns boolean " + DELETES.format("true"),
    "create domain shop.word as text check (shop.is_fine(value))",
    "create table shop.by_default (id integer, note text default shop.next_value())",
    "create table shop.by_check (id integer, note text check (shop.is_fine(note)))",
    "create table shop.by_domain (id integer, note shop.word)",
    "create table shop.by_trigger (id integer, note text) partition by list (id)",
    "create trigger prune after insert on shop.by_trigger for each row execute function shop.prune()",
    "create table shop.plain (id integer, note text)",
    "create view shop.seen as select * from shop.plain",
    "grant all on all tables in schema shop to agent_write, agent_migrate",
    "grant create on schema shop to agent_migrate",
    "alter default privileges for role agent_migrate in schema shop grant all on tables to agent_write",
    "grant temporary on database {database} to agent_write, agent_migrate",
    # Parents take their owner.
    "alter table shop.by_trigger owner to agent_migrate",
    "alter table shop.by_check owner to agent_migrate",
)
LINES = 12_000


@pytest.fixture(scope="module")
def trapped(server: Server, worker_id: str) -> Iterator[Shield]:
    name = f"made_{worker_id}"
    with prepared_shield(server, name, servers.here() / f"shield-{name}", agents=("write", "migrate")) as shield:
        with server.connect(name) as admin:
            for text in TRAPS:
                admin.execute(text.replace("{database}", name).encode())
        with started(shield):
            yield shield


@pytest.fixture
def agent(trapped: Shield) -> Iterator[psycopg.Connection[Any]]:
    with trapped.connect("write") as connection:
        yield connection
    assert lines(trapped) == LINES


@pytest.fixture
def migrating(trapped: Shield) -> Iterator[psycopg.Connection[Any]]:
    with trapped.connect("migrate") as connection:
        yield connection
    assert lines(trapped) == LINES


def lines(shield: Shield) -> int:
    with shield.server.connect(shield.database) as admin:
        row = admin.execute("select count(*) from shop.order_items").fetchone()
    assert row is not None
    return int(str(row[0]))


def stopped(agent: psycopg.Connection[Any], text: str, *values: object, prepare: bool | None = None) -> bool:
    """Whether the rows were counted, and were too many."""
    try:
        agent.execute(text.encode(), values or None, prepare=prepare)
    except errors.InsufficientPrivilege as refused:
        return "rule=DS220" in str(refused.diag.message_detail)
    return False


TAKEN_OVER = {
    "default": ("create temp table {0} (like shop.by_default including defaults)", "insert into {0} (id) values (1)"),
    "everything": ("create temp table {0} (like shop.by_check including all)", "insert into {0} values (1, 'a')"),
    "domain": ("create temp table {0} as select * from shop.by_domain", "insert into {0} values (1, 'a')"),
    "into": ("select * into temp {0} from shop.by_domain", "insert into {0} values (1, 'a')"),
    "merged": (
        "create temp table {0} (like shop.by_default including defaults)",
        "merge into {0} t using (select 1 as n) s on t.id = s.n when not matched then insert (id) values (1)",
    ),
    "in a query": (
        "create temp table {0} (like shop.by_default including defaults)",
        "with i as (insert into {0} (id) values (1) returning id) select count(*) from i",
    ),
    "in a block": (
        "create temp table {0} (like shop.by_default including defaults)",
        "do $$ begin insert into {0} (id) values (1); end $$",
    ),
}


@pytest.mark.parametrize("way", TAKEN_OVER)
def test_what_a_temporary_table_takes_over_is_counted(agent: psycopg.Connection[Any], way: str) -> None:
    makes, inserts = (text.format(f"taken_{way.replace(' ', '_')}") for text in TAKEN_OVER[way])
    agent.execute(makes.encode())
    assert stopped(agent, inserts)
    assert stopped(agent, inserts, prepare=True)


def test_in_one_text_or_transaction(agent: psycopg.Connection[Any]) -> None:
    """Nobody but the session itself sees these tables before they are gone again."""
    makes = "create temp table one_{0} (like shop.by_default including defaults) on commit drop"
    assert stopped(agent, f"{makes.format('text')}; insert into one_text (id) values (1)")
    assert stopped(agent, f"begin; {makes.format('block')}; insert into one_block (id) values (1); commit")
    agent.execute("rollback")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), agent.transaction():
        agent.execute(makes.format("long").encode())
        agent.execute("insert into one_long (id) values (1)")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"):
        agent.execute(
            "do $$ begin create temp table one_do (like shop.by_default including defaults);"
            " insert into one_do (id) values (1); end $$"
        )
    insert_first = "insert into twice (id) values (1); create temp table if not exists twice (like shop.by_default including all)"
    with pytest.raises(errors.UndefinedTable):
        agent.execute(insert_first)
    agent.execute("create temp table if not exists twice (like shop.by_default including all)")
    assert stopped(agent, insert_first)


def test_a_name_that_meant_another_table(trapped: Shield, agent: psycopg.Connection[Any]) -> None:
    """It was judged and prepared while it meant an honest table, by this session and by another one."""
    with trapped.connect("write") as other:
        for session in (agent, other):
            session.execute("set search_path = shop")
            for _ in range(2):
                session.execute("insert into plain (id) values (%s)", [1], prepare=True)
                session.execute("insert into plain (id) values (2)")
        agent.execute("prepare in_sql as insert into plain (id) values (3)")
        agent.execute("create temp table plain (like by_default including defaults)")
        assert stopped(agent, "insert into plain (id) values (%s)", 1, prepare=True)
        assert stopped(agent, "insert into plain (id) values (2)")
        assert stopped(agent, "execute in_sql")
        assert other.execute("insert into plain (id) values (%s)", [1], prepare=True).rowcount == 1
        other.execute("create temp table plain (like by_default including defaults)")
        assert stopped(other, "insert into plain (id) values (%s)", 1, prepare=True)


def test_one_pipeline(agent: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), agent.pipeline():
        agent.execute("create temp table piped (like shop.by_default including defaults)")
        agent.execute("insert into piped (id) values (%s)", [1])


def test_what_a_migration_makes(trapped: Shield, agent: psycopg.Connection[Any], migrating: psycopg.Connection[Any]) -> None:
    """Every session knows at once: the one that writes is another one."""
    migrating.execute("create table shop.part partition of shop.by_trigger for values in (1)")
    assert stopped(agent, "insert into shop.part values (1, 'a')")
    migrating.execute("create table shop.child (more integer) inherits (shop.by_check)")
    assert stopped(migrating, "insert into shop.child values (1, 'a', 2)")
    migrating.execute("create table shop.copied (like shop.by_default including all)")
    assert stopped(agent, "insert into shop.copied (id) values (1)")
    migrating.execute("create view shop.through as select * from shop.copied")
    assert stopped(agent, "insert into shop.through (id) values (1)")
    assert stopped(migrating, "insert into shop.through (id) values (1)")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), migrating.transaction():
        migrating.execute("create view shop.hidden as select * from shop.by_default")
        migrating.execute("insert into shop.hidden (id) values (1)")


def test_temporary_tables_as_agents_use_them(agent: psycopg.Connection[Any]) -> None:
    """More rows than the limit, in every form; what is only added is counted and bounds nothing."""
    agent.execute("create temp table batch (id integer primary key, note text default 'new')")
    with agent.cursor() as cursor:
        cursor.executemany("insert into batch (id) values (%s)", [[number] for number in range(300)])
        with cursor.copy("copy batch from stdin") as copy:
            copy.write("".join(f"{number}\tcopied\n" for number in range(300, 350)))
    agent.execute("insert into batch select g from generate_series(1000, 2000) g on conflict do nothing")
    with agent.transaction():
        agent.execute(
            "create temp table chosen on commit drop as select order_id, line from shop.order_items where order_id < 200"
        )
        assert agent.execute("insert into chosen select id, 1 from batch").rowcount == 1_351
        assert agent.execute("select count(*) from chosen join batch on id = order_id").fetchone() != (0,)
        assert agent.execute("delete from chosen where line > 0").rowcount > 1_000, "nobody counts what is temporary"
    agent.execute("create temp table copied (like shop.plain including all)")
    assert agent.execute("insert into copied select id, note from batch").rowcount == 1_351
    agent.execute("drop table pg_temp.batch")
    agent.execute("create temp table batch as select 1 as id")
    assert agent.execute("insert into batch values (2), (3)").rowcount == 2
