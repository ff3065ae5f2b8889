"""Finding the moment of a physical snapshot: a place in the WAL, and views of the databases that show exactly what is there then.

Views are taken until one is found that such a place belongs to (`moment.py`); on a busy server the first or second does. Nobody
who writes is held up: the tables are locked as pg_dump locks them, because TRUNCATE and rewriting ALTER TABLEs show through older
views. Where nothing is found, the snapshot says so, and nothing was counted: a restore that is right is never called wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from dbshield.backup import fingerprint, moment
from dbshield.backup.moment import End, View
from dbshield.backup.record import SequenceRecord
from dbshield.backup.source import Connection, Source, told
from dbshield.errors import BackupError

SEARCH_TIME = 60.0
"""Seconds for which a moment is looked for."""
LOCK_TIMEOUT = "10s"
"""How long we wait for somebody who has locked a table for themselves; whoever comes after us waits as long."""
LOCKED = f"a table or a sequence was locked by somebody else for longer than {LOCK_TIMEOUT}"
SETTLED = 1.0
"""Seconds that no transaction spends between writing its commit and being over, unless it waits for the disk or a standby."""
BEGIN = "begin isolation level repeatable read, read only"
HERE = "select pg_current_wal_insert_lsn()::text"
SEEN = "select pg_current_snapshot()::text"
EXPORT = "select pg_export_snapshot()"
MARK = "select pg_current_xact_id()::text, pg_logical_emit_message(true, 'dbshield', %s)::text"
"""A transaction that changes nothing, and whose commit is in the WAL."""
NOT_ENDING = """
    select count(*) from unnest(%s::text[]) w(xid)
    where exists (select from pg_prepared_xacts p where p.transaction = w.xid::xid8::xid)
        or exists (
            select from pg_stat_activity a where a.backend_xid = w.xid::xid8::xid
                and (a.state like 'idle in transaction%%' or (a.state = 'active' and a.wait_event is null)
                    or (a.state = 'active' and a.wait_event !~* '^(syncrep|wal)'))
        )
"""
"""How many of these transactions run and are not about to end: sessions of others show nothing without pg_read_all_stats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """`lsn` is where recovery stops, exclusive. `views` are connections and exported snapshots by database, open still.

    `sequences` were read before that place, by database: they are in no view, and what is restored is not behind them.
    Where `inexact` says why there is no such place, there are no views.
    """

    lsn: int
    views: Mapping[str, tuple[Connection, str]]
    sequences: Mapping[str, tuple[SequenceRecord, ...]]
    inexact: str = ""


@contextmanager
def found(source: Source, label: str, ends_until: Callable[[int, int], Sequence[End]]) -> Iterator[Moment]:
    """The moment, with its views open for as long as the block lasts.

    `ends_until(start, xid)` gives the ends of transactions in the WAL from a place up to a transaction's commit.
    Raises BackupError where the server does not answer, or its WAL does not arrive.
    """
    with ExitStack() as stack:
        teller = stack.enter_context(source.connect(source.databases[0]))
        with told("the moment of the snapshot"):
            teller.execute("set synchronous_commit = 'local'")
        search = _Search(source, teller, label, ends_until, stack)
        with told("the moment of the snapshot"):
            made = search.run()
        yield made


