"""Restoring a logical snapshot into an empty cluster, and comparing what stands there then with the record.

Never over something: a database that the target has already must be empty, and is refused otherwise. Roles that the target has
are kept as they are. What fails leaves the target as it is then, with the error; it is not to be used, and the caller throws it
away. The target runs the snapshot's SQL as its superuser, so the manifest's signature is checked before anything is.

Source: PostgreSQL manual, pg_restore (`--exit-on-error`, `--create`), psql (`ON_ERROR_STOP`).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from dbshield.backup import record, sealing
from dbshield.backup.command import run
from dbshield.backup.engine import Progress
from dbshield.backup.logical import DUMP, GLOBALS, SCHEMA, measured, schema_text
from dbshield.backup.manifest import RECORD
from dbshield.backup.record import DatabaseRecord, Difference, Record
from dbshield.backup.repository import Reader
from dbshield.backup.source import Connection, Source, told
from dbshield.backup.work import Work
from dbshield.cluster import Binaries
from dbshield.errors import BackupError

ALWAYS_THERE = ("postgres", "template1")
"""Databases that initdb makes: they are restored into, not made."""
OBJECTS = """
    select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
"""
CREATE_ROLE = re.compile(rb'^CREATE ROLE (?P<name>"(?:[^"]|"")+"|[^\s;]+);$')


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An empty cluster: its superuser's connection string, and the programs of its major version."""

    source: Source
    programs: Binaries
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored, and how it compares. `seconds` by phase: download, roles, data, compare."""

    record: Record
    databases: tuple[DatabaseRecord, ...]
    differences: tuple[Difference, ...]
    seconds: Mapping[str, float]


def target_of(dsn: str, programs: Binaries, work: Work) -> Target:
    """The cluster at a superuser's connection string, password included."""
    return Target(source=Source(base=dsn, databases=()), programs=programs, work=work)


def restore(reader: Reader, identities: Sequence[sealing.Identity], target: Target, *, jobs: int, progress: Progress) -> Restored:
    """Restore every database of a snapshot, with its roles, and compare counts, fingerprints, sequences and schema.

    Raises Damaged, Absent and WrongKey before the target is touched, BackupError where it does not take what is in the snapshot.
    """
    if reader.manifest.engine != "logical":
        raise BackupError(f"{reader.manifest.snapshot} is no logical snapshot", hint="Restore it with its own engine.")
    if reader.manifest.server.version // 10000 != target.programs.major:
        raise BackupError(
            f"{reader.manifest.snapshot} is of PostgreSQL {reader.manifest.server.version // 10000},"
            f" and the target's programs are {target.programs.major}",
            hint="Restore it with the same major version.",
        )
    clock = _Clock()
    kept = record.parse(reader.read(RECORD, identities))
    folder = download(reader, identities, target.work, progress)
    clock.lap("download")
    with target.source.connect("postgres") as connection, told("the target"):
        for database in kept.databases:
            _require_room(target, connection, database.name)
    _roles(target, folder / GLOBALS)
    clock.lap("roles")
    for database in kept.databases:
        progress.step(f"restore {database.name}", None)
        _data(target, database, folder / "databases" / database.folder / DUMP, jobs)
    clock.lap("data")
    progress.step("compare", None)
    found = tuple(measured(target.source, database.name, jobs=jobs, like=database) for database in kept.databases)
    differences = compare(kept, found, schema=lambda database: _schema(target, database))
    clock.lap("compare")
    return Restored(record=kept, databases=found, differences=differences, seconds=clock.laps)


def compare(kept: Record, found: Sequence[DatabaseRecord], *, schema: Callable[[DatabaseRecord], str]) -> tuple[Difference, ...]:
    """Counts, fingerprints, sequences, extensions, the canary's rows and the schema of restored databases, as the record has
    them. `schema` gives the digest of a restored database's schema."""
    there = {database.name: database for database in found}
    differences: list[Difference] = []
    for expected in kept.databases:
        restored = there.get(expected.name)
        if restored is None:
            differences.append(Difference(what=expected.name, expected="a database", found="not there"))
            continue
        differences += record.compare_tables(expected, restored)
        differences += record.compare_sequences(expected, restored)
        if dict(expected.extensions) != dict(restored.extensions):
            differences.append(
                Difference(what=f"{expected.name}: extensions", expected=str(expected.extensions), found=str(restored.extensions))
            )
        if (digest := schema(expected)) != expected.schema_sha256:
            differences.append(Difference(what=f"{expected.name}: the schema", expected=expected.schema_sha256, found=digest))
    return tuple(differences)


def download(reader: Reader, identities: Sequence[sealing.Identity], work: Work, progress: Progress) -> Path:
    """Every member, unpacked, below a new folder of the work folder. Nothing in it is used before all of it is right."""
    folder = work.make("snapshot")
    progress.step("download", reader.manifest.stored)
    for member in reader.manifest.members:
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        reader.extract_file(member.name, path, identities)
        progress.advance(member.stored)
    return folder


def _require_room(target: Target, connection: Connection, name: str) -> None:
    """Raises BackupError where the target has the database already and something is in it."""
    if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
        return
    with target.source.connect(name) as inside:
        if name not in ALWAYS_THERE or (inside.execute(OBJECTS).fetchone() or (1,))[0]:
            raise BackupError(
                f"the target has a database {name} already", hint="Restore into an empty cluster; nothing is written over."
            )


def _roles(target: Target, globals_: Path) -> None:
    """Make the roles that are missing, and give all of them their attributes and memberships. The superuser that we are stays."""
    with target.source.connect("postgres") as connection, told("the roles of the target"):
        quoted = [row[0] for row in connection.execute("select quote_ident(rolname) from pg_roles")]
        me = str((connection.execute("select quote_ident(current_user)").fetchone() or ("",))[0])
    there = {name.encode() for name in quoted}
    script = target.work.folder / "roles.sql"
    with globals_.open("rb") as lines, script.open("wb") as out:
        for line in lines:
            made = CREATE_ROLE.match(line.rstrip(b"\n"))
            if made is not None and made["name"] in there:
                continue
            # Its own password and attributes are the target's, or we would be locked out.
            if line.startswith(b"ALTER ROLE " + me.encode() + b" "):
                continue
            out.write(line)
    variables = {**target.source.variables("postgres"), "PGOPTIONS": "-c client_min_messages=warning"}
    run(
        [target.programs.program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--file={script}"],
        work=target.work,
        variables=variables,
    )


def _data(target: Target, database: DatabaseRecord, dump: Path, jobs: int) -> None:
    arguments: list[str | Path] = [
        target.programs.program("pg_restore"),
        "--exit-on-error",
        "--no-tablespaces",
        "--no-password",
        f"--jobs={jobs}",
    ]
    if database.name in ALWAYS_THERE:
        arguments.append(f"--dbname={_conninfo(database.name)}")
    else:
        arguments += ["--create", "--dbname=postgres"]
    run([*arguments, dump], work=target.work, variables=target.source.variables("postgres"))
    with target.source.connect(database.name) as connection, told(f"the database {database.name}"):
        connection.execute(sql.SQL("analyze"))


def _conninfo(name: str) -> str:
    """A name of a database that libpq takes for nothing else."""
    return f"dbname='{name}'"


def _schema(target: Target, database: DatabaseRecord) -> str:
    """The digest of a restored database's schema."""
    path = target.work.folder / f"restored-{database.folder}-{SCHEMA}"
    schema_text(target.programs, target.source, database.name, work=target.work, target=path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now
