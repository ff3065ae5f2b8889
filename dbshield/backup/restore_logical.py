"""Restoring a logical snapshot into a new cluster, and comparing what stands there then with the record.

The server runs the snapshot's SQL as its superuser, so the manifest's signature is checked before anything is. What fails leaves
the target as it is then, with the error; it is not to be used, and the caller throws it away.

Source: PostgreSQL manual, pg_restore (`--exit-on-error`, `--create`), psql (`ON_ERROR_STOP`).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from dbshield.backup import record, sealing
from dbshield.backup.command import run
from dbshield.backup.engine import Progress
from dbshield.backup.logical import DUMP, GLOBALS, SCHEMA, measured, schema_text
from dbshield.backup.manifest import Manifest
from dbshield.backup.reader import Reader
from dbshield.backup.record import DatabaseRecord, Difference, Record
from dbshield.backup.restore import Laps, Order, Standing, fetch, kept_record, quiet
from dbshield.backup.source import Connection, Source, named, told
from dbshield.backup.work import Work
from dbshield.cluster import Binaries, Cluster
from dbshield.errors import BackupError

ALWAYS_THERE = ("postgres", "template1")
"""Databases that initdb makes: they are replaced, not made beside."""
PARTIAL = "_partial"
NAME_BYTES = 63
"""Of a name: NAMEDATALEN - 1 (src/include/pg_config_manual.h). The server cuts off what is longer."""
OBJECTS = """
    select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
"""
ANALYZED = """
    with recursive below(top, oid) as (
        select inhparent, inhrelid from pg_inherits
        union select b.top, i.inhrelid from below b join pg_inherits i on i.inhparent = b.oid
    )
    select n.nspname::text, c.relname::text,
        exists (select from below b join pg_class f on f.oid = b.oid where b.top = c.oid and f.relkind = 'f')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'p') and c.relpersistence <> 't'
    order by 1, 2
"""
"""What ANALYZE looks at, and whether it would look at foreign tables with it."""
_ROLE = rb'(?P<name>"(?:[^"]|"")+"|[^\s;]+)'
CREATE_ROLE = re.compile(rb"^CREATE ROLE " + _ROLE + rb";$")
ABOUT_ROLE = re.compile(rb"^(?:ALTER ROLE|GRANT .* TO) " + _ROLE + rb"[ ;]")
"""What pg_dumpall writes of a role after it was made: attributes, settings, memberships."""
GRANTED_BY = re.compile(rb'^GRANT .* GRANTED BY "?(?P<name>[a-z_][a-z0-9_]*)"?;$', re.MULTILINE)
LOADING: Mapping[str, str] = {
    # Nothing of it counts until all of it is there and on the disk.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "maintenance_work_mem": "256MB",
}
TAKEN_OVER = ("max_connections", "max_locks_per_transaction", "max_prepared_transactions")
"""Settings of the source without which what fits there may not fit here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An empty cluster: its superuser's connection string, and the programs of its major version."""

    source: Source
    programs: Binaries
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored, and how it compares. `seconds` by phase: download, restore, compare."""

    record: Record
    databases: tuple[DatabaseRecord, ...]
    differences: tuple[Difference, ...]
    seconds: Mapping[str, float]


class LogicalRestorer:
    """The engine `logical`: a new cluster, roles, and pg_restore of each database."""

    name = "logical"

    def restore(self, order: Order) -> Standing:
        if order.goal:
            raise BackupError(
                "a logical snapshot restores to the moment when it was made, and to no other",
                hint="Leave --at and --lsn out, or choose a physical snapshot.",
            )
        with order.laps.phase("download"):
            folder = order.work.make("snapshot")
            fetch(order.reader, order.identities, folder, order.progress)
        taken_over = {name: order.record.settings[name] for name in TAKEN_OVER if name in order.record.settings}
        cluster = Cluster(
            order.cluster,
            binaries=order.binaries,
            settings={**quiet(order.binaries.major), **LOADING, **taken_over, **order.settings},
            superuser=superuser_of(order.record, folder / GLOBALS),
        )
        with order.laps.phase("start"):
            order.progress.step("start", None)
            cluster.start(tethered=True, throwaway=True)
        try:
            with order.laps.phase("restore"):
                target = target_of(cluster.dsn(), order.binaries, order.work)
                load(target, order.record, folder, jobs=order.jobs, progress=order.progress, tables=order.tables)
        except BaseException:
            cluster.stop("immediate")
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return Standing(cluster=cluster)


def superuser_of(kept: Record, globals_: Path) -> str:
    """The name that the new cluster's first superuser gets: that of the source's own, which granted memberships since 16."""
    superusers = [name for name, role in kept.roles.items() if role.get("superuser")]
    if "postgres" in superusers:
        return "postgres"
    granting = [match["name"].decode() for match in GRANTED_BY.finditer(globals_.read_bytes())]
    return next((name for name in granting if name in superusers), "postgres")


def target_of(dsn: str, programs: Binaries, work: Work) -> Target:
    """The cluster at a superuser's connection string, password included."""
    return Target(source=Source(base=dsn, databases=()), programs=programs, work=work)