class _Search:
    """One search. What it opens belongs to `stack`."""

    def __init__(
        self,
        source: Source,
        teller: Connection,
        label: str,
        ends_until: Callable[[int, int], Sequence[End]],
        stack: ExitStack,
    ) -> None:
        self._teller = teller
        self._label = label
        self._ends_until = ends_until
        self._keepers = {name: _Keeper(stack.enter_context(source.connect(name))) for name in source.databases}
        self._viewers = {name: stack.enter_context(source.connect(name)) for name in source.databases}
        self._began = time.monotonic()

    def run(self) -> Moment:
        numbers: Mapping[str, tuple[SequenceRecord, ...]] | None = None
        start = moment.lsn(_one(self._teller, HERE))
        earlier = View.parse(_one(self._teller, SEEN))
        while True:
            numbers = numbers or self._numbers()
            reason = self._lock() if numbers is not None else LOCKED
            views = [] if reason else self._look()
            exported = self._export(views) if views else {}
            marker = int(_one(self._teller, MARK, self._label))
            ends = self._ends_until(start, marker)
            if exported and numbers is not None:
                place = moment.target(views, ends)
                if place is None:
                    reason = "transactions ended in another order than the WAL has them, each time that it was looked"
                elif not self._settled(moment.undecided(views, earlier, ends)):
                    reason = "transactions were about to end for so long that nobody could tell whether they had"
                else:
                    return Moment(lsn=place, views=exported, sequences=numbers)
            if time.monotonic() - self._began > SEARCH_TIME:
                commit = next(end.lsn for end in ends if end.committed and end.xid == marker % moment.XIDS)
                reason = reason or "tables were made faster than they could be locked"
                return Moment(lsn=commit, views={}, sequences=numbers or dict.fromkeys(self._viewers, ()), inexact=reason)
            for connection in self._viewers.values():
                connection.execute("rollback")

    def _numbers(self) -> Mapping[str, tuple[SequenceRecord, ...]] | None:
        """The sequences of each database; nothing while somebody has locked one."""
        try:
            return {name: unlocked_sequences(connection) for name, connection in self._viewers.items()}
        except psycopg.errors.LockNotAvailable:
            return None

    def _lock(self) -> str:
        """Lock what is not locked yet; why that did not work, or nothing."""
        try:
            for keeper in self._keepers.values():
                keeper.lock()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            for keeper in self._keepers.values():
                keeper.release()
            return LOCKED
        return ""

    def _look(self) -> list[View]:
        """One view of each database, as close together as it goes."""
        for connection in self._viewers.values():
            connection.execute(BEGIN)
        return [View.parse(_one(connection, SEEN)) for connection in self._viewers.values()]

    def _export(self, views: Sequence[View]) -> Mapping[str, tuple[Connection, str]]:
        """The views for others to join; none where one shows a table that is not locked."""
        exported = {}
        for name, connection in self._viewers.items():
            fingerprint.pin(connection)
            if not self._keepers[name].holds(connection):
                return {}
            exported[name] = (connection, _one(connection, EXPORT))
        return exported

    def _settled(self, undecided: frozenset[int]) -> bool:
        """Whether transactions that run since before the search are not about to end."""
        if not undecided:
            return True
        if time.monotonic() - self._began < SETTLED:
            return False
        (count,) = self._teller.execute(NOT_ENDING, [[str(xid) for xid in undecided]]).fetchone() or (0,)
        return bool(count == len(undecided))


class _Keeper:
    """Holds the lightest lock on every table of one database that is counted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: set[int] = set()
        self._open = False

    def lock(self) -> None:
        if not self._open:
            self._connection.execute("begin")
            self._open = True
            fingerprint.pin(self._connection)
            self._connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        wanted = [relation for relation in _counted(self._connection) if relation.oid not in self._held]
        if not wanted:
            return
        names = sql.SQL(", only ").join(sql.Identifier(relation.schema, relation.name) for relation in wanted)
        self._connection.execute(sql.SQL("lock table only {} in access share mode").format(names))
        self._held |= {relation.oid for relation in wanted}

    def holds(self, view: Connection) -> bool:
        """Whether every table that a view shows is locked."""
        return all(relation.oid in self._held for relation in _counted(view))

    def release(self) -> None:
        self._connection.execute("rollback")
        self._held.clear()
        self._open = False


def _counted(connection: Connection) -> list[fingerprint.Relation]:
    """Tables that can be locked and are counted; large objects are in a table that nobody truncates."""
    return [relation for relation in fingerprint.relations(connection, sized=False) if not relation.reason and relation.oid]


def unlocked_sequences(connection: Connection, *, unlogged: bool = True) -> tuple[SequenceRecord, ...]:
    """The sequences of a database, by a connection in no transaction. psycopg's LockNotAvailable where one is locked for long."""
    connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        return fingerprint.sequences(connection, unlogged=unlogged)
    finally:
        connection.execute("reset lock_timeout")


def _one(connection: Connection, query: str, *parameters: object) -> str:
    row = connection.execute(query, parameters or None).fetchone()
    if row is None:
        raise BackupError("the server does not tell where it is", hint="Connect to PostgreSQL itself.")
    return str(row[0])
