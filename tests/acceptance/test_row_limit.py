"""The row limit with real servers: what is over it leaves nothing behind, what is under it is as if nobody counted.

shop.products has 300 rows, shop.customers 2,000, each of whose customers has three orders with two items; the limit is 100 rows
in a transaction and 1,000 rows of a table in an hour.
"""

from __future__ import annotations

import select
from typing import Any

import psycopg
import pytest
from psycopg import errors, pq, sql
from psycopg.pq import TransactionStatus
from support.row_limits import UPDATE, Act, Connection, changed, direct, extended, refused, simple
from support.shield import Shield


def script(*texts: str) -> Act:
    return lambda conn: [conn.execute(text) for text in texts]


def prepared(conn: Connection) -> None:
    with conn.transaction():
        for start in (1, 61):
            conn.execute(UPDATE, (start, start + 59), prepare=True)


def pipelined(conn: Connection) -> None:
    with conn.pipeline(), conn.transaction():
        conn.execute("select 1")
        conn.execute(UPDATE, (1, 60))
        conn.execute(UPDATE, (61, 120))


def executed_many(conn: Connection) -> None:
    conn.cursor().executemany("update shop.products set stock = -1 where id = %s", [(i,) for i in range(1, 121)])


def copied(conn: Connection, rows: int = 101) -> None:
    with conn.cursor().copy("copy shop.products from stdin") as copy:
        for i in range(rows):
            copy.write_row((1000 + i, f"NEW-{i}", "new", 1, -1))


def copied_and_deleted(conn: Connection) -> None:
    conn.execute("begin")
    copied(conn, 60)
    conn.execute("delete from shop.products where id between 1000 and 1040")


def copied_extended(conn: Connection, rows: int = 101) -> None:
    """COPY by Parse, Bind and Execute, which psycopg never does."""
    raw = conn.pgconn
    raw.send_query_params(b"copy shop.products from stdin", None)
    assert answer(raw).status == pq.ExecStatus.COPY_IN
    raw.put_copy_data(b"".join(b"%d\tNEW-%d\tnew\t1\t-1\n" % (1000 + i, i) for i in range(rows)))
    raw.put_copy_end()
    result = answer(raw)
    assert raw.get_result() is None
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.lookup(result.error_field(pq.DiagnosticField.SQLSTATE).decode())(
            result.error_message.decode(), info=result, encoding="utf-8"
        )


def answer(raw: Any) -> Any:
    while raw.flush():
        select.select([], [raw.socket], [], 10)
    while raw.is_busy():
        assert select.select([raw.socket], [], [], 30)[0], "the proxy does not answer"
        raw.consume_input()
    return raw.get_result()


def in_parts(conn: Connection) -> None:
    """A portal that is fetched from in parts has changed all of its rows at the first."""
    with conn.cursor() as cursor:
        for _ in cursor.stream("update shop.products set stock = -1 where id <= %s returning id", (101,)):
            pass


OVER: dict[str, Act] = {
    "simple": simple("update shop.products set stock = -1 where id <= 101"),
    "extended": extended(UPDATE, 1, 101),
    "returning": lambda conn: conn.execute("update shop.products set stock = -1 where id <= 101 returning *").fetchall(),
    "streamed": in_parts,
    "two in a block": script(
        "begin",
        "update shop.products set stock = -1 where id <= 60",
        "update shop.products set stock = -1 where id between 61 and 120",
    ),
    "two in one text": simple(
        "update shop.products set stock = -1 where id <= 60; select 1;"
        " update shop.products set stock = -1 where id between 61 and 120"
    ),
    "a block in one text": simple(
        "begin; update shop.products set stock = -1 where id <= 60;"
        " update shop.products set stock = -1 where id between 61 and 120; commit -- done"
    ),
    "prepared": prepared,
    "pipelined": pipelined,
    "executemany": executed_many,
    "SQL PREPARE": script("prepare p(int) as update shop.products set stock = -1 where id <= $1", "execute p(101)"),
    "EXPLAIN ANALYZE": simple("explain analyze update shop.products set stock = -1 where id <= 101"),
    "CTE": simple("with a as (update shop.products set stock = -1 where id <= 101 returning 1) select 1 from a limit 1"),
    "two CTEs": simple(
        "with a as (update shop.products set stock = -1 where id <= 60 returning 1),"
        " b as (update shop.products set stock = -1 where id between 61 and 120 returning 1) select 1"
    ),
    "upsert": simple(
        "insert into shop.products select i, 'S' || i, '', 1, 1 from generate_series(1, 101) i"
        " on conflict (id) do update set stock = -1"
    ),
    "MERGE": simple(
        "merge into shop.products p using generate_series(1, 101) i on p.id = i when matched then update set stock = -1"
    ),
    "COPY": copied,
    "COPY in the extended protocol": copied_extended,
    "COPY and DELETE in a block": copied_and_deleted,
    "a savepoint between": script(
        "begin",
        "update shop.products set stock = -1 where id <= 60",
        "savepoint s",
        "select 1",
        "rollback to s",
        "update shop.products set stock = -1 where id between 61 and 120",
    ),
    "released savepoints": script(
        "begin",
        "savepoint s",
        "update shop.products set stock = -1 where id <= 60",
        "release s",
        "savepoint s",
        "update shop.products set stock = -1 where id between 61 and 120",
    ),
    "COMMIT AND CHAIN between, then too many": script(
        "begin", "select 1", "commit and chain", "update shop.products set stock = -1 where id <= 101"
    ),
}


