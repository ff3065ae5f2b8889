"""psycopg2: the simple protocol alone, and large objects by FunctionCall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from support.shield import Shield

ORDERS = 6000


@pytest.fixture
def conn(shield: Shield) -> Iterator[psycopg2.extensions.connection]:
    with closing(psycopg2.connect(shield.dsn("migrate"))) as conn:
        yield conn


def test_work_passes(conn: psycopg2.extensions.connection) -> None:
    with conn.cursor() as cursor:
        cursor.execute("select count(*) from shop.orders where id > %s", [0])
        assert cursor.fetchone() == (ORDERS,)
        cursor.execute("update shop.customers set name = %s where id = %s", ["Ada", 7])
        assert cursor.rowcount == 1
    conn.rollback()


def test_a_large_object_is_read(conn: psycopg2.extensions.connection) -> None:
    with closing(conn.lobject(424242, "rb")) as found:
        assert found.read(3) == b"the"
        assert found.seek(4) == 4
        assert found.tell() == 4
        assert found.read() == b"only copy"
    conn.rollback()


@pytest.mark.parametrize("mode", ["wb", "rwb"])
def test_a_large_object_is_not_opened_for_writing(conn: psycopg2.extensions.connection, mode: str) -> None:
    with pytest.raises(psycopg2.Error, match="dbshield"):
        conn.lobject(424242, mode)
    conn.rollback()
    with closing(conn.lobject(424242, "rb")) as found:
        assert found.read() == b"the only copy"
    conn.rollback()


def test_a_large_object_is_not_unlinked(conn: psycopg2.extensions.connection) -> None:
    found = conn.lobject(424242, "rb")
    with pytest.raises(psycopg2.Error, match="dbshield"):
        found.unlink()
    conn.rollback()
    with closing(conn.lobject(424242, "rb")) as again:
        assert again.read() == b"the only copy"
    conn.rollback()


def test_a_refusal_fails_the_transaction_and_leaves_the_session(conn: psycopg2.extensions.connection) -> None:
    with conn.cursor() as cursor:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege) as refused:
            cursor.execute("drop table shop.orders")
        assert "rule=DS101" in (refused.value.diag.message_detail or "")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("select 1")
        conn.rollback()
        cursor.execute("select count(*) from shop.orders")
        assert cursor.fetchone() == (ORDERS,)
