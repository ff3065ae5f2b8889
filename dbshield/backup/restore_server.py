"""Restoring a logical snapshot into a server that runs, which has none of its databases.

Each database is restored under another name, and all of them get their own in the end: who connects in between finds none rather
than half of one. Roles that the server has are kept as they are, with their passwords.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dbshield.backup.engine import Progress
from dbshield.backup.logical import DUMP, GLOBALS
from dbshield.backup.record import DatabaseRecord, Record
from dbshield.backup.restore_logical import (
    ALWAYS_THERE,
    OBJECTS,
    Target,
    analyze,
    partial,
    pg_restore,
    restore_tables,
    roles,
    toc,
)
from dbshield.backup.source import Connection, named, told
from dbshield.errors import BackupError

DATABASE = re.compile(r"\d+; \d+ \d+ (?:DATABASE|DATABASE PROPERTIES|(?:ACL|COMMENT|SECURITY LABEL) - DATABASE) ")
"""Entries of a dump that are of the database itself (`pg_restore --list`)."""
SUPERUSER = "select rolsuper, current_setting('server_version_num')::int / 10000 from pg_roles where rolname = current_user"


def require_ready(target: Target, kept: Record, *, tables: Sequence[str]) -> None:
    """Raises BackupError unless everything can be restored without touching what the server has. Nothing is written."""
    with target.source.connect(_entrance(target)) as connection, told("the target"):
        superuser, major = connection.execute(SUPERUSER).fetchone() or (False, 0)
        there = {name for (name,) in connection.execute("select datname::text from pg_database")}
    if major != target.programs.major:
        raise BackupError(
            f"the target is PostgreSQL {major}, and the snapshot is of {target.programs.major}",
            hint="Restore it into a server of the same major version.",
        )
    if not superuser:
        raise BackupError("the target's role is no superuser", hint="Roles, owners and extensions need one.")
    names = [partial(database.name) if tables else database.name for database in kept.databases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BackupError(f"two databases would be called {twice}", hint="Name tables of one of them at a time.")
    for name in names:
        if name in ALWAYS_THERE:
            raise BackupError(
                f"the snapshot has the database {name}, which every server has already",
                hint="Restore it to a new folder with --to-folder.",
            )
        if name in there:
            raise BackupError(
                f"the target has a database {name} already", hint="Nothing is written over: name another server, or rename it."
            )


@contextlib.contextmanager
def restored(
    target: Target, kept: Record, folder: Path, *, jobs: int, progress: Progress, tables: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Restore the databases from a snapshot's folder under other names, and give those; the block compares them.

    When the block ends well each gets its own name; otherwise all of them are dropped.
    """
    suffix = secrets.token_hex(4)
    # Nothing of their own names, which may begin alike, or have more bytes than a name can be made longer by.
    names = {database.name: f"dbshield_restoring_{suffix}_{n}" for n, database in enumerate(kept.databases, 1)}
    try:
        roles(target, folder / GLOBALS, keep=True)
        for database in kept.databases:
            progress.step(f"restore {database.name}", None)
            dump = folder / "databases" / database.folder / DUMP
            if tables:
                restore_tables(target, database, dump, tables, name=names[database.name])
            else:
                _make(target, database, dump, names[database.name])
                pg_restore(target, dump, f"--jobs={jobs}", f"--dbname={named(names[database.name])}")
                analyze(target.source, names[database.name])
        yield names
        with target.source.connect(_entrance(target)) as connection, told("the names of the restored databases"):
            for own, temporary in names.items():
                _rename(connection, temporary, partial(own) if tables else own)
    except BaseException:
        _drop(target, names.values())
        raise


def _make(target: Target, database: DatabaseRecord, dump: Path, temporary: str) -> None:
    """The empty database with its encoding, locale, owner, settings and rights, by what the dump says of it."""
    listing, chosen = target.work.folder / "list", target.work.folder / "of-the-database"
    toc(target, dump, listing, "--create")
    lines = [line for line in listing.read_text("utf-8").splitlines() if DATABASE.match(line)]
    if not lines:
        raise BackupError(f"the dump of {database.name} does not say how to make it", hint="Use another snapshot.")
    chosen.write_text("\n".join(lines) + "\n", "utf-8")
    try:
        pg_restore(target, dump, "--create", f"--use-list={chosen}", f"--dbname={named(_entrance(target))}")
        with target.source.connect(_entrance(target)) as connection, told(f"the database {database.name}"):
            _rename(connection, database.name, temporary)
    except BackupError:
        _drop_empty(target, database.name)
        raise


def _rename(connection: Connection, old: str, new: str) -> None:
    connection.execute(sql.SQL("alter database {} rename to {}").format(sql.Identifier(old), sql.Identifier(new)))


def _drop_empty(target: Target, name: str) -> None:
    """Remove a database that was made and not filled. One that has something in it is not ours."""
    with contextlib.suppress(BackupError, psycopg.Error):
        with target.source.connect(name) as connection:
            mine = connection.execute(OBJECTS).fetchone() == (0,)
        if mine:
            with target.source.connect(_entrance(target)) as connection:
                connection.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(name)))


def _drop(target: Target, names: Iterable[str]) -> None:
    """Remove what is half restored, as far as the server still answers."""
    with contextlib.suppress(BackupError, psycopg.Error), target.source.connect(_entrance(target)) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _entrance(target: Target) -> str:
    """The database that is there to connect to."""
    return str(conninfo_to_dict(target.source.base).get("dbname") or "postgres")
