"""`dbshield restore`: one snapshot to a new data folder, or into a server, compared with its record before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbshield.backup import sealing
from dbshield.backup.checks import Outcome
from dbshield.backup.damage import Damaged
from dbshield.backup.download import downloads
from dbshield.backup.drill_place import cluster_folder
from dbshield.backup.engine import Progress
from dbshield.backup.logical import measured
from dbshield.backup.reader import Reader
from dbshield.backup.record import DatabaseRecord, Record, compare_properties, compare_sequences, compare_tables
from dbshield.backup.repository import Repository
from dbshield.backup.restore import Goal, Laps, Order, fetch, restorer_of, silent
from dbshield.backup.restore_logical import Target, has_table, partial, require_logical, schema_digest, target_of
from dbshield.backup.restore_place import beside, settle
from dbshield.backup.restore_server import require_ready, restored
from dbshield.backup.store import Folder
from dbshield.backup.work import work_folder
from dbshield.cluster import Binaries
from dbshield.config import BackupConfig
from dbshield.errors import BackupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A snapshot that is about to be restored, opened and believed. `work` is where folders for what is under way are made.

    With `compare` the restored data is counted and fingerprinted, and thrown away where it differs from the record. A `goal`
    other than the snapshot's own moment has nothing to be compared with.
    """

    reader: Reader
    repository: Repository
    trusted: Mapping[str, bytes] = field(repr=False)
    identities: Sequence[sealing.Identity] = field(repr=False)
    record: Record
    binaries: Binaries
    work: Path
    jobs: int
    compare: bool
    tables: tuple[str, ...] = ()
    goal: Goal = field(default_factory=Goal)
    settings: Mapping[str, str] = field(default_factory=dict)
    plan: BackupConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was restored. `databases` by the names that they have now; `seconds` by phase; `compared` the tables that were.

    Where it is another moment than the snapshot's, `reached` is the time of the newest transaction in it, and `archived_until`
    the newest moment that could have been restored.
    """

    databases: tuple[str, ...]
    seconds: Mapping[str, float]
    compared: int
    reached: str = ""
    archived_until: str = ""


def with_tables(kept: Record, tables: Sequence[str]) -> Record:
    """The record of the databases that these tables are in; all of it without tables. BackupError for one that is in none."""
    missing = [each for each in tables if not any(has_table(database, each) for database in kept.databases)]
    if missing:
        raise BackupError(
            f"the snapshot has no {', '.join(missing)}",
            hint="Name tables as schema.table; `dbshield backup show` lists them.",
        )
    there = tuple(each for each in kept.databases if not tables or any(has_table(each, table) for table in tables))
    return replace(kept, databases=there)


def to_folder(wanted: Wanted, target: Path, *, progress: Progress) -> Done:
    """Restore to a new data folder; a server can be started on it afterwards. Raises BackupError, ClusterError: there is none."""
    target = target.absolute()
    laps = Laps()
    with beside(target) as place, work_folder(wanted.work) as private, _resumable(wanted) as near:
        order = Order(
            reader=near.reader,
            repository=near.repository,
            trusted=wanted.trusted,
            identities=wanted.identities,
            record=wanted.record,
            binaries=wanted.binaries,
            cluster=cluster_folder(place),
            work=private,
            settings=wanted.settings,
            jobs=wanted.jobs,
            progress=progress,
            laps=laps,
            goal=wanted.goal,
            tables=wanted.tables,
            plan=wanted.plan,
        )
        standing = restorer_of(wanted.reader.manifest).restore(order)
        names = {each.name: partial(each.name) if wanted.tables else each.name for each in wanted.record.databases}
        try:
            for check in standing.checks:
                if check.outcome in {Outcome.FAILED, Outcome.ERROR}:
                    raise BackupError(f"{check.name}: {'; '.join(check.problems)}", hint="Nothing was restored.")
            compared = _compared(wanted, target_of(standing.cluster.dsn(), wanted.binaries, private), names, laps, progress)
        finally:
            standing.cluster.stop("fast")
        with laps.phase("sync"):
            standing.tidy()
            settle(standing.cluster, target)
    return Done(
        databases=tuple(names.values()),
        seconds=laps.seconds,
        compared=compared,
        reached=standing.reached,
        archived_until=standing.archived_until,
    )


def to_server(wanted: Wanted, dsn: str, *, progress: Progress) -> Done:
    """Restore the databases of a logical snapshot into the server at a superuser's connection string, password included."""
    require_logical(wanted.reader.manifest, wanted.binaries)
    if wanted.goal:
        raise BackupError("a logical snapshot restores to the moment when it was made", hint="Leave --at and --lsn out.")
    laps = Laps()
    with work_folder(wanted.work) as work, _resumable(wanted) as near:
        target = target_of(dsn, wanted.binaries, work)
        require_ready(target, wanted.record, tables=wanted.tables)
        target = target_of(silent(dsn, wanted.binaries.major), wanted.binaries, work)
        with laps.phase("download"):
            folder = work.make("snapshot")
            fetch(near.reader, wanted.identities, folder, progress)
        begin = time.monotonic()
        with restored(target, wanted.record, folder, jobs=wanted.jobs, progress=progress, tables=wanted.tables) as names:
            laps.seconds["restore"] = time.monotonic() - begin
            compared = _compared(wanted, target, names, laps, progress)
        own = tuple(partial(name) if wanted.tables else name for name in names)
    return Done(databases=own, seconds=laps.seconds, compared=compared)


@contextmanager
def _resumable(wanted: Wanted) -> Iterator[Wanted]:
    """What is fetched from a store is kept until the restore has ended well. A folder here is read where it is."""
    if isinstance(wanted.repository.store, Folder):
        yield wanted
        return
    with downloads(wanted.work, wanted.reader.manifest) as kept:
        yield replace(wanted, reader=wanted.reader.through(kept), repository=wanted.repository.through(kept))


def _compared(wanted: Wanted, target: Target, names: Mapping[str, str], laps: Laps, progress: Progress) -> int:
    """How many tables are as the record says. Raises Damaged where something is not."""
    if not wanted.compare or wanted.goal:
        return 0
    with laps.phase("compare"):
        progress.step("compare", None)
        problems: list[str] = []
        tables = 0
        for database in wanted.record.databases:
            expected = _only(database, wanted.tables)
            found = _only(measured(target.source, names[database.name], jobs=wanted.jobs, like=expected), wanted.tables)
            tables += sum(not table.skipped for table in expected.tables)
            problems += map(str, compare_tables(expected, found))
            if wanted.tables:
                continue
            problems += map(str, compare_sequences(expected, found))
            problems += map(str, compare_properties(expected, found))
            if database.schema_sha256 not in {"", schema_digest(target, names[database.name])}:
                problems.append(f"{database.name}: the schema is another one than the snapshot's")
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise Damaged(
            f"what was restored is not what was backed up: {'; '.join(problems[:5])}{more}",
            hint="Nothing was restored. Use another snapshot, or take it as it is with --no-compare.",
        )
    return tables


def _only(database: DatabaseRecord, tables: Sequence[str]) -> DatabaseRecord:
    """The record of a database with these tables alone, where there are any."""
    if not tables:
        return database
    kept = tuple(table for table in database.tables if f"{table.schema}.{table.name}" in tables)
    return replace(database, tables=kept)