def require_logical(manifest: Manifest, programs: Binaries) -> None:
    """Raises BackupError for a snapshot of another engine, or of another major version than the programs."""
    if manifest.engine != "logical":
        raise BackupError(f"{manifest.snapshot} is no logical snapshot", hint="Restore it with its own engine.")
    if manifest.server.version // 10000 != programs.major:
        raise BackupError(
            f"{manifest.snapshot} is of PostgreSQL {manifest.server.version // 10000},"
            f" and the target's programs are {programs.major}",
            hint="Restore it with the same major version.",
        )


def restore(reader: Reader, identities: Sequence[sealing.Identity], target: Target, *, jobs: int, progress: Progress) -> Restored:
    """Restore every database of a snapshot into an empty cluster that runs, and compare.

    Raises DamagedMembers and WrongKey before the target is touched, BackupError where it does not take what is in the snapshot.
    """
    require_logical(reader.manifest, target.programs)
    laps = Laps()
    kept = kept_record(reader, identities)
    with laps.phase("download"):
        folder = target.work.make("snapshot")
        fetch(reader, identities, folder, progress)
    with laps.phase("restore"):
        load(target, kept, folder, jobs=jobs, progress=progress)
    with laps.phase("compare"):
        progress.step("compare", None)
        found = tuple(measured(target.source, database.name, jobs=jobs, like=database) for database in kept.databases)
        differences = compare(kept, found, schema=lambda database: schema_digest(target, database.name))
    return Restored(record=kept, databases=found, differences=differences, seconds=laps.seconds)


def load(target: Target, kept: Record, folder: Path, *, jobs: int, progress: Progress, tables: Sequence[str] = ()) -> None:
    """Roles and databases from a snapshot's folder into an empty cluster. Raises BackupError where something is in its way.

    With `tables` (`schema.name`) these alone get their rows, in a database that is called `partial`.
    """
    with target.source.connect("postgres") as connection, told("the target"):
        for database in kept.databases:
            _require_room(target, connection, database.name)
    roles(target, folder / GLOBALS)
    for database in kept.databases:
        progress.step(f"restore {database.name}", None)
        dump = folder / "databases" / database.folder / DUMP
        if tables:
            restore_tables(target, database, dump, tables, name=partial(database.name))
        else:
            _data(target, database, dump, jobs)


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
        differences += record.compare_properties(expected, restored)
        if dict(expected.extensions) != dict(restored.extensions):
            differences.append(
                Difference(what=f"{expected.name}: extensions", expected=str(expected.extensions), found=str(restored.extensions))
            )
        if (digest := schema(expected)) != expected.schema_sha256:
            differences.append(Difference(what=f"{expected.name}: the schema", expected=expected.schema_sha256, found=digest))
    return tuple(differences)


def _require_room(target: Target, connection: Connection, name: str) -> None:
    """Raises BackupError where the target has the database already and something is in it."""
    if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
        return
    with target.source.connect(name) as inside:
        if name not in ALWAYS_THERE or (inside.execute(OBJECTS).fetchone() or (1,))[0]:
            raise BackupError(
                f"the target has a database {name} already", hint="Restore into an empty cluster; nothing is written over."
            )


