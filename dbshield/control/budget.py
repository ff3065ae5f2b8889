"""How many rows each agent may still change in each table within the hour, counted by all proxies together.

A session asks and reports without waiting: both happen in memory. A task brings what was reported to the control database
several times a second, and hears from there what other processes reported.

Laws:
- What is asked costs nothing where nothing was spent, which is nearly always.
- Without the control database it counts on in memory, and writes when the database is back. What other processes count meanwhile
  is then not known; the row limit of each transaction holds in any case.
- Where it is not known whether a write was committed, it is written again: rows may be counted twice, never not at all.
- The hour slides by whole minutes, and a minute that lies in the last hour in part counts in full.
- What the sessions of this process have changed and not committed counts as spent, what is on its way to the server as all that
  it may change: else an agent would spend an hour's rows once for each connection.

A process that dies takes with it what it counted since its last write, `FLUSH` seconds at the most while the database is there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final, Protocol

import psycopg
import structlog

from dbshield.control.directory import CONNECT_TIMEOUT, KEEPALIVE, POLL, QUERY_TIMEOUT, RETRY_FIRST, RETRY_MOST
from dbshield.errors import StoreError, first_line
from dbshield.session.counting import ELSEWHERE, UNTOLD
from dbshield.store.changed import ADD_ROWS, FORGET_ROWS, KEPT_MINUTES, ROWS_SINCE, Place
from dbshield.store.schema import ROWS_CHANNEL

APPLICATION_NAME: Final = "dbshield budget"
"""What pg_stat_activity shows of the connection."""
FLUSH: Final = 0.2
"""Seconds between two writes of what was counted."""
STOP_TIMEOUT: Final = 2.0
"""Seconds for the last write."""
RELOAD: Final = 60.0
"""Seconds between two loads of everything, should a notice ever be lost."""
WINDOW: Final = 60
"""Minutes that are looked at besides the one that runs."""
TABLE_MAX: Final = 300
"""Characters of a table's name: PostgreSQL's have at most 63 bytes, and a notice holds 8000."""

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Ledgers = dict[tuple[str, str, str], "_Ledger"]

log = structlog.get_logger(__name__)


class _Bucket:
    """The rows of one table in one minute: what the database told, what is not written yet, and what is being written."""

    __slots__ = ("known", "sending", "unsent")

    def __init__(self) -> None:
        self.known = self.unsent = self.sending = 0

    @property
    def total(self) -> int:
        return self.known + self.unsent + self.sending


class _Ledger:
    """What one agent spent in one database. `left` is the last answer, which holds until something is added or time passes."""

    __slots__ = ("asked", "left", "tables")

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, _Bucket]] = {}
        self.asked: tuple[int, int] | None = None
        """The minute and the limit that `left` is for."""
        self.left: Mapping[str, int] = NOTHING

    def bucket(self, table: str, minute: int) -> _Bucket:
        self.asked = None
        return self.tables.setdefault(table, {}).setdefault(minute, _Bucket())

    def answer(self, minute: int, limit: int) -> Mapping[str, int]:
        first = minute - WINDOW
        spent = {
            table: sum(bucket.total for when, bucket in minutes.items() if when >= first)
            for table, minutes in self.tables.items()
        }
        self.left = MappingProxyType({table: max(0, limit - rows) for table, rows in spent.items() if rows})
        self.asked = (minute, limit)
        return self.left

    def forget(self, first: int) -> bool:
        """Drops what lies before a minute; whether nothing is left."""
        for table, minutes in [*self.tables.items()]:
            for when in [when for when in minutes if when < first]:
                del minutes[when]
            if not minutes:
                del self.tables[table]
        self.asked = None
        return not self.tables


class AtWork(Protocol):
    """What a session has changed in its open transaction, by table, and in how many transactions on their way to the server it
    may change `max_rows` each."""

    @property
    def changed(self) -> Mapping[str, int]: ...

    @property
    def transactions(self) -> int: ...

    @property
    def max_rows(self) -> int: ...


class Counts(Protocol):
    """A session; None where it has counted nothing."""

    @property
    def counting(self) -> AtWork | None: ...


class Share:
    """What one session may spend `beside` the others of its agent in this process. `session` is given when there is one."""

    __slots__ = ("_beside", "_remaining", "session")

    def __init__(self, remaining: Callable[[int], Mapping[str, int]], beside: set[Share]) -> None:
        self._remaining = remaining
        self._beside = beside
        self.session: Counts | None = None

    def leave(self) -> None:
        """The session is over."""
        self._beside.discard(self)
        self.session = None

    def remaining(self, limit: int, rows: int, pending: int) -> Mapping[str, int]:
        """The rows of a table that the transaction at work may change in all: for each table where that is not `limit`, and under
        ELSEWHERE for all others. A transaction may change `rows` at most; `pending` may yet be changed by the session before.

        What others may yet change of any table is not certain to be changed. So while that could use up what is left, a
        transaction gets one row at a time: an agent that updates single rows over many connections is not stopped.
        """
        left = self._remaining(limit)
        changed: dict[str, int] = {}
        for share in self._beside:
            work = share._work if share is not self else None
            if work is not None:
                pending += work.transactions * work.max_rows
                for table, count in work.changed.items():
                    changed[table] = changed.get(table, 0) + count
        if limit <= 0 or min(left.values(), default=limit) - sum(changed.values()) - pending >= rows:
            return left
        own = self._work.changed if self._work is not None else NOTHING
        found = {
            table: _at_least_one(left.get(table, limit) - changed.get(table, 0), pending, own.get(table, 0))
            for table in left.keys() | changed.keys() | own.keys()
        }
        return found | {ELSEWHERE: _at_least_one(limit, pending, 0)} | ({UNTOLD: left[UNTOLD]} if UNTOLD in left else {})

    @property
    def _work(self) -> AtWork | None:
        return self.session.counting if self.session is not None else None


def _at_least_one(left: int, pending: int, own: int) -> int:
    """Of the rows that are `left` those that are not `pending`; while there is one, one more than the transaction's `own`."""
    return max(min(max(0, left), own + 1), left - pending)


