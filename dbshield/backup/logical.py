"""The logical engine: pg_dump in directory format, counts and fingerprints, all from one exported snapshot per database.

Members: `globals.sql` (roles; their passwords only where the snapshot is encrypted and the role may read them), and below
`databases/<oid>/` the files of pg_dump's directory and `schema.sql`, the schema's text that a restore is compared with.

- PostgreSQL has no snapshot across databases: each of several is consistent in itself, and they are taken one after another.
- Tablespaces are not kept: a restore puts everything into the default one, since their folders are the old machine's.
- pg_dump writes uncompressed into the work folder, which needs the room; members are compressed on their way out, and each file
  is removed when it is stored.

Source: PostgreSQL manual, pg_dump (`--snapshot`, `--jobs`) and "Snapshot Synchronization Functions".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from dbshield.backup import fingerprint, look
from dbshield.backup.canary import CanaryRun
from dbshield.backup.command import run, running
from dbshield.backup.engine import Taken, Task
from dbshield.backup.fingerprint import Relation
from dbshield.backup.manifest import Server
from dbshield.backup.record import DatabaseRecord, Record, TableRecord
from dbshield.backup.source import Connection, Source, named, told
from dbshield.backup.work import Work
from dbshield.cluster import Binaries
from dbshield.errors import BackupError

BEGIN = "begin isolation level repeatable read, read only"
EXPORT = "select pg_catalog.pg_export_snapshot()"
PASSWORDS = "select pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select')"
NOW = "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
GLOBALS = "globals.sql"
GLOBALS_TRIES = 30
"""Dumps of the roles before giving up: each is a fraction of a second."""
SCHEMA = "schema.sql"
DUMP = "dump"
CHANGING = (b"-- Dumped from database version ", b"-- Dumped by pg_dump version ", b"\\restrict ", b"\\unrestrict ")
"""Lines of pg_dump's text that differ from run to run or from minor version to minor version."""


class Logical:
    """The engine `logical`. Every snapshot is a full one."""

    name = "logical"
    kind = "full"

    def back_up(self, task: Task) -> Taken:
        databases: list[DatabaseRecord] = []
        first: tuple[Server, str] | None = None
        canary = CanaryRun(task.source, task.source.databases[0], task.writer.snapshot)
        canary.before()
        after = None
        roles, members = self._globals(task)
        for name in task.source.databases:
            with _exported(task.source, name) as (connection, snapshot):
                if first is None:
                    first = (look.server(connection), str((connection.execute(NOW).fetchone() or ("",))[0]))
                    after = canary.after()
                databases.append(self._database(task, name, connection, snapshot))
        if first is None:
            raise BackupError("there is no database to back up", hint="Name one in databases.")
        with task.source.connect(task.source.databases[0]) as connection, told("the facts about the server"):
            record = Record(
                taken=first[1],
                settings=look.settings(connection),
                roles=roles,
                members=members,
                databases=tuple(databases),
                canary=after,
                no_canary=canary.reason,
            )
        return Taken(server=first[0], record=record)

    def _globals(self, task: Task) -> tuple[Mapping[str, Mapping[str, Any]], tuple[tuple[str, str], ...]]:
        """Dump roles and their memberships; the same as the record has them.

        pg_dumpall takes no exported snapshot, so they are read before and after it, until they were the same.
        """
        database = task.source.databases[0]
        with task.source.connect(database) as connection, told("the roles"):
            readable = bool((connection.execute(PASSWORDS).fetchone() or (False,))[0])
            for _ in range(GLOBALS_TRIES):
                before = look.roles(connection), look.members(connection)
                self._dump_globals(task, readable=readable)
                if before == (look.roles(connection), look.members(connection)):
                    task.writer.add_file(GLOBALS, task.work.folder / GLOBALS)
                    return before
        raise BackupError(
            "roles change all the time, so none of their dumps is of one moment", hint="See who does that, and make another one."
        )

    def _dump_globals(self, task: Task, *, readable: bool) -> None:
        database = task.source.databases[0]
        target = task.work.folder / GLOBALS
        passwords = [] if readable and task.writer.encrypted else ["--no-role-passwords"]
        run(
            [
                task.programs.program("pg_dumpall"),
                "--globals-only",
                "--no-tablespaces",
                "--no-password",
                *passwords,
                f"--database={named(database)}",
                f"--file={target}",
            ],
            work=task.work,
            variables=task.source.variables(database),
        )

    def _database(self, task: Task, name: str, connection: Connection, snapshot: str) -> DatabaseRecord:
        """Dump and measure one database beside each other, then store it."""
        with told(f"the database {name}"):
            facts = look.database(connection)
            wanted = fingerprint.relations(connection)
            # Before the dump reads them: they are in no transaction, so the dump's are these or later ones.
            numbers = fingerprint.sequences(connection)
        folder = task.work.make(facts["folder"])
        stop = Event()
        dump: list[str | Path] = [
            task.programs.program("pg_dump"),
            "--format=directory",
            "--compress=0",
            f"--jobs={task.jobs}",
            f"--snapshot={snapshot}",
            "--no-password",
            f"--file={folder / DUMP}",
        ]
        with running(dump, work=task.work, variables=task.source.variables(name), failed=stop.set), told(f"the database {name}"):
            task.progress.step(f"read {name}", sum(relation.bytes for relation in wanted))
            tables = _tables(task, name, snapshot, wanted, stop)
        if stop.is_set() or len(tables) != len(wanted):
            raise BackupError(f"not every table of {name} was counted", hint="Look at the server's log.")
        digest = self._schema(task, name, snapshot, folder)
        store(task, f"databases/{facts['folder']}", folder)
        return DatabaseRecord(**facts, tables=tables, sequences=numbers, schema_sha256=digest)

    def _schema(self, task: Task, name: str, snapshot: str, folder: Path) -> str:
        target = folder / SCHEMA
        schema_text(task.programs, task.source, name, work=task.work, target=target, snapshot=snapshot)
        return hashlib.sha256(target.read_bytes()).hexdigest()


