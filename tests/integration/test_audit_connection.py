"""The connection that speaks to libpq itself, on real servers: what is taken in, and what is left behind when it goes wrong."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import uvloop
from support.control import tables_database
from support.servers import Server

from dbshield.control import audit_connection, audit_read
from dbshield.control.audit_connection import APPLICATION_NAME, AuditConnection, connect
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

Rows = list[tuple[Any, ...]]
DEADLINE = 30.0
ENTRY = '{"ts":"2026-05-03T03:09:37.123456Z","event":"test","much":"%s"}'


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    with tables_database(server) as dsn:
        yield dsn


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test on the loop that the proxy runs on."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), DEADLINE))

    return run


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[AuditConnection]:
    connection = await connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def rows(dsn: str, query: str, *values: object) -> Rows:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode(), values or None).fetchall()


async def seen(dsn: str, query: str) -> None:
    """Returns when the query finds a row."""
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(rows, dsn, query):  # noqa: ASYNC110 - polls another process
            await asyncio.sleep(0.01)


def sequences(dsn: str, writer: UUID) -> list[int]:
    return [row[0] for row in rows(dsn, "select sequence from dbshield.audit where writer = %s order by id", writer)]


OURS = f"from pg_stat_activity where application_name = '{APPLICATION_NAME}' and datname = current_database()"
WAITS = f"select {OURS} and wait_event_type = 'Lock'"
CUT = f"select pg_terminate_backend(pid) {OURS}"


@on_uvloop
async def test_batches_are_in_the_chain_when_append_returns(dsn: str) -> None:
    writer = uuid4()
    async with connected(dsn) as connection:
        for first, count in ((1, 1), (2, 3), (5, 1)):
            await connection.append(writer, first, [ENTRY % "a"] * count)
            assert sequences(dsn, writer) == [*range(1, first + count)]
            assert await connection.execute("select 42") == (42,)
    database = Database(dsn)
    try:
        assert audit_read.verify(database).faults == ()
    finally:
        database.close()


@on_uvloop
async def test_a_batch_that_no_socket_takes_at_once(dsn: str) -> None:
    writer, entries = uuid4(), [ENTRY % ("x" * 60_000)] * 100
    async with connected(dsn) as connection:
        await connection.append(writer, 1, entries)
    assert rows(dsn, "select count(*), min(length(entry)) from dbshield.audit") == [(100, len(entries[0]))]


@on_uvloop
async def test_an_entry_that_cannot_be_read_is_refused_and_the_next_one_taken(dsn: str) -> None:
    writer = uuid4()
    async with connected(dsn) as connection:
        with pytest.raises(psycopg.DataError):
            await connection.append(writer, 1, [ENTRY % "a", "no JSON"])
        await connection.append(writer, 1, [ENTRY % "a"])
    assert sequences(dsn, writer) == [1]


@on_uvloop
async def test_a_connection_that_is_cut_says_so_to_who_waits_and_to_the_next_one(dsn: str) -> None:
    writer = uuid4()
    async with connected(dsn) as connection:
        await connection.append(writer, 1, [ENTRY % "a"])
        rows(dsn, CUT)
        with pytest.raises(psycopg.OperationalError):
            await connection.append(writer, 2, [ENTRY % "a"])
    async with connected(dsn) as connection:
        with psycopg.connect(dsn) as holder:
            holder.execute("select from dbshield.audit_head for update")
            appending = asyncio.create_task(connection.append(writer, 2, [ENTRY % "a"]))
            await seen(dsn, WAITS)
            rows(dsn, CUT)
            with pytest.raises(psycopg.OperationalError):
                await appending
    assert sequences(dsn, writer) == [1]


@on_uvloop
async def test_a_server_that_goes_before_it_has_read_what_was_sent(dsn: str) -> None:
    """What it leaves unread is a reset of the connection, behind the last thing that it says."""
    async with connected(dsn) as connection:
        await connection.append(uuid4(), 1, [ENTRY % "a"])
        ((process,),) = rows(dsn, f"select pid {OURS}")
        os.kill(process, signal.SIGSTOP)
        try:
            rows(dsn, CUT)
            appending = asyncio.create_task(connection.append(uuid4(), 1, [ENTRY % "a"]))
            await asyncio.sleep(0)
        finally:
            os.kill(process, signal.SIGCONT)
        with pytest.raises(psycopg.OperationalError, match=r"terminating|closed the connection"):
            await appending


@on_uvloop
async def test_a_server_that_does_not_answer_in_time_is_told_to_stop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else each connection that is given up would leave one behind that waits, and takes its place in the chain later."""
    writer = uuid4()
    with psycopg.connect(dsn) as holder:
        async with connected(dsn) as connection:
            # Not for connecting, which may take longer.
            monkeypatch.setattr(audit_connection, "QUERY_TIMEOUT", 0.2)
            holder.execute("select from dbshield.audit_head for update")
            with pytest.raises(TimeoutError):
                await connection.append(writer, 1, [ENTRY % "a"])
        await seen(dsn, f"select where not exists ({WAITS})")
    assert sequences(dsn, writer) == []


@on_uvloop
async def test_who_is_cancelled_leaves_nothing_behind(dsn: str) -> None:
    writer = uuid4()
    with psycopg.connect(dsn) as holder:
        async with connected(dsn) as connection:
            holder.execute("select from dbshield.audit_head for update")
            appending = asyncio.create_task(connection.append(writer, 1, [ENTRY % "a"]))
            await seen(dsn, WAITS)
            appending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await appending
        await seen(dsn, f"select where not exists ({WAITS})")
    assert sequences(dsn, writer) == []
