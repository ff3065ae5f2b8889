"""The FunctionCall message runs a function without any SQL: it is judged as a call of that function."""

from __future__ import annotations

import socket
import struct

import pytest
from psycopg import pq
from psycopg.pq import TransactionStatus
from support.cases import validate
from support.shield import Shield


@pytest.mark.parametrize(
    "agent, function, args",
    [
        ("read", "pg_catalog.abs(integer)", ["-7"]),
        ("read", "pg_catalog.length(text)", ["abc"]),
        ("read", "shop.order_count(integer)", ["5"]),
        ("migrate", "pg_catalog.lo_get(oid)", ["424242"]),
    ],
)
def test_a_function_that_only_reads_passes(shield: Shield, agent: str, function: str, args: list[str]) -> None:
    with shield.connect(agent) as conn:
        assert validate.call_function(conn.pgconn, function, args) is None
        assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "agent, function, args",
    [
        ("read", "shop.wipe_customers()", []),
        ("write", "shop.purge_cancelled()", []),
        ("migrate", "pg_catalog.lo_unlink(oid)", ["424242"]),
        ("migrate", "pg_catalog.setval(regclass,bigint)", ["shop.invoice_number", "1"]),
        ("read", "pg_catalog.query_to_xml(text,boolean,boolean,text)", ["select shop.wipe_customers()", "t", "f", ""]),
        ("write", "pg_catalog.set_config(text,text,boolean)", ["standard_conforming_strings", "off", "f"]),
        ("read", "pg_catalog.pg_terminate_backend(integer,bigint)", ["1", "0"]),
    ],
)
def test_any_other_is_refused(shield: Shield, agent: str, function: str, args: list[str]) -> None:
    with shield.connect(agent) as conn:
        said = validate.call_function(conn.pgconn, function, args)
        assert said is not None
        assert said.startswith("dbshield ")
        assert conn.execute("select 1").fetchone() == (1,)
        assert conn.execute("select current_setting('standard_conforming_strings')").fetchone() == ("on",)


def test_within_a_transaction_the_block_fails(shield: Shield) -> None:
    with shield.connect("write") as conn:
        conn.execute("begin")
        assert validate.call_function(conn.pgconn, "shop.purge_cancelled()", []) is not None
        failed = conn.pgconn.exec_(b"select 1")
        assert failed.error_field(pq.DiagnosticField.SQLSTATE) == b"25P02"
        conn.execute("rollback")
        assert conn.info.transaction_status is TransactionStatus.IDLE
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)


def test_a_number_that_is_no_function(shield: Shield) -> None:
    with shield.connect("read") as conn:
        made = conn.execute("select max(oid::bigint) + 100 from pg_proc").fetchone()
        assert made is not None
        assert _call(conn.pgconn, int(made[0])) is not None
        assert conn.execute("select 1").fetchone() == (1,)


def _call(conn: pq.abc.PGconn, oid: int) -> str | None:
    """A FunctionCall without arguments."""
    body = struct.pack("!Ihhh", oid, 0, 0, 0)
    error = None
    with socket.fromfd(conn.socket, socket.AF_INET, socket.SOCK_STREAM) as wire:
        wire.setblocking(True)
        wire.sendall(b"F" + struct.pack("!i", len(body) + 4) + body)
        with wire.makefile("rb") as stream:
            while (kind := stream.read(1)) not in (b"Z", b""):
                (length,) = struct.unpack("!i", stream.read(4))
                payload = stream.read(length - 4)
                if kind == b"E":
                    error = next(field[1:] for field in payload.split(b"\0") if field.startswith(b"M")).decode()
            stream.read(5)
        wire.setblocking(False)
    return error
