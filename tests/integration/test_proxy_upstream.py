"""The way to the server when it refuses, ends a session, vanishes or does not read; and a client that vanishes."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from support.raw import raw_client, raw_session
from support.shield import ENVIRONMENT, SECRET, Shield
from support.slow import SLOW, locked, running
from support.waiting import until

from dbshield.wire.backend import CopyInResponse, ParseComplete, ReadyForQuery
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, Execute, Parse, Query, Sync
from dbshield.wire.report import ErrorResponse

MIB = 1 << 20
WRONG = "wrong-password-of-the-role"


def refusal(shield: Shield, agent: str) -> ErrorResponse:
    """The one error of a login that the server does not let through."""
    parts = shield.parameters(agent)
    with raw_client(shield) as client:
        heard = client.log_in(parts["user"], parts["password"], parts["dbname"])
        assert not any(isinstance(message, ReadyForQuery) for message in heard)
        errors = [message for message in heard if isinstance(message, ErrorResponse)]
        assert len(errors) == 1, heard
        assert client.receive() is None
    assert errors[0].severity == "FATAL"
    return errors[0]


def create(shield: Shield, name: str, role: str, password: str) -> None:
    """An agent with a role and password of the test's own."""
    words = ("agent", "create", name, "-e", ENVIRONMENT, "-a", "read", "--role", role, "--role-password-env", SECRET, "--json")
    shield._dsn[name] = json.loads(shield.cli(*words, secret=password))["dsn"]


def test_the_role_has_another_password(gate: Shield) -> None:
    create(gate, "mistaken", "agent_read", WRONG)
    error = refusal(gate, "mistaken")
    assert error.sqlstate == "28P01"
    assert "token was accepted" in error.hint
    assert WRONG not in str(error) + gate.text()


def test_the_server_has_no_connection_left(gate: Shield) -> None:
    with gate.server.connect() as admin:
        database = sql.Identifier(gate.database)
        admin.execute(sql.SQL("alter database {} connection limit 0").format(database))
        try:
            assert refusal(gate, "read").sqlstate == "53300"
        finally:
            admin.execute(sql.SQL("alter database {} connection limit -1").format(database))
    gate.connect("read").close()


def test_the_database_is_gone(gate: Shield) -> None:
    old, new = sql.Identifier(gate.database), sql.Identifier(gate.database + "_away")
    with gate.server.connect() as admin:
        assert until(lambda: gate.backends() == 0)
        admin.execute(sql.SQL("alter database {} rename to {}").format(old, new))
        try:
            assert refusal(gate, "read").sqlstate == "3D000"
        finally:
            admin.execute(sql.SQL("alter database {} rename to {}").format(new, old))
    gate.connect("read").close()


def test_the_way_is_the_unix_socket_where_the_server_has_one(gate: Shield) -> None:
    with gate.connect("read") as conn:
        assert conn.execute("select inet_server_addr() is null").fetchone() == (True,)


def test_an_ended_session_gets_exactly_one_error(gate: Shield) -> None:
    """Trap 10: the server's own FATAL, and nothing behind it."""
    with raw_session(gate, "read") as client:
        client.send(Query(query=SLOW.encode()))
        assert until(lambda: running(gate) == 1)
        with gate.server.connect() as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and query = %s", [gate.database, SLOW]
            )
        assert [(error.severity, error.sqlstate) for error in client.errors()] == [("FATAL", "57P01")]


def test_so_does_one_that_idles(gate: Shield) -> None:
    """Trap 9 and 10: it comes while nothing was asked."""
    with raw_session(gate, "read") as client:
        with gate.server.connect() as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and usename = 'agent_read'",
                [gate.database],
            )
        assert [(error.severity, error.sqlstate) for error in client.errors()] == [("FATAL", "57P01")]


@pytest.fixture
def superuser(gate: Shield) -> Iterator[str]:
    """An agent whose role is a superuser."""
    role = sql.Identifier(f"super_{gate.database}")
    with gate.server.connect() as admin:
        admin.execute(sql.SQL("create role {} login superuser password 'super-secret'").format(role))
        try:
            create(gate, "mighty", f"super_{gate.database}", "super-secret")
            yield "mighty"
        finally:
            admin.execute(sql.SQL("drop role {}").format(role))


