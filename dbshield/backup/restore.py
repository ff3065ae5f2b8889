"""Restoring: which snapshot, from where, and what an engine does to make a server of it.

Laws:
- Never over anything: an engine gets a folder that does not exist, or a server that has none of the databases.
- What is half restored has another name than what is whole (`restore_place.py`, `restore_server.py`).
- A restored server archives nowhere, listens on its socket alone, and starts no worker that speaks with others, whatever the
  settings of the server that it was were: a copy that writes into the original's archive destroys what it should prove.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbshield.backup import record, sealing
from dbshield.backup.binaries import programs
from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.checks import Check
from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.backup.engine import Progress
from dbshield.backup.manifest import RECORD, Manifest
from dbshield.backup.reader import Reader
from dbshield.backup.record import Record
from dbshield.backup.repository import Repository
from dbshield.backup.work import Work
from dbshield.cluster import Binaries, Cluster, binaries_in
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, ConfigError

QUIET: Mapping[str, str] = {
    "archive_mode": "off",
    "max_logical_replication_workers": "0",
    "shared_preload_libraries": "",
    "ssl": "off",
    # Statements may hold data; the SQLSTATE at the beginning of a line tells what went wrong.
    "log_min_error_statement": "panic",
    "log_line_prefix": "%e ",
    "log_destination": "stderr",
}
"""Settings of every server that is restored here, given on its command line; `quiet` has them for a version."""
SILENT: Mapping[str, str] = {"event_triggers": "off"}
"""Since 17. A trigger on login writes into what is being compared with the record, or lets nobody in."""
SILENT_SINCE = 17
SHOWN = 20
"""Damaged members that are named; a count tells of the rest."""


def quiet(major: int) -> Mapping[str, str]:
    """The settings of a server of this major version that is restored here."""
    return {**QUIET, **SILENT} if major >= SILENT_SINCE else QUIET


def silent(dsn: str, major: int) -> str:
    """A connection string of a superuser to a server that is not ours, with the same said of event triggers."""
    if major < SILENT_SINCE:
        return dsn
    given = str(conninfo_to_dict(dsn).get("options") or "")
    return make_conninfo(dsn, options=" ".join([given, *(f"-c {name}={value}" for name, value in SILENT.items())]).strip())


class DamagedMembers(Damaged):
    """Members that are not there, or not what was written; `problems` has a sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__("; ".join(self.problems[:SHOWN]) + more, hint="Use another snapshot.")