@pytest.mark.parametrize("act", OVER.values(), ids=OVER.keys())
def test_over_the_limit_nothing_is_kept(shield: Shield, act: Act) -> None:
    with shield.connect() as conn:
        error = refused(conn, act)
        assert "more than the 100" in str(error)
        assert conn.info.transaction_status in {TransactionStatus.IDLE, TransactionStatus.INERROR}
        conn.rollback()
        assert conn.execute("select 1").fetchone() == (1,), "the session is usable"
    assert changed(shield) == 0


def test_rows_that_a_cascade_deletes_count(app: Shield) -> None:
    with app.connect() as conn:
        refused(conn, simple("delete from shop.customers where id <= 20"))
        assert conn.execute("delete from shop.customers where id <= 5").rowcount == 5
    assert direct(app, "select count(*) from shop.customers") == 1995


def test_a_view_leads_to_the_rows_of_its_table(app: Shield) -> None:
    with app.connect() as conn:
        refused(conn, simple("update shop.active_customers set name = 'x' where id <= 150"))
        assert conn.execute("update shop.active_customers set name = 'x' where id <= 50").rowcount == 45
    assert direct(app, "select count(*) from shop.customers where name = 'x'") == 45


def test_a_temporary_table_is_the_sessions_own(shield: Shield) -> None:
    with shield.connect() as conn:
        conn.execute("create temp table mine as select i from generate_series(1, 500) i")
        assert conn.execute("update mine set i = i + 1 where i > 0").rowcount == 500


@pytest.mark.parametrize("between", ["reset all", "discard all"])
def test_nothing_takes_back_the_count_of_an_open_transaction(shield: Shield, between: str) -> None:
    with shield.connect() as conn:
        conn.execute("begin")
        conn.execute(UPDATE, (1, 60))
        with pytest.raises(psycopg.Error):
            conn.execute(between)
        conn.rollback()
    assert changed(shield) == 0


@pytest.mark.parametrize("forget", ["discard all", "deallocate all", "reset all"])
@pytest.mark.parametrize("parameters", [None, ()], ids=["simple", "extended"])
def test_a_session_that_has_forgotten_everything_still_counts(app: Shield, forget: str, parameters: Any) -> None:
    with app.connect() as conn:
        conn.execute(forget, parameters)
        refused(conn, extended(UPDATE, 1, 101))
        refused(conn, simple("update shop.products set stock = -1 where id <= 101"))
        conn.execute(UPDATE, (1, 50))
    assert changed(app) == 50


def test_deallocate_in_a_block(app: Shield) -> None:
    with app.connect() as conn, conn.transaction():
        conn.execute("deallocate all")
        conn.execute(UPDATE, (1, 50))
    assert changed(app) == 50


@pytest.mark.parametrize("name", ["base", "copies"])
@pytest.mark.parametrize(
    "text", ["set local dbshield.{} = '{{}}'", "select set_config('dbshield.{}', '', true)", "reset dbshield.{}"]
)
def test_no_agent_writes_what_the_session_remembers(shield: Shield, name: str, text: str) -> None:
    with shield.connect() as conn, pytest.raises(errors.InsufficientPrivilege):
        conn.execute(text.format(name))


