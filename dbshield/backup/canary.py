"""The canary: a row written right before a snapshot, and one after. A restore has the first and must not have the second.

It needs a small table of its own in the protected database, which nobody makes unasked: `dbshield backup setup` does. Without it
snapshots are made all the same, and say that they have no canary.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from dbshield.backup.record import Canary
from dbshield.backup.source import Connection, Source

SETUP = """
create schema if not exists dbshield_backup;
comment on schema dbshield_backup is 'dbshield: what backups write to prove when a restore stands';
create table if not exists dbshield_backup.canary (
    snapshot text not null,
    moment text not null check (moment in ('before', 'after')),
    at timestamptz not null default clock_timestamp(),
    primary key (snapshot, moment)
);
comment on table dbshield_backup.canary is 'a row before and one after each snapshot; those of 90 days ago are removed';
revoke all on schema dbshield_backup from public;
revoke all on dbshield_backup.canary from public;
"""
"""Idempotent. Run as an administrator."""
GRANT = sql.SQL(
    "grant usage on schema dbshield_backup to {role}; grant select, insert, delete on dbshield_backup.canary to {role}"
)
WRITE = """
    insert into dbshield_backup.canary (snapshot, moment) values (%s, %s)
    returning to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
"""
FORGET = "delete from dbshield_backup.canary where at < now() - interval '90 days'"


def statements(role: str) -> str:
    """What `set_up` runs, as text."""
    return SETUP.strip() + "\n" + GRANT.format(role=sql.Identifier(role)).as_string(None)


def set_up(connection: Connection, role: str) -> None:
    """Make the canary's table, and let the role of the backups write it."""
    connection.execute(SETUP)
    connection.execute(GRANT.format(role=sql.Identifier(role)))


class CanaryRun:
    """The two rows of one snapshot. Errors are kept as a reason: a backup without a canary is better than none."""

    def __init__(self, source: Source, database: str, snapshot: str) -> None:
        self._source = source
        self._database = database
        self._snapshot = snapshot
        self._before = ""
        self.reason = ""

    def before(self) -> None:
        """Call it before the snapshot's transaction begins."""
        self._before = self._write("before")

    def after(self) -> Canary | None:
        """Call it when the snapshot's transaction has its view; nothing where one of the rows could not be written."""
        if not self._before:
            return None
        after = self._write("after")
        if not after:
            return None
        return Canary(
            database=self._database, before=self._snapshot, before_at=self._before, after=self._snapshot, after_at=after
        )

    def _write(self, moment: str) -> str:
        try:
            with self._source.connect(self._database) as connection:
                # Committed on the disk, whatever the role's own setting is.
                connection.execute("set synchronous_commit = 'local'")
                row = connection.execute(WRITE, [self._snapshot, moment]).fetchone()
                connection.execute(FORGET)
                return str(row[0]) if row else ""
        except psycopg.errors.UndefinedTable:
            self.reason = "there is no table for it; `dbshield backup setup` makes it"
        except psycopg.Error as error:
            self.reason = str(error).strip().splitlines()[0]
        return ""


def exists_for(connection: Connection, snapshot: str, moment: str) -> bool:
    """Whether the row of a snapshot is there, `before` or `after`. psycopg's error where its table is not."""
    query = "select exists (select from dbshield_backup.canary where snapshot = %s and moment = %s)"
    return bool((connection.execute(query, [snapshot, moment]).fetchone() or (False,))[0])
