"""What is stopped, wherever it stands: the client reads why, the true transaction status follows, and no data is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, errors
from psycopg.pq import TransactionStatus
from support.shield import Shield

STOPPED = [
    ("migrate", "drop table shop.orders"),
    ("migrate", "drop table if exists shop.settings cascade"),
    ("migrate", "drop schema archive cascade"),
    ("migrate", "alter table shop.customers drop column email"),
    ("migrate", "truncate shop.events"),
    ("write", "delete from shop.orders"),
    ("write", "delete from shop.orders where true"),
    ("write", "delete from shop.orders where id = id"),
    ("write", "update shop.products set price = 0"),
    ("write", "update shop.products set price = 0 where 1 = 1"),
    ("write", "/* select 1; */ delete /* where id = 1 */ from shop.orders -- where id = 1"),
    ("write", "with gone as (delete from shop.orders returning *) select count(*) from gone"),
    ("write", "explain analyze delete from shop.orders"),
    ("write", "do $$ begin delete from shop.orders; end $$"),
    ("write", "copy (delete from shop.orders returning id) to stdout"),
]


def status(conn: psycopg.Connection[Any]) -> TransactionStatus:
    """What the last ReadyForQuery said."""
    return conn.info.transaction_status


Fingerprint = Callable[[], dict[str, str]]


@pytest.fixture(autouse=True)
def nothing_is_lost(fingerprint: Fingerprint) -> Any:
    before = fingerprint()
    yield
    assert fingerprint() == before


def explained(error: psycopg.Error) -> None:
    """MESSAGE says what was stopped, DETAIL names the rule, HINT what to do instead."""
    diag = error.diag
    assert diag.severity == "ERROR"
    assert diag.sqlstate == "42501"
    assert (diag.message_primary or "").startswith("dbshield ")
    assert (diag.message_detail or "").startswith("rule=DS")
    assert diag.message_hint


@pytest.mark.parametrize("agent, text", STOPPED)
def test_in_autocommit(shield: Shield, agent: str, text: str) -> None:
    with shield.connect(agent) as conn:
        for cursor in (conn.cursor(), ClientCursor(conn)):
            with pytest.raises(errors.InsufficientPrivilege) as error:
                cursor.execute(text)
            explained(error.value)
            assert status(conn) is TransactionStatus.IDLE
            assert conn.execute("select 'usable'").fetchone() == ("usable",)


@pytest.mark.parametrize("agent, text", STOPPED)
def test_in_a_transaction_block(shield: Shield, agent: str, text: str) -> None:
    with shield.connect(agent) as conn:
        for cursor in (conn.cursor(), ClientCursor(conn)):
            conn.execute("begin")
            conn.execute("insert into shop.settings values ('uncommitted', '1')")
            with pytest.raises(errors.InsufficientPrivilege) as error:
                cursor.execute(text)
            explained(error.value)
            assert status(conn) is TransactionStatus.INERROR
            with pytest.raises(errors.InFailedSqlTransaction):
                conn.execute("select 1")
            # The block has failed on the server too, so COMMIT rolls back.
            assert conn.execute("commit").statusmessage == "ROLLBACK"
            assert status(conn) is TransactionStatus.IDLE


def test_a_savepoint_survives_a_refusal(shield: Shield) -> None:
    with shield.connect("write") as conn:
        conn.execute("begin")
        conn.execute("insert into shop.settings values ('kept', '1')")
        conn.execute("savepoint one")
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("delete from shop.orders")
        conn.execute("rollback to one")
        assert status(conn) is TransactionStatus.INTRANS
        assert conn.execute("select value from shop.settings where key = 'kept'").fetchone() == ("1",)
        conn.execute("rollback")


def test_in_a_pipeline_what_came_before_is_answered_and_what_follows_is_discarded(shield: Shield, tls: bool) -> None:
    with shield.connect("write", tls=tls) as conn:
        with conn.pipeline() as pipeline:
            first = conn.execute("select 1")
            second = conn.execute("select 2")
            stopped = conn.execute("delete from shop.orders")
            skipped = conn.execute("insert into shop.settings values ('skipped', '1')")
            with pytest.raises(errors.InsufficientPrivilege) as error:
                pipeline.sync()
            explained(error.value)
            assert first.fetchone() == (1,)
            assert second.fetchone() == (2,)
            with pytest.raises(psycopg.Error):
                stopped.fetchone()
            assert skipped.rowcount == -1
            after = conn.execute("select 3")
            assert after.fetchone() == (3,)
        assert status(conn) is TransactionStatus.IDLE
        assert conn.execute("select count(*) from shop.settings where key = 'skipped'").fetchone() == (0,)


def test_in_a_pipeline_within_a_transaction(shield: Shield) -> None:
    with shield.connect("write") as conn:
        with conn.pipeline() as pipeline:
            conn.execute("begin")
            conn.execute("insert into shop.settings values ('uncommitted', '1')")
            conn.execute("delete from shop.orders")
            conn.execute("commit")
            with pytest.raises(errors.InsufficientPrivilege):
                pipeline.sync()
        assert status(conn) is TransactionStatus.INERROR
        conn.execute("rollback")
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)


def test_of_several_statements_in_one_message_none_runs(shield: Shield) -> None:
    with shield.connect("migrate") as conn:
        for text in (
            "select 1; drop table shop.orders",
            "insert into shop.settings values ('before', '1'); delete from shop.orders; select 1",
            "begin; insert into shop.settings values ('before', '1'); commit; truncate shop.orders",
        ):
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute(text)
            explained(error.value)
            assert status(conn) is TransactionStatus.IDLE
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)


def test_a_refused_prepare_leaves_no_statement_behind(shield: Shield) -> None:
    with shield.connect("write") as conn:
        made = conn.pgconn.prepare(b"gone", b"delete from shop.orders")
        assert made.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"42501"
        ran = conn.pgconn.exec_prepared(b"gone", [])
        assert ran.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("prepare gone as delete from shop.orders")
        with pytest.raises(errors.InvalidSqlStatementName):
            conn.execute("execute gone")


def test_a_refusal_answers_a_copy_too(shield: Shield) -> None:
    with shield.connect("write") as conn:
        with (
            pytest.raises(errors.InsufficientPrivilege),
            conn.cursor().copy("copy (delete from shop.orders returning id) to stdout") as copy,
        ):
            copy.read()
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_refusal_in_a_server_cursor(shield: Shield) -> None:
    with psycopg.connect(shield.dsn("write")) as conn:
        with pytest.raises(psycopg.Error), conn.cursor("named") as cursor:
            cursor.execute("delete from shop.orders returning id")
        conn.rollback()
        assert conn.execute("select 1").fetchone() == (1,)
