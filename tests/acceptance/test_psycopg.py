"""psycopg 3 through the proxy: sync and async, simple and extended protocol, pipelines, cursors, COPY, binary."""

from __future__ import annotations

import datetime
from decimal import Decimal

import psycopg
import pytest
from psycopg import ClientCursor, errors
from psycopg.rows import dict_row
from support.shield import Shield


def test_the_session_is_the_agents_own(shield: Shield, tls: bool) -> None:
    with shield.connect("write", tls=tls) as conn:
        assert conn.execute("select current_user, current_database()").fetchone() == ("agent_write", shield.database)
        assert conn.info.parameter_status("client_encoding") == "UTF8"
        assert conn.info.parameter_status("standard_conforming_strings") == "on"
        assert conn.pgconn.ssl_in_use == tls


def test_parameters_of_many_types(shield: Shield, tls: bool) -> None:
    values = (7, "é ü 漢", Decimal("12.50"), None, True, datetime.date(2026, 2, 28), [1, 2, 3], b"\x00\xff", 1.5)
    with shield.connect("read", tls=tls) as conn:
        row = conn.execute(
            "select %s::int, %s::text, %s::numeric, %s::text, %s::bool, %s::date, %s::int[], %s::bytea, %s::float8", values
        ).fetchone()
    assert row == values


def test_binary_results_and_parameters(shield: Shield) -> None:
    with shield.connect("read") as conn:
        cursor = conn.execute("select id, total, placed_at::date from shop.orders where id = %b", [9], binary=True)
        assert cursor.fetchone() == (9, Decimal("9.00"), datetime.date(2026, 1, 1))


def test_the_simple_protocol(shield: Shield, tls: bool) -> None:
    with shield.connect("read", tls=tls, client_encoding="utf8") as conn, ClientCursor(conn) as cursor:
        cursor.execute("select title from shop.products where id = %s", [3])
        assert cursor.fetchone() == ("Product 3",)


def test_several_statements_in_one_message(shield: Shield) -> None:
    with shield.connect("read") as conn:
        cursor = conn.execute("select 1; select 2, 3; select count(*) from shop.settings")
        found = [cursor.fetchall()]
        while cursor.nextset():
            found.append(cursor.fetchall())
    assert found == [[(1,)], [(2, 3)], [(3,)]]


def test_prepared_statements_are_reused(shield: Shield, tls: bool) -> None:
    with shield.connect("read", tls=tls) as conn:
        for i in range(1, 21):
            row = conn.execute("select id from shop.products where id = %s", [i], prepare=True).fetchone()
            assert row == (i,)
        names = conn.execute("select count(*) from pg_prepared_statements").fetchone()
    assert names == (1,)


def test_transactions_and_savepoints(app: Shield, tls: bool) -> None:
    with psycopg.connect(app.dsn("write", tls=tls)) as conn:
        with conn.transaction():
            conn.execute("update shop.products set stock = 1 where id = 1")
            with pytest.raises(errors.DivisionByZero), conn.transaction():
                conn.execute("update shop.products set stock = 2 where id = 1")
                conn.execute("select 1 / 0")
        assert conn.execute("select stock from shop.products where id = 1").fetchone() == (1,)


def test_a_server_error_passes_as_it_is(shield: Shield) -> None:
    with shield.connect("read") as conn:
        with pytest.raises(errors.UndefinedTable) as error:
            conn.execute("select * from shop.nothing")
        assert error.value.diag.statement_position == "15"
        with pytest.raises(errors.DivisionByZero):
            conn.execute("select 1 / %s", [0])
        with pytest.raises(errors.InsufficientPrivilege, match="DS301"):
            conn.execute("insert into shop.settings values ('a', 'b')")
        assert conn.execute("select 1").fetchone() == (1,)


def test_server_cursors(shield: Shield) -> None:
    with psycopg.connect(shield.dsn("read")) as conn, conn.cursor("named", scrollable=True) as cursor:
        cursor.itersize = 500
        cursor.execute("select id from shop.orders order by id")
        assert sum(row[0] for row in cursor) == 6000 * 6001 // 2
        cursor.scroll(10, mode="absolute")
        assert cursor.fetchone() == (11,)


def test_rows_as_they_come(shield: Shield) -> None:
    """stream() reads in single-row mode, so rows must pass before the statement ends."""
    with shield.connect("read") as conn, conn.cursor() as cursor:
        first = next(stream := cursor.stream("select g from generate_series(1, 50000) g"))
        assert first == (1,)
        assert sum(1 for _ in stream) == 49999


def test_a_pipeline(app: Shield, tls: bool) -> None:
    with app.connect("write", tls=tls) as conn, conn.pipeline() as pipeline:
        cursors = [conn.execute("select id from shop.products where id = %s", [i]) for i in range(1, 101)]
        conn.execute("update shop.products set stock = 5 where id = %s", [1])
        pipeline.sync()
        assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(1, 101)]
        assert conn.execute("select stock from shop.products where id = 1").fetchone() == (5,)