def schema_text(
    programs: Binaries, source: Source, database: str, *, work: Work, target: Path, snapshot: str | None = None
) -> None:
    """Write the schema's text to `target`, without what differs from run to run; a restored database has the same."""
    raw = target.with_suffix(".raw")
    arguments: list[str | Path] = [
        programs.program("pg_dump"),
        "--schema-only",
        "--no-tablespaces",
        "--no-password",
        f"--file={raw}",
    ]
    if snapshot is not None:
        arguments.append(f"--snapshot={snapshot}")
    run(arguments, work=work, variables=source.variables(database))
    with raw.open("rb") as lines, target.open("wb") as out:
        out.writelines(line for line in lines if not line.startswith(CHANGING))
    raw.unlink()


def measured(source: Source, database: str, *, jobs: int, like: DatabaseRecord | None = None) -> DatabaseRecord:
    """Count and fingerprint a database that is there, such as a restored one; its schema is not looked at.

    With `like`, each table is sampled as that record says, so that both can be compared.
    """
    known = {(table.schema, table.name): table.sample for table in like.tables} if like is not None else {}
    with _exported(source, database) as (connection, snapshot), told(f"the database {database}"):
        facts = look.database(connection)
        wanted = fingerprint.relations(connection)
        numbers = fingerprint.sequences(connection)
        tables = fingerprint.measure_all(
            lambda: joined(source, database, snapshot),
            wanted,
            samples=lambda relation: known.get((relation.schema, relation.name), 1),
            jobs=jobs,
            stop=Event(),
            passed=lambda _: None,
        )
    return DatabaseRecord(**facts, tables=tables, sequences=numbers, schema_sha256="")


def store(task: Task, prefix: str, folder: Path) -> None:
    """Add every file below a folder, and remove each when it is stored."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    task.progress.step("store", sum(path.stat().st_size for path in files))
    for path in files:
        task.writer.add_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path, passed=task.progress.advance)
        path.unlink()


def _tables(task: Task, name: str, snapshot: str, wanted: tuple[Relation, ...], stop: Event) -> tuple[TableRecord, ...]:
    return fingerprint.measure_all(
        lambda: joined(task.source, name, snapshot),
        wanted,
        samples=lambda relation: fingerprint.sample_of(relation.bytes, task.fingerprint_max_bytes, has_key=bool(relation.key)),
        jobs=task.jobs,
        stop=stop,
        passed=lambda relation: task.progress.advance(relation.bytes),
    )


@contextmanager
def _exported(source: Source, database: str) -> Iterator[tuple[Connection, str]]:
    """A connection in a transaction whose view others can join, for as long as the block lasts."""
    with source.connect(database) as connection:
        with told(f"the database {database}"):
            connection.execute(BEGIN)
            fingerprint.pin(connection)
            name = str((connection.execute(EXPORT).fetchone() or ("",))[0])
        yield connection, name


@contextmanager
def joined(source: Source, database: str, snapshot: str) -> Iterator[Connection]:
    """Another connection with the same view."""
    with source.connect(database) as connection:
        connection.execute(BEGIN)
        connection.execute(f"set transaction snapshot '{_literal(snapshot)}'")
        fingerprint.pin(connection)
        yield connection


def _literal(snapshot: str) -> str:
    if not snapshot or any(sign not in "0123456789ABCDEFabcdef-" for sign in snapshot):
        raise BackupError("the server exported a snapshot whose name is none", hint="Connect to PostgreSQL itself.")
    return snapshot