def roles(target: Target, globals_: Path, *, keep: bool = False) -> None:
    """Make the roles that are missing, and give them attributes and memberships. The superuser that we are stays as it is.

    With `keep`, so does every role that the target has.
    """
    with target.source.connect("postgres") as connection, told("the roles of the target"):
        there = {str(row[0]).encode() for row in connection.execute("select quote_ident(rolname) from pg_roles")}
        me = str((connection.execute("select quote_ident(current_user)").fetchone() or ("",))[0]).encode()
    kept = there if keep else {me}
    script = target.work.folder / "roles.sql"
    with globals_.open("rb") as lines, script.open("wb") as out:
        for line in lines:
            made = CREATE_ROLE.match(line.rstrip(b"\n"))
            if made is not None and made["name"] in there:
                continue
            about = ABOUT_ROLE.match(line)
            # Its own password and attributes are the target's, or we would be locked out.
            if about is not None and about["name"] in kept and (keep or line.startswith(b"ALTER ROLE")):
                continue
            out.write(line)
    variables = {**target.source.variables("postgres"), "PGOPTIONS": "-c client_min_messages=warning"}
    run(
        [target.programs.program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--file={script}"],
        work=target.work,
        variables=variables,
    )


def pg_restore(target: Target, dump: Path, *options: str) -> None:
    """pg_restore of a dump's folder, ending at the first error."""
    arguments: list[str | Path] = [
        target.programs.program("pg_restore"),
        "--exit-on-error",
        "--no-tablespaces",
        "--no-password",
        *options,
        dump,
    ]
    run(arguments, work=target.work, variables=target.source.variables("postgres"))


def _data(target: Target, database: DatabaseRecord, dump: Path, jobs: int) -> None:
    if database.name in ALWAYS_THERE:
        # initdb's own has another owner and locale, and a dump that is restored into it leaves out settings and rights.
        entrance = next(name for name in ALWAYS_THERE if name != database.name)
        pg_restore(target, dump, f"--jobs={jobs}", "--clean", "--create", f"--dbname={named(entrance)}")
    else:
        pg_restore(target, dump, f"--jobs={jobs}", "--create", "--dbname=postgres")
    analyze(target.source, database.name)


def toc(target: Target, dump: Path, output: Path, *options: str) -> None:
    """Write the list of what is in a dump, as `--use-list` takes it."""
    arguments: list[str | Path] = [target.programs.program("pg_restore"), "--list", *options, dump]
    run(arguments, work=target.work, variables=target.source.variables("postgres"), output=output)


def has_table(database: DatabaseRecord, table: str) -> bool:
    """Whether the record of a database has a table, by `schema.name`."""
    return any(f"{each.schema}.{each.name}" == table for each in database.tables)


def partial(name: str) -> str:
    """What a database is called in which only some tables have their rows: never what the whole one is."""
    return name.encode()[: NAME_BYTES - len(PARTIAL)].decode(errors="ignore") + PARTIAL


def restore_tables(target: Target, database: DatabaseRecord, dump: Path, tables: Sequence[str], *, name: str) -> None:
    """The whole schema without indexes, and the rows and own constraints of some tables, into a new database `name`.

    Raises BackupError where the dump has no such table; those of other databases are left out.
    """
    tables = [each for each in tables if has_table(database, each)]
    listing, chosen = target.work.folder / "list", target.work.folder / "chosen"
    toc(target, dump, listing)
    before = target.work.folder / "before"
    toc(target, dump, before, "--section=pre-data")
    wanted = set(before.read_text("utf-8").splitlines())
    entries = [f"{schema} {table}" for schema, _, table in (each.partition(".") for each in tables)]
    rows = [re.compile(rf"\d+; \d+ \d+ TABLE DATA {re.escape(entry)} ") for entry in entries]
    keys = [re.compile(rf"\d+; \d+ \d+ CONSTRAINT {re.escape(entry)} ") for entry in entries]
    lines = listing.read_text("utf-8").splitlines()
    missing = [each for each, row in zip(tables, rows, strict=True) if not any(map(row.match, lines))]
    if missing:
        raise BackupError(
            f"the dump of {database.name} has no rows of {', '.join(missing)}", hint="Of a partitioned table name the partitions."
        )
    kept = [line for line in lines if line in wanted or any(pattern.match(line) for pattern in (*rows, *keys))]
    chosen.write_text("\n".join(kept) + "\n", "utf-8")
    with target.source.connect("postgres") as connection, told(f"the database {name}"):
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    pg_restore(target, dump, f"--use-list={chosen}", f"--dbname={named(name)}")
    analyze(target.source, name)


def analyze(source: Source, name: str) -> None:
    """Statistics, which a dump does not have; without them the first queries are slow.

    A table with a foreign one below it is left out: reading that would speak with another server, and fail where it is away.
    """
    with source.connect(name) as connection, told(f"the database {name}"):
        tables = connection.execute(ANALYZED).fetchall()
        if not any(foreign for *_, foreign in tables):
            connection.execute("analyze")
        elif here := [sql.Identifier(schema, table) for schema, table, foreign in tables if not foreign]:
            connection.execute(sql.SQL("analyze {}").format(sql.SQL(", ").join(here)))


def schema_digest(target: Target, name: str) -> str:
    """The digest of a restored database's schema."""
    path = target.work.folder / f"restored-{hashlib.sha256(name.encode()).hexdigest()[:16]}-{SCHEMA}"
    schema_text(target.programs, target.source, name, work=target.work, target=path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
