"""Brings the audit of one proxy worker to the control database, and says when it is there.

Sessions hand entries over without waiting; a task takes them to the database, several times a second, and at once where a write
waits for it. Whatever is recorded meanwhile goes with the next batch, so many writers cost one commit and are rendered together.

Laws:
- Entries are in the chain in the order in which they were handed over, and each of them once. Each has a number, and the database
  leaves out what this writer has brought before; so what may or may not have been committed is sent again.
- While the database is away, entries go to this machine's disk, and from there to the database before anything newer does.
- Where neither takes them, nothing goes on: `keeping` says so, and every session ends.
- Nobody is told that an entry is kept who could lose it: without the database that is only so on disk, and only where the
  configuration counts that ([audit] when_away = "spool").

Entries of the last fifth of a second, of statements that only read, are in this process' memory alone, and die with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg
import structlog

from dbshield.config import AuditConfig
from dbshield.control.audit_chores import Chores
from dbshield.control.audit_connection import AuditConnection, connect, connect_some_time
from dbshield.control.audit_keeping import Keeping, refused
from dbshield.control.audit_outbox import Outbox, Told
from dbshield.control.audit_spool import Spool, SpoolFull
from dbshield.control.audit_store import line_of
from dbshield.control.directory import POLL, QUERY_TIMEOUT, RETRY_FIRST, RETRY_MOST
from dbshield.errors import StoreError, first_line
from dbshield.policy.policy import Policy

IDLE: Final = 1.0
"""Seconds between two looks at what else is to be done, while there are no entries."""
SPOOL: Final = 0.2
"""Seconds between two looks whether the database is back."""
AT_ONCE: Final = 1.0
"""Seconds for finding another connection before writes stop."""
BEHIND: Final = 200_000
"""Entries in memory at which a database that answers is taken for one that does not: it does not keep up."""
KEPT: Final = 50_000
"""Entries that are kept in memory where neither database nor disk takes them; sessions have ended, so few come."""
STOP_TIMEOUT: Final = 5.0
"""Seconds for the last batches."""

log = structlog.get_logger(__name__)


class Shipping:
    """One for each worker. `start` and `stop` in its event loop; `folder` is where its spool goes."""

    def __init__(self, *, control_dsn: str, folder: Path, config: AuditConfig) -> None:
        self._dsn = control_dsn
        self._folder = folder
        self._config = config
        self.writer = uuid4()
        self._outbox = Outbox()
        self._lost = 0
        self._keeping = Keeping.DATABASE
        self._callbacks: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._spool: Spool | None = None
        self._connection: AuditConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._chores = Chores(folder, retention_days=config.retention_days, bring=self._bring, take=self.take)
        self.arrived = 0
        """The number of the newest entry of ours that is in the database; they are counted from 1."""
        self.recorded: Callable[[], None] = lambda: None
        """Whoever records sets this: it hands over, by `take`, all that was recorded up to now."""

    @property
    def keeping(self) -> Keeping:
        return self._keeping

    @property
    def newest(self) -> int:
        """The number of the newest entry that was handed over; those beyond `arrived` are in memory or on this machine's disk."""
        return self._outbox.first + len(self._outbox) - 1

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back when `keeping` changes."""
        self._callbacks.append(callback)

    def applied(self, policy: Policy) -> Policy:
        """The policy with what follows from where entries are kept now. Raises Refused where nothing may go on."""
        if self._keeping is Keeping.DATABASE:
            return policy
        if self._keeping is Keeping.NOWHERE or self._config.when_away == "stop":
            raise refused(self._keeping)
        return replace(policy, unaudited=True) if self._config.when_away == "read" else policy

    def take(self, lines: list[str]) -> None:
        """Entries that happened now, in order: JSON objects of one line each."""
        if self._keeping is Keeping.NOWHERE and len(self._outbox) + len(lines) > KEPT:
            self._lost += len(lines)
            return
        self._outbox.put(lines)
        self._wake.set()

    def when_durable(self, told: Told) -> None:
        """Calls `told` when everything that was recorded is kept for good, perhaps at once; with Refused where it cannot be."""
        if self._may_wait:
            # What was recorded is taken when a batch can go out: with all that comes until then.
            self._outbox.wait(told)
            self._wake.set()
            return
        self._gather()
        told(None if self._outbox.all_kept else refused(self._keeping))

    async def start(self) -> None:
        """Raises StoreError where the control database is away, ConfigError where the spool cannot be made."""
        self._spool = await asyncio.to_thread(Spool.create, self._folder, self.writer, max_bytes=self._config.spool_max_bytes)
        try:
            self._connection = await connect(self._dsn)
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._spool.close()
            raise StoreError(
                f"the control database does not answer: {first_line(error)}", hint="Look at [control] url, and at the server."
            ) from error
        self._task = asyncio.create_task(self._stay(), name="audit")

    async def stop(self) -> None:
        """Brings what is left to the database, or else to the disk, where the next worker finds it."""
        self._stopping = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            _, running = await asyncio.wait([task], timeout=STOP_TIMEOUT)
            for late in running:
                late.cancel()
                await asyncio.wait([late])
        await self._close()
        if self._spool is not None:
            self._gather()
            try:
                await self._to_disk()
            except SpoolFull as error:
                log.critical("audit.lost", entries=len(self._outbox) + self._lost, reason=error.message)
            self._spool.close()
            self._spool = None
        self._keeping = Keeping.NOWHERE
        self._outbox.fail(refused(self._keeping))

    # -- the task

    async def _stay(self) -> None:
        """Follows the connection, and finds a new one whenever it is lost, until it is told to stop."""
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._reconnect()
                await self._drain(self._connection)
                self._set(Keeping.DATABASE)
                await self._follow(self._connection)
            except (psycopg.Error, OSError, TimeoutError, StoreError) as error:
                await self._close()
                # Once, until one takes anything: a database whose disk is full lets everybody in, and takes nothing.
                if not self._pause and isinstance(error, psycopg.OperationalError) and await self._connected_at_once():
                    self._pause = RETRY_FIRST
                    continue
                self._away(first_line(error))
            except Exception:
                # A bug. Writes stop, entries go to the disk, and the next round tries again.
                log.exception("audit.bug")
                self._away("a bug in dbshield")
            else:
                return
            await self._close()
            if self._stopping:
                return
            self._pause = min(self._pause * 2 or RETRY_FIRST, RETRY_MOST)

    async def _connected_at_once(self) -> bool:
        """Whether only a connection was lost and not the database; for so long writes may wait."""
        if self._keeping is not Keeping.DATABASE or self._stopping:
            return False
        with suppress(psycopg.Error, OSError, TimeoutError):
            async with asyncio.timeout(AT_ONCE):
                self._connection = await connect(self._dsn)
        return self._connection is not None

    async def _reconnect(self) -> AuditConnection:
        """A connection, once there is one; until then entries go to the disk."""
        trying = asyncio.create_task(connect_some_time(self._dsn, self._pause))
        try:
            while not trying.done():
                await self._keep_on_disk()
                self._wake.clear()
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait([trying, woken], timeout=SPOOL, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if self._stopping and not trying.done():
                    # Once more and at once, so that nothing lies here until somebody starts again.
                    return await connect(self._dsn)
            return trying.result()
        finally:
            if not trying.done():
                trying.cancel()
                await asyncio.wait([trying])

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _drain(self, connection: AuditConnection) -> None:
        """What lies on the disk, before anything newer; meanwhile newer entries go there too."""
        spool = self._spool
        assert spool is not None
        drained = 0
        while not spool.empty:
            drained += await self._bring(connection, spool)
            await self._keep_on_disk()
        if drained:
            log.info("audit.drained", entries=drained)

    async def _bring(self, connection: AuditConnection, spool: Spool) -> int:
        """The next entries of a spool to the database; how many."""
        first, entries = await asyncio.to_thread(spool.next)
        with self._in_time():
            await connection.append(spool.writer, first, entries)
        self._pause = 0.0
        await asyncio.to_thread(spool.taken)
        if spool is self._spool:
            self.arrived = first + len(entries) - 1
            self._outbox.tell(self.arrived)
        return len(entries)

    async def _follow(self, connection: AuditConnection) -> None:
        """Ends with an error, or when it was told to stop and everything is in the database."""
        spoken = time.monotonic()
        while True:
            if self._keeping is not Keeping.DATABASE:
                raise StoreError("the control database did not answer in time")
            self._gather()
            # Behind it: what is in hand wakes nobody. Recorded reads come by themselves, several times a second.
            self._wake.clear()
            if self._outbox:
                await self._ship(connection)
                spoken = time.monotonic()
                if len(self._outbox) > BEHIND:
                    raise StoreError("the control database does not keep up with the audit")
            elif self._stopping:
                return
            await self._chores.due(connection)
            now = time.monotonic()
            if now - spoken > POLL:
                with self._in_time():
                    await connection.execute("select")
                spoken, self._pause = now, 0.0
            if not (self._outbox or self._stopping):
                await self._woken()

    async def _woken(self) -> None:
        """Returns when there is something to do, or at the next look whether there is."""
        look = asyncio.get_running_loop().call_later(IDLE, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            look.cancel()

    async def _ship(self, connection: AuditConnection) -> None:
        batch = self._outbox.batch()
        try:
            await self._append(connection, batch)
        except psycopg.DataError:
            # No agent may stop the audit by something that the database cannot read.
            for line in batch:
                try:
                    await self._append(connection, [line])
                except psycopg.DataError as error:
                    log.critical("audit.unreadable", reason=first_line(error))
                    await self._append(connection, [line_of("audit-unreadable", line=line)])

    async def _append(self, connection: AuditConnection, batch: list[str]) -> None:
        with self._in_time():
            await connection.append(self.writer, self._outbox.first, batch)
        self._pause = 0.0
        self._outbox.gone(len(batch))
        self.arrived = self._outbox.first - 1
        self._outbox.tell(self.arrived)

    def _gather(self) -> None:
        """Everything that was recorded gets its number, so that it is known what each one waits for."""
        try:
            self.recorded()
        except BaseException:
            # Nobody is told that an entry is kept that is not there.
            self._outbox.fail(refused(self._keeping))
            raise
        self._outbox.number()

    # -- while the database is away

    async def _keep_on_disk(self) -> None:
        """Whatever waits in memory, to the disk."""
        self._gather()
        try:
            await self._to_disk()
        except SpoolFull as error:
            if self._keeping is not Keeping.NOWHERE:
                log.critical("audit.nowhere", reason=error.message)
            self._set(Keeping.NOWHERE)
            self._outbox.fail(refused(self._keeping))
            return
        if self._keeping is not Keeping.NOWHERE:
            self._set(Keeping.DISK)
            if self._config.when_away == "spool":
                self._outbox.tell(self._outbox.first - 1)

    async def _to_disk(self) -> None:
        spool = self._spool
        assert spool is not None
        while self._outbox:
            batch = self._outbox.batch()
            await asyncio.to_thread(spool.add, self._outbox.first, batch)
            self._outbox.gone(len(batch))

    def _away(self, reason: str) -> None:
        """From now on; who waits is told unless the disk is good enough."""
        if self._keeping is Keeping.DATABASE:
            log.error("audit.away", reason=reason, when_away=self._config.when_away)
            self._set(Keeping.DISK)
        if not self._may_wait:
            self._outbox.fail(refused(self._keeping))

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Away from the deadline on: psycopg takes its time to cancel a query whose server is gone."""
        late = asyncio.get_running_loop().call_later(QUERY_TIMEOUT, self._away, "it does not answer in time")
        try:
            yield
        finally:
            late.cancel()

    # -- what others are told

    @property
    def _may_wait(self) -> bool:
        """Whether an entry that is taken now may become durable without the database being back."""
        return self._keeping is Keeping.DATABASE or (self._keeping is Keeping.DISK and self._config.when_away == "spool")

    def _set(self, keeping: Keeping) -> None:
        before, self._keeping = self._keeping, keeping
        if before is keeping:
            return
        if keeping is Keeping.DATABASE:
            log.info("audit.back", lost=self._lost)
            if self._lost:
                lost, self._lost = self._lost, 0
                self.take([line_of("audit-gap", lost=lost)])
        for callback in self._callbacks:
            callback()