class RowBudget:
    """The hourly budgets of one proxy process. `start` and `stop` in that process's event loop; `clock` in seconds since 1970."""

    def __init__(self, *, control_dsn: str, clock: Callable[[], float] = time.time) -> None:
        self._dsn = control_dsn
        self._clock = clock
        self._ledgers: Ledgers = {}
        self._shares: dict[tuple[str, str, str], set[Share]] = {}
        self._dirty: dict[Place, _Bucket] = {}
        self._connection: Connection | None = None
        self._available = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loaded_at = 0.0

    @property
    def available(self) -> bool:
        """False while the connection to the control database is lost: other processes' rows are then not known."""
        return self._available

    def remaining(self, environment: str, agent: str, database: str, limit: int) -> Mapping[str, int]:
        """The rows that are left within this hour for each table that something was spent on, 0 at the least; every other table
        has `limit`. Empty where `limit` is 0, which stands for no budget."""
        ledger = self._ledgers.get((environment, agent, database))
        if ledger is None or limit <= 0:
            return NOTHING
        minute = int(self._clock() // 60)
        return ledger.left if ledger.asked == (minute, limit) else ledger.answer(minute, limit)

    def share(self, environment: str, agent: str, database: str) -> Share:
        """For a session that begins; to be left when it ends."""
        beside = self._shares.setdefault((environment, agent, database), set())
        share = Share(lambda limit: self.remaining(environment, agent, database, limit), beside)
        beside.add(share)
        return share

    def spend(self, environment: str, agent: str, database: str, rows: Mapping[str, int]) -> None:
        """Rows that were changed and committed just now, by table."""
        minute = int(self._clock() // 60)
        for name, count in rows.items():
            if count > 0:
                place = Place(environment, agent, database, name[:TABLE_MAX], minute)
                bucket = self._bucket(place)
                bucket.unsent += count
                self._dirty[place] = bucket

    async def start(self) -> None:
        """Reads the last hour, and follows from then on. StoreError where it cannot be read."""
        try:
            self._connection = await self._connect()
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise StoreError(
                f"the control database does not answer: {first_line(error)}", hint="Look at [control] url, and at the server."
            ) from error
        self._stopping.clear()
        self._task = asyncio.create_task(self._stay(), name="budget")

    async def stop(self) -> None:
        """Writes what is not written yet, if the database is there, and lets go."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            _, running = await asyncio.wait([task], timeout=STOP_TIMEOUT)
            for late in running:
                late.cancel()
                await asyncio.wait([late])
        if self._dirty:
            log.error("budget.not_written", rows=sum(bucket.unsent for bucket in self._dirty.values()))
        await self._close()

    # -- the task

    async def _stay(self) -> None:
        """Follows the connection, and finds a new one whenever it is lost, until it is told to stop."""
        pause = RETRY_FIRST
        while True:
            try:
                if self._connection is None:
                    if self._stopping.is_set():
                        return
                    self._connection = await self._connect()
                    log.info("budget.back")
                    pause = RETRY_FIRST
                await self._follow(self._connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._lost(first_line(error))
            except Exception:
                # A bug. Counting goes on in memory, and the next round tries again.
                log.exception("budget.bug")
                self._lost("a bug in dbshield")
            else:
                return
            await self._close()
            self._forget()
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, RETRY_MOST)

    async def _connect(self) -> Connection:
        """A connection that listens, and the first load over it."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=int(CONNECT_TIMEOUT), **KEEPALIVE
            )
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                await connection.execute(f"listen {ROWS_CHANNEL}")
                await self._load(connection)
        except BaseException:
            await connection.close()
            raise
        self._available = True
        return connection

    async def _close(self) -> None:
        self._available = False
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _follow(self, connection: Connection) -> None:
        """Hears and writes in turn. Ends with an error, or with the last write when it is told to stop."""
        spoken = time.monotonic()
        while True:
            last = self._stopping.is_set()
            # For the whole time, however many notices come: or proxies would wake each other to write ever smaller pieces.
            async with aclosing(connection.notifies(timeout=0.0 if last else FLUSH)) as notices:
                async for notice in notices:
                    self._hear(notice.payload)
            now = time.monotonic()
            async with asyncio.timeout(QUERY_TIMEOUT):
                if self._dirty:
                    await self._write(connection)
                    spoken = now
                elif now - spoken > POLL:
                    await connection.execute("select")
                    spoken = now
                if now - self._loaded_at > RELOAD:
                    await self._load(connection)
            if last:
                return

    async def _write(self, connection: Connection) -> None:
        """Adds what was counted. Where that fails it stays counted, and is written next time."""
        batch, self._dirty = self._dirty, {}
        for bucket in batch.values():
            bucket.sending, bucket.unsent = bucket.unsent, 0
        try:
            columns = [list(column) for column in zip(*batch, strict=True)]
            counts = [bucket.sending for bucket in batch.values()]
            cursor = await connection.execute(ADD_ROWS, [*columns, counts])
            totals = {Place(*row[:5]): row[5] for row in await cursor.fetchall()}
        except BaseException:
            for place, bucket in batch.items():
                bucket.unsent += bucket.sending
                bucket.sending = 0
                self._dirty[place] = bucket
            raise
        for place, bucket in batch.items():
            bucket.known = max(bucket.known, totals[place])
            bucket.sending = 0
            self._ledgers[place[:3]].asked = None

    def _hear(self, payload: str) -> None:
        try:
            environment, agent, database, table, minute, total = json.loads(payload)
            self._know(Place(environment, agent, database, table, int(minute)), int(total))
        except (ValueError, TypeError):
            log.warning("budget.notice_not_read")

    async def _load(self, connection: Connection) -> None:
        """Everything of the last hour; what is older goes, here and in the database."""
        first = self._forget()
        cursor = await connection.execute(ROWS_SINCE, [first])
        for row in await cursor.fetchall():
            self._know(Place(*row[:5]), row[5])
        await connection.execute(FORGET_ROWS, [first + WINDOW - KEPT_MINUTES])
        self._loaded_at = time.monotonic()

    def _forget(self) -> int:
        """Drops what no longer counts; the first minute that does."""
        first = int(self._clock() // 60) - WINDOW
        for key in [key for key, ledger in self._ledgers.items() if ledger.forget(first)]:
            del self._ledgers[key]
        self._dirty = {place: bucket for place, bucket in self._dirty.items() if place.minute >= first}
        return first

    def _know(self, place: Place, total: int) -> None:
        bucket = self._bucket(place)
        bucket.known = max(bucket.known, total)

    def _bucket(self, place: Place) -> _Bucket:
        key = place[:3]
        ledger = self._ledgers.get(key)
        if ledger is None:
            ledger = self._ledgers[key] = _Ledger()
        return ledger.bucket(place.table, place.minute)

    def _lost(self, reason: str) -> None:
        known, self._available = self._available, False
        if known:
            log.error("budget.lost", reason=reason)
