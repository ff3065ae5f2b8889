"""What a worker does for the audit besides its own entries, now and then: it brings in those that dead workers left on this
machine's disk, and drops months that are old enough."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import psycopg
import structlog

from dbshield.control.audit_connection import DROP_BEFORE, AuditConnection
from dbshield.control.audit_spool import Spool
from dbshield.control.audit_store import line_of
from dbshield.errors import StoreError, first_line

LEFT_OVER: Final = 30.0
"""Seconds between two looks for the files of dead workers."""
DAMAGED: Final = ".damaged"
"""What a spool is called in which somebody has written; for a human to look at."""
RETENTION: Final = 3600.0
"""Seconds between two looks for months that are old enough to be dropped."""

Bring = Callable[[AuditConnection, Spool], Awaitable[int]]
"""Brings the next entries of a spool to the database; how many."""

log = structlog.get_logger(__name__)


class Chores:
    """One for each worker, and for the task that has the connection."""

    def __init__(self, folder: Path, *, retention_days: int, bring: Bring, take: Callable[[list[str]], None]) -> None:
        self._folder = folder
        self._retention_days = retention_days
        self._bring = bring
        self._take = take
        self._next_look = self._next_retention = 0.0

    async def due(self, connection: AuditConnection) -> None:
        """Those whose time has come. Raises what the connection raises."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LEFT_OVER
            await self._take_left_over(connection)
        if now >= self._next_retention:
            self._next_retention = now + RETENTION
            await self._drop_old(connection)

    async def _take_left_over(self, connection: AuditConnection) -> None:
        for spool in Spool.left_over(self._folder):
            try:
                entries = 0
                while not spool.empty:
                    entries += await self._bring(connection, spool)
                if entries:
                    log.warning("audit.left_over", writer=str(spool.writer), entries=entries)
            except (ValueError, StoreError, psycopg.DataError) as error:
                log.critical("audit.spool_damaged", file=spool.path.name, reason=first_line(error))
                spool.path.rename(spool.path.with_suffix(DAMAGED))
                self._take([line_of("audit-spool-damaged", file=spool.path.name)])
            finally:
                spool.close()

    async def _drop_old(self, connection: AuditConnection) -> None:
        try:
            row = await connection.execute(DROP_BEFORE, [self._retention_days])
        except psycopg.errors.LockNotAvailable:
            log.info("audit.not_dropped", reason="somebody reads the audit; the next look is in an hour")
            return
        if row is not None and row[0]:
            log.info("audit.dropped", entries=row[0])