def test_a_server_error_in_a_pipeline(shield: Shield) -> None:
    with shield.connect("read") as conn:
        with pytest.raises(errors.UndefinedTable), conn.pipeline():
            conn.execute("select 1")
            conn.execute("select * from shop.nothing")
            conn.execute("select 2")
        assert conn.execute("select 3").fetchone() == (3,)


@pytest.mark.parametrize("options", ["", " (format csv, header)", " (format binary)"])
def test_copy_out(shield: Shield, tls: bool, options: str) -> None:
    with shield.connect("read", tls=tls) as conn, conn.cursor() as cursor:
        with cursor.copy("copy shop.orders to stdout" + options) as copy:
            size = sum(len(block) for block in copy)
        with (
            shield.server.connect(shield.database) as direct,
            direct.cursor().copy("copy shop.orders to stdout" + options) as copy,
        ):
            assert size == sum(len(block) for block in copy)
        assert conn.execute("select 1").fetchone() == (1,)


def test_copy_in_text_and_binary(app: Shield, tls: bool) -> None:
    with app.connect("write", tls=tls) as conn, conn.cursor() as cursor:
        with cursor.copy("copy shop.settings from stdin") as copy:
            copy.write_row(("é", "a\tb\n"))
        with cursor.copy("copy shop.settings from stdin (format binary)") as copy:
            copy.set_types(["text", "text"])
            copy.write_row(("binary", "yes"))
        cursor.execute("select value from shop.settings where key in ('é', 'binary') order by key")
        assert cursor.fetchall() == [("yes",), ("a\tb\n",)]


def test_copy_in_that_the_client_gives_up(app: Shield) -> None:
    class GivenUp(Exception):
        pass

    def give_up(conn: psycopg.Connection[tuple[object, ...]]) -> None:
        with conn.cursor().copy("copy shop.settings from stdin") as copy:
            copy.write_row(("lost", "lost"))
            raise GivenUp

    with app.connect("write") as conn:
        with pytest.raises(GivenUp):
            give_up(conn)
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)


def test_copy_in_that_the_server_refuses_midway(app: Shield) -> None:
    with app.connect("write") as conn:
        with pytest.raises(errors.UniqueViolation), conn.cursor().copy("copy shop.settings from stdin") as copy:
            for _ in range(5000):
                copy.write_row(("again", "x" * 1000))
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)


def test_large_values_both_ways(app: Shield, tls: bool) -> None:
    """A Bind and a DataRow far beyond one read of a socket."""
    value = "0123456789abcdef" * 65536
    with app.connect("write", tls=tls) as conn:
        conn.execute("insert into shop.settings values ('large', %s)", [value])
        assert conn.execute("select value from shop.settings where key = 'large'").fetchone() == (value,)


def test_notices_and_notifications(shield: Shield) -> None:
    said: list[str | None] = []
    with shield.connect("write") as conn, shield.connect("write") as other:
        conn.add_notice_handler(lambda diag: said.append(diag.message_primary))
        conn.execute("rollback")
        conn.execute("listen news")
        other.execute("notify news, 'hello'")
        notified = next(conn.notifies(timeout=30, stop_after=1))
    assert said == ["there is no transaction in progress"]
    assert (notified.channel, notified.payload) == ("news", "hello")


def test_settings_of_the_session(shield: Shield) -> None:
    with shield.connect("read", application_name="agent-at-work") as conn:
        conn.execute("set statement_timeout = '5s'")
        assert conn.execute("show statement_timeout").fetchone() == ("5s",)
        with pytest.raises(errors.QueryCanceled):
            conn.execute("set statement_timeout = 50; select count(*) from shop.orders a, shop.orders b, shop.orders c")
        named = conn.execute("select application_name from pg_stat_activity where pid = pg_backend_pid()").fetchone()
    assert named is not None
    assert "read" in str(named[0])


def test_temporary_tables_and_locks_stay_with_the_session(shield: Shield) -> None:
    """One client connection is one server connection, so nothing of a session is lost between statements."""
    with shield.connect("write") as conn, shield.connect("write") as other:
        assert conn.execute("select pg_try_advisory_lock(99)").fetchone() == (True,)
        assert other.execute("select pg_try_advisory_lock(99)").fetchone() == (False,)
        first = conn.execute("select pg_backend_pid()").fetchone()
        assert conn.execute("select pg_backend_pid()").fetchone() == first
        assert conn.info.backend_pid > 0


async def test_async(shield: Shield, tls: bool) -> None:
    async with await psycopg.AsyncConnection.connect(shield.dsn("read", tls=tls), autocommit=True, row_factory=dict_row) as conn:
        cursor = await conn.execute("select key, value from shop.settings order by key limit %s", [1])
        assert await cursor.fetchone() == {"key": "currency", "value": "EUR"}
        async with conn.pipeline():
            cursors = [await conn.execute("select %s::int as n", [i]) for i in range(50)]
        assert [(await cursor.fetchall())[0]["n"] for cursor in cursors] == list(range(50))
        async with conn.cursor().copy("copy shop.products to stdout") as copy:
            assert sum([len(block) async for block in copy]) > 3000