class Laps:
    """Seconds by phase; `now` is the phase that is under way, or was when it failed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.now = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.now = name
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where in time to stop: at most one is given. `at` is RFC 3339, `lsn` as PostgreSQL writes it. Physical engines only.

    With `before`, what was committed at the very moment of `at` is left out. `timeline` where another than the newest is meant.
    """

    at: str = ""
    lsn: str = ""
    before: bool = False
    timeline: int = 0

    def __bool__(self) -> bool:
        return bool(self.at or self.lsn)

    def __str__(self) -> str:
        return self.at or self.lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One snapshot to restore into a new cluster. `cluster` is the folder for it, which is not there yet; the account that runs
    servers may write in the folder above. `work` is private, and gone afterwards. `settings` come on top of `QUIET`.

    `repository` and `trusted` are for what a snapshot needs besides itself: parents and WAL. With `tables` (`schema.name`) they
    alone are wanted, which logical snapshots can. `plan` says how to reach what another tool keeps of it.
    """

    reader: Reader
    repository: Repository
    trusted: Mapping[str, bytes] = field(repr=False)
    identities: Sequence[sealing.Identity] = field(repr=False)
    record: Record
    binaries: Binaries
    cluster: Path
    work: Work
    settings: Mapping[str, str]
    jobs: int
    progress: Progress
    laps: Laps
    goal: Goal = field(default_factory=Goal)
    tables: tuple[str, ...] = ()
    plan: BackupConfig | None = None


def _nothing() -> None:
    """Most engines leave nothing to tidy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A restored server that runs, tethered to this process, and takes writes. `checks` are those that only the engine can make,
    such as that the replay reached its goal; each is part of a drill's verdict. `reached` is the time (RFC 3339) of the newest
    data in it, where that is not the moment of the snapshot; `archived_until` the newest moment that the WAL archive has. `tidy`
    makes a data folder for use of what was one for looking at: call it when the server has stopped.
    """

    cluster: Cluster
    checks: tuple[Check, ...] = ()
    reached: str = ""
    archived_until: str = ""
    tidy: Callable[[], None] = _nothing


class Restorer(Protocol):
    """How the snapshots of one engine become a server.

    `restore` runs the phases `download` (fetch and open every member: raises DamagedMembers, WrongKey), `start` and `restore`
    inside `order.laps.phase(…)`. What it raises leaves `order.cluster` to be thrown away; a server that it started is stopped.
    """

    name: str

    def restore(self, order: Order) -> Standing:
        """Raises BackupError, ClusterError."""
        ...


def restorers() -> Mapping[str, Callable[[], Restorer]]:
    """By the name of the engine."""
    from dbshield.backup.pgbackrest_restore import PgBackRestRestorer  # noqa: PLC0415  (they need this module)
    from dbshield.backup.restore_logical import LogicalRestorer  # noqa: PLC0415
    from dbshield.backup.restore_physical import PhysicalRestorer  # noqa: PLC0415

    return {"logical": LogicalRestorer, "physical": PhysicalRestorer, "pgbackrest": PgBackRestRestorer}


def restorer_of(manifest: Manifest) -> Restorer:
    known = restorers()
    if manifest.engine not in known:
        raise BackupError(
            f"{manifest.snapshot} is of the engine {manifest.engine}, which this dbshield cannot restore",
            hint="Restore it with the engine's own tools.",
        )
    return known[manifest.engine]()


# Which snapshot --------------------------------------------------------------------------------------------------------------


def chosen(catalogue: Catalogue, config: Config, *, snapshot: str | None, environment: str | None, plan: str | None) -> Snapshot:
    """The snapshot that is meant: the newest complete one without an id. Raises BackupError, ConfigError."""
    if snapshot is not None and snapshot != "latest":
        found = catalogue.get(snapshot)
        if environment is not None and found.environment != environment:
            raise BackupError(f"{found.id} is a snapshot of {found.environment}, not of {environment}")
    else:
        found = catalogue.newest(environment_of(config, environment, plan), plan=plan)
    if found.state != "complete":
        raise BackupError(f"the snapshot {found.id} is {found.state}, so there is nothing to restore")
    if found.pruned_at is not None:
        raise BackupError(f"the snapshot {found.id} was pruned", hint="`dbshield backup list` shows those that are there.")
    return found


def environment_of(config: Config, environment: str | None, plan: str | None) -> str:
    """The environment that is meant: named, of the plan, or the only one with a plan of backups."""
    if environment is not None:
        return environment
    plans = {name: each for name, each in config.backup.items() if plan is None or name == plan}
    there = sorted({each.environment or name for name, each in plans.items()})
    if len(there) != 1:
        raise ConfigError(
            "there are backups of several environments" if there else "there is no such plan of backups",
            hint=f"Name one with --environment: {', '.join(there)}." if there else "Add [backup.NAME] to dbshield.toml.",
        )
    return there[0]


def place_of(config: Config, found: Snapshot) -> Repository:
    """The destination of a snapshot, with the credentials of its plan or of another one that goes there."""
    plans = [config.backup[found.plan]] if found.plan in config.backup else []
    for plan in (*plans, *config.backup.values()):
        if plan.destination == found.destination:
            if plan.folder is not None and not plan.folder.is_dir():
                # Not the same as a snapshot that is gone: the disk may not be there.
                raise BackupError(f"the destination {plan.folder} is not there", hint="Mount it.")
            return Repository.of(plan)
    raise ConfigError(
        f"{found.id} is at {found.destination}, and no plan of backups goes there",
        hint="Add one to dbshield.toml, for its credentials.",
    )


def opened(repository: Repository, found: Snapshot, trusted: Mapping[str, bytes]) -> Reader:
    """The snapshot at its destination, whose manifest is the one that the catalogue knows. Raises Absent, Damaged."""
    reader = repository.open(found.environment, found.id, trusted, sha256=found.manifest_sha256)
    if found.manifest_sha256 is not None and not hmac.compare_digest(found.manifest_sha256, reader.manifest.sha256()):
        raise Damaged(f"the manifest of {found.id} is not the one that the catalogue knows", hint="Use another snapshot.")
    return reader


def identities_for(manifest: Manifest, file: Path | None) -> tuple[sealing.Identity, ...]:
    """What opens the snapshot. Raises ConfigError where nothing was given and something is needed."""
    if not manifest.encrypted:
        return ()
    if file is None:
        raise ConfigError(
            f"{manifest.snapshot} is sealed, and no identity was given", hint="Name its file with --identity-file FILE."
        )
    return sealing.identities(file)


def kept_record(reader: Reader, identities: Sequence[sealing.Identity]) -> Record:
    """What a restore has to show. Raises Absent, Damaged, WrongKey."""
    return record.parse(reader.read(RECORD, identities))


def server_binaries(manifest: Manifest, folder: Path | None) -> Binaries:
    """The programs of the snapshot's major version, the server's among them. Raises BackupError, ClusterError."""
    major = manifest.server.version // 10000
    return binaries_in(programs(major, folder).folder, major=major)


def fetch(
    reader: Reader,
    identities: Sequence[sealing.Identity],
    folder: Path,
    progress: Progress,
    *,
    only: tuple[str, ...] | None = None,
) -> None:
    """Every member, opened, below `folder`; with `only` those of these names, or below these that end with `/`.

    Nothing in it is used before all of it is right.

    Raises DamagedMembers, with all of them, WrongKey, and BackupError where the destination or this disk fails.
    """
    problems: list[str] = []
    members = [member for member in reader.manifest.members if only is None or _is_one(member.name, only)]
    progress.step("download", sum(member.stored for member in members))
    for member in members:
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            reader.extract_file(member.name, path, identities)
        except WrongKey:
            raise
        except (Absent, Damaged) as error:
            problems.append(error.message)
        progress.advance(member.stored)
    if problems:
        raise DamagedMembers(problems)


def _is_one(name: str, only: tuple[str, ...]) -> bool:
    return any(name == each or (each.endswith("/") and name.startswith(each)) for each in only)
