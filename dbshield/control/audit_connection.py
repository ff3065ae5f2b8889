"""The connection over which a worker's audit goes to the control database.

Every write of every agent waits for `append`, so that speaks to libpq itself: a statement prepared once, and a callback on the
socket. psycopg's own way of running a statement costs a worker twice as much. Whatever is seldom goes that way.

Source: the PostgreSQL manual, "Asynchronous Command Processing" in the chapter on libpq.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import errors, pq

from dbshield.control.directory import CONNECT_TIMEOUT, KEEPALIVE, QUERY_TIMEOUT, RETRY_FIRST, RETRY_MOST

APPLICATION_NAME: Final = "dbshield audit"
"""What pg_stat_activity shows of the connection."""
SAFE_COMMIT: Final = "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'"
"""A commit that a crash may lose is none for whoever waits; what is stricter than `on` stays."""
PREPARE: Final = (
    "prepare dbshield_append (uuid, bigint, text) as select dbshield.audit_append($1, $2, string_to_array($3, e'\\n'))"
)
APPEND: Final = b"dbshield_append"
LOOK_AFTER: Final = 0.2
"""Seconds without an answer after which the socket is read unasked: of a connection that was reset while something stands to be
read, libuv tells nobody."""
CANCEL_TIMEOUT: Final = 1.0
"""Seconds for telling a server that it need not go on; one that is there takes milliseconds."""
DROP_BEFORE: Final = "select dbshield.audit_drop_before(now() - make_interval(days => %s::integer))"


class AuditConnection:
    """For one task. After any error but psycopg.DataError it has to be closed."""

    __slots__ = (
        "_answer",
        "_connection",
        "_deadline",
        "_libpq",
        "_look_later",
        "_loop",
        "_reading",
        "_result",
        "_sending",
        "_socket",
    )

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        # libpq forgets it when the server is gone, while the loop still watches it.
        self._socket = connection.pgconn.socket
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[None] | None = None
        self._result: pq.abc.PGresult | None = None
        self._reading = self._sending = False

    async def append(self, writer: UUID, first: int, entries: list[str]) -> None:
        """Adds entries, the first of which has this number of the writer's; returns when they are committed.

        Raises psycopg.Error, or TimeoutError where there is no answer in QUERY_TIMEOUT; then they may be committed or not.
        """
        parameters = [str(writer).encode(), b"%d" % first, "\n".join(entries).encode("ascii")]
        self._answer = answer = self._loop.create_future()
        self._result = None
        self._deadline = self._loop.time() + QUERY_TIMEOUT
        self._look_later = self._loop.call_later(LOOK_AFTER, self._look)
        try:
            self._libpq.send_query_prepared(APPEND, parameters)
            self._send()
            if not self._reading:
                self._loop.add_reader(self._socket, self._read)
                self._reading = True
            await answer
        except psycopg.Error:
            self._unwatch()
            raise
        except (asyncio.CancelledError, TimeoutError):
            self._unwatch()
            # Or else the server would go on waiting for a lock, once more with each connection that is given up.
            with suppress(psycopg.Error, OSError):
                await self._connection.cancel_safe(timeout=CANCEL_TIMEOUT)
            raise
        finally:
            self._look_later.cancel()
            self._answer = None

    async def execute(self, query: str, values: list[Any] | None = None) -> tuple[Any, ...] | None:
        """The first row of anything else. Raises psycopg.Error, or TimeoutError after QUERY_TIMEOUT."""
        self._unwatch()
        async with asyncio.timeout(QUERY_TIMEOUT):
            cursor = await self._connection.execute(query.encode(), values)
            return await cursor.fetchone() if cursor.description else None

    async def close(self) -> None:
        self._unwatch()
        await self._connection.close()

    def _send(self) -> None:
        """Sends what the socket takes now, and the rest when it takes more."""
        more = bool(self._libpq.flush())
        if more and not self._sending:
            self._loop.add_writer(self._socket, self._send_more)
        elif self._sending and not more:
            self._loop.remove_writer(self._socket)
        self._sending = more

    def _send_more(self) -> None:
        try:
            self._send()
        except psycopg.Error as error:
            self._end(error)

    def _read(self) -> None:
        libpq = self._libpq
        try:
            libpq.consume_input()
            if self._sending:
                self._send()
            while self._answer is not None and not libpq.is_busy():
                result = libpq.get_result()
                if result is None:
                    self._end(_error(self._result))
                    return
                self._result = result if self._result is None else self._result
        except psycopg.Error as error:
            self._end(error)

    def _look(self) -> None:
        if self._loop.time() >= self._deadline:
            self._end(TimeoutError("no answer in time"))
            return
        self._look_later = self._loop.call_later(LOOK_AFTER, self._look)
        self._read()

    def _end(self, error: Exception | None) -> None:
        """Whoever waits has an answer. Without anybody who waits, the connection was lost, as the next one to ask finds out."""
        if error is not None:
            self._unwatch()
        answer = self._answer
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _unwatch(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._socket)
        if self._sending:
            self._loop.remove_writer(self._socket)
        self._reading = self._sending = False


def _error(result: pq.abc.PGresult | None) -> psycopg.Error | None:
    """What an answer says, if it is not that all is well."""
    if result is None:
        return psycopg.OperationalError("no answer came")
    return None if result.status == pq.ExecStatus.TUPLES_OK else errors.error_from_result(result)


async def connect(dsn: str) -> AuditConnection:
    """One attempt. Raises psycopg.Error, OSError or TimeoutError."""
    async with asyncio.timeout(CONNECT_TIMEOUT):
        connection = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=int(CONNECT_TIMEOUT), **KEEPALIVE
        )
    try:
        async with asyncio.timeout(QUERY_TIMEOUT):
            await connection.execute(SAFE_COMMIT)
            await connection.execute(PREPARE)
    except BaseException:
        await connection.close()
        raise
    return AuditConnection(connection)


async def connect_some_time(dsn: str, after: float) -> AuditConnection:
    """As many attempts as it takes, the first of them after so many seconds."""
    await asyncio.sleep(after)
    pause = RETRY_FIRST
    while True:
        with suppress(psycopg.Error, OSError, TimeoutError):
            return await connect(dsn)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MOST)
