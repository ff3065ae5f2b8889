"""Prepared transactions that nobody had decided when a base backup was made.

Recovery brings them back with their locks, so whoever looks at a table of theirs waits for ever. In a throwaway cluster they are
rolled back: nothing of them was committed, so nothing that a snapshot's record counts goes with them.

Source: PostgreSQL manual, PREPARE TRANSACTION, ROLLBACK PREPARED (which has to be sent in the transaction's own database).
"""

from __future__ import annotations

from psycopg import sql

from dbshield.backup.checks import SHOWN, Found
from dbshield.backup.record import Record
from dbshield.backup.source import Source, told

WAITING = "select database::text, gid from pg_prepared_xacts order by 1, 2"


def waiting(source: Source, record: Record) -> tuple[tuple[str, str], ...]:
    """Database and name of each. Raises BackupError where the server does not answer."""
    for database in record.databases[:1]:
        with source.connect(database.name) as connection, told("prepared transactions"):
            return tuple((str(name), str(gid)) for name, gid in connection.execute(WAITING).fetchall())
    return ()


def rolled_back(source: Source, undecided: tuple[tuple[str, str], ...]) -> Found:
    """Roll them back. Only for a cluster that is thrown away."""
    for database, gid in undecided:
        with source.connect(database) as connection, told(f"the prepared transaction {gid}"):
            connection.execute(sql.SQL("rollback prepared {}").format(sql.Literal(gid)))
    names = ", ".join(gid for _, gid in undecided[:SHOWN])
    more = f", and {len(undecided) - SHOWN} more" if len(undecided) > SHOWN else ""
    return Found(measure=f"{len(undecided)} rolled back in the drill's own cluster, as they hold locks: {names}{more}")