UNDER: dict[str, Act] = {
    "simple": simple("update shop.products set stock = -1 where id <= 100"),
    "extended": extended(UPDATE, 1, 100),
    "a block": script(
        "begin",
        "update shop.products set stock = -1 where id <= 50",
        "update shop.products set stock = -1 where id between 51 and 100",
        "commit",
    ),
    "texts of several transactions": simple(
        "update shop.products set stock = -1 where id <= 40;"
        " begin; update shop.products set stock = -1 where id between 41 and 60; commit;"
        " begin; update shop.products set stock = -1 where id between 61 and 100; end"
    ),
    "after what was rolled back": script(
        "begin",
        "update shop.products set stock = -2 where id <= 60",
        "rollback",
        "update shop.products set stock = -1 where id <= 100",
    ),
    "after many plain inserts": script(
        "insert into shop.settings select 'k' || i, 'v' from generate_series(1, 1000) i",
        "update shop.products set stock = -1 where id <= 100",
    ),
    "COPY": lambda conn: copied(conn, 100),
    "COPY in the extended protocol": lambda conn: copied_extended(conn, 100),
}


@pytest.mark.parametrize("act", UNDER.values(), ids=UNDER.keys())
def test_up_to_the_limit_it_is_done(app: Shield, act: Act) -> None:
    with app.connect() as conn:
        act(conn)
    assert changed(app) == 100


def test_the_client_hears_nothing_of_the_counting(app: Shield) -> None:
    notices: list[str] = []
    with app.connect() as conn:
        conn.add_notice_handler(lambda diag: notices.append(str(diag.message_primary)))
        cursor = conn.execute("update shop.products set stock = -1 where id <= 3 returning id, stock")
        assert [column.name for column in cursor.description or ()] == ["id", "stock"]
        assert cursor.fetchall() == [(1, -1), (2, -1), (3, -1)]
        assert cursor.statusmessage == "UPDATE 3"
        assert not cursor.nextset()
        with conn.pipeline():
            first, second = conn.execute(UPDATE, (1, 2)), conn.execute("select %s::int", (7,))
        assert (first.statusmessage, second.fetchall()) == ("UPDATE 2", [(7,)])
    assert notices == []


@pytest.mark.parametrize(
    "text, at",
    [
        ("update shop.products set nope = 1 where id = 1", 26),
        ("select 'ä'; update shop.products set nope = 1 where id = 1", 38),
        ("update shop.products set stock = -1 where id = 1; select 'ö', nope", 63),
    ],
)
def test_the_position_of_an_error_is_in_the_clients_own_text(shield: Shield, text: str, at: int) -> None:
    with shield.connect() as conn, pytest.raises(errors.UndefinedColumn) as caught:
        conn.execute(text)
    assert caught.value.diag.statement_position == str(at)


def test_errors_of_the_client_stay_its_own(app: Shield) -> None:
    with app.connect() as conn:
        conn.execute("begin")
        with pytest.raises(errors.UndefinedTable):
            conn.execute("update shop.missing set a = 1 where b = 2")
        with pytest.raises(errors.InFailedSqlTransaction):
            conn.execute(UPDATE, (1, 2))
        with pytest.raises(errors.InFailedSqlTransaction):
            conn.execute("update shop.products set stock = -1 where id = 1")
        conn.rollback()
        with pytest.raises(errors.UniqueViolation):
            conn.execute("update shop.products set sku = 'SKU-1' where id = 2")
        with pytest.raises(errors.UndefinedTable), conn.cursor().copy("copy shop.missing from stdin"):
            pass
        conn.execute(UPDATE, (1, 2))
    assert changed(app) == 2


def test_a_server_that_does_not_count_changes_nothing(shield: Shield) -> None:
    """track_counts is off for the role, so nobody would know how many rows there were. In this database alone: other workers'
    agents are on this server as well."""
    whom = sql.SQL("alter role agent_write in database {}").format(sql.Identifier(shield.database))
    with shield.server.connect(shield.database) as admin:
        admin.execute(whom + sql.SQL(" set track_counts = off"))
    try:
        with shield.connect() as conn:
            refused(conn, extended(UPDATE, 1, 2), "DS223")
    finally:
        with shield.server.connect(shield.database) as admin:
            admin.execute(whom + sql.SQL(" reset track_counts"))
    assert changed(shield) == 0
