"""The connection over which a worker's audit goes to the control database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import psycopg

from dbshield.control.directory import CONNECT_TIMEOUT, KEEPALIVE, QUERY_TIMEOUT, RETRY_FIRST, RETRY_MOST

APPLICATION_NAME: Final = "dbshield audit"
"""What pg_stat_activity shows of the connection."""
SAFE_COMMIT: Final = "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'"
"""A commit that a crash may lose is none for whoever waits; what is stricter than `on` stays."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(dsn: str) -> Connection:
    """One attempt. Raises psycopg.Error, OSError or TimeoutError."""
    async with asyncio.timeout(CONNECT_TIMEOUT):
        connection = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=int(CONNECT_TIMEOUT), **KEEPALIVE
        )
    try:
        async with asyncio.timeout(QUERY_TIMEOUT):
            await connection.execute(SAFE_COMMIT)
    except BaseException:
        await connection.close()
        raise
    return connection


async def connect_some_time(dsn: str) -> Connection:
    """As many attempts as it takes."""
    pause = RETRY_FIRST
    while True:
        with suppress(psycopg.Error, OSError, TimeoutError):
            return await connect(dsn)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MOST)