def test_a_superuser_is_warned_of_once_in_each_worker(gate: Shield, superuser: str) -> None:
    for _ in range(12):
        gate.connect(superuser).close()
    lines = [line for line in gate.text().splitlines() if "is a superuser" in line]
    assert 1 <= len(lines) <= 2
    assert all("mighty.test" in line for line in lines)
    gate.connect("read").close()
    assert not [line for line in gate.text().splitlines() if "is a superuser" in line and "read.test" in line]


def test_a_server_that_does_not_read_holds_the_client_back(gate: Shield) -> None:
    """Back-pressure: what the server has not taken stays with the client, not in the proxy."""
    block = CopyData(data=b"".join(b"slow-%d\tvalue\n" % number for number in range(1_000))).encode()
    with raw_session(gate, "write") as client, locked(gate):
        client.send(Query(query=b"copy shop.settings from stdin"))
        assert until(lambda: waiting(gate) == 1)
        before, sent = gate.memory(), 0
        client.sock.setblocking(False)
        while select.select([], [client.sock], [], 0.5)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += client.sock.send(block)
            assert sent < 64 * MIB, "nothing holds the client back"
        assert gate.memory() - before < 10 * MIB
        # Whoever goes away in the middle leaves nothing behind.
    assert until(lambda: gate.backends() == 0)
    with gate.server.connect(gate.database) as admin:
        assert admin.execute("select count(*) from shop.settings where key like 'slow%'").fetchone() == (0,)


def waiting(shield: Shield) -> int:
    with shield.server.connect() as admin:
        row = admin.execute(
            "select count(*) from pg_stat_activity where datname = %s and wait_event_type = 'Lock'", [shield.database]
        ).fetchone()
    assert row is not None
    return int(str(row[0]))


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_vanishes_in_copy_in_leaves_no_backend(gate: Shield, reset: bool) -> None:
    """Trap 8."""
    with raw_session(gate, "write") as client:
        client.send(Parse(query=b"copy shop.settings from stdin"), Bind(), Execute(), Sync())
        assert isinstance(client.receive(), ParseComplete)
        client.receive()
        assert isinstance(client.receive(), CopyInResponse)
        client.send(CopyData(data=b"vanished\tvalue\n"))
        assert until(lambda: gate.backends() == 1)  # a session before it may take a moment to go
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert until(lambda: gate.backends() == 0)
    with gate.server.connect(gate.database) as admin:
        assert admin.execute("select count(*) from shop.settings where key = 'vanished'").fetchone() == (0,)


@pytest.mark.parametrize("late", [CopyData(data=b"late\tvalue\n"), CopyDone()], ids=["data", "done"])
def test_what_comes_late_for_a_copy_is_ignored(gate: Shield, late: CopyData | CopyDone) -> None:
    """Trap 8: the COPY has failed, and its client did not know yet."""
    with raw_session(gate, "write") as client:
        client.send(Query(query=b"copy shop.settings from stdin"))
        assert isinstance(client.receive(), CopyInResponse)
        client.send(CopyData(data=b"too\tmany\tcolumns\there\n"), CopyDone(), late, Query(query=b"select 1"))
        assert [message.sqlstate for message in client.until_ready() if isinstance(message, ErrorResponse)] == ["22P04"]
        assert not [message for message in client.until_ready() if isinstance(message, ErrorResponse)]


def test_the_encoding_of_the_c_locale_is_taken_at_startup_alone(gate: Shield) -> None:
    """What psql names under LC_ALL=C; the server is told UTF8, and so is the client."""
    with gate.connect("read", client_encoding="SQL_ASCII") as conn:
        assert conn.execute("show client_encoding").fetchone() == ("UTF8",)
        assert conn.info.parameter_status("client_encoding") == "UTF8"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("set client_encoding = SQL_ASCII")


def test_a_syntax_error_of_ones_own_is_told_as_it_is(gate: Shield) -> None:
    with raw_session(gate, "write") as client:
        client.send(Query(query=b"select * from shop.no_such_table"))
        [error] = [message for message in client.until_ready() if isinstance(message, ErrorResponse)]
        assert (error.sqlstate, "dbshield" in error.message) == ("42P01", False)
