"""The drill: a snapshot restored into a throwaway cluster, checked, timed, signed and recorded.

Laws:
- Three ends. `passed`: every check that a restore cannot be believed without was made and found nothing. `failed`: the snapshot
  is bad, page somebody. `error`: no verdict; the machine, the key or the destination is at fault, and nothing was proved.
- The cluster listens on a socket in a private folder and nowhere else, archives nothing, and does not outlive the drill.
- The verdict is what was measured here. No exit code of a program that starts servers is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dbshield.backup import checks_assertions, checks_programs, checks_sql, prepared
from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.checks import MOMENT, Check, Found, NoVerdict, Outcome, Verdict, checked, failure, verdict_of
from dbshield.backup.drill_place import cluster_folder, drill_base, drill_place, keep
from dbshield.backup.drill_store import Drill, Drills
from dbshield.backup.engine import Progress
from dbshield.backup.keys import Signature, SigningKey
from dbshield.backup.logical import measured
from dbshield.backup.reader import Reader
from dbshield.backup.record import DatabaseRecord, Record
from dbshield.backup.repository import Repository
from dbshield.backup.restore import (
    Goal,
    Laps,
    Order,
    Standing,
    chosen,
    environment_of,
    identities_for,
    kept_record,
    opened,
    place_of,
    restorer_of,
    server_binaries,
)
from dbshield.backup.restore_logical import Target
from dbshield.backup.run import key_file, work_base
from dbshield.backup.source import Source
from dbshield.backup.wal_restore import newest_before
from dbshield.backup.wal_window import random_moment
from dbshield.backup.work import work_folder
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, DbshieldError
from dbshield.store.database import Database

SKEW = timedelta(seconds=10)
"""How far the clocks of this machine and of the protected server may be apart before times say nothing."""
NAMED = 5
"""Objects that something lies over which a record names; a count tells of the rest."""
NAMES = {"": "start", "download": "members", "start": "start", "restore": "restored"}
"""The check that a phase of the restore is."""
RESTORING = ("download", "start", "restore")
"""Phases until there is a server to use; the checks come on top in a drill alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be drilled, and how. `settings` are PostgreSQL's, for the throwaway cluster.

    With a `goal`, or a random one of the WAL archive (`random_point`), what stands there is looked at, and nothing is compared
    with the snapshot's record.
    """

    snapshot: str | None = None
    environment: str | None = None
    plan: str | None = None
    identity: Path | None = None
    assertions: Path | None = None
    keep: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    goal: Goal = field(default_factory=Goal)
    random_point: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilled:
    """A drill that has ended. `evidence` is the folder of the cluster where it was kept; `rpo_from` says what RPO counts from."""

    drill: Drill
    signature: Signature
    snapshot: Snapshot
    server_version: int
    rpo_from: str
    evidence: Path | None
    covered: tuple[str, ...] = ()
    """What lies over something that was read at the destination; what was written was there all the same."""

    @property
    def rto_seconds(self) -> float:
        """Seconds until there was a server to use."""
        return round(sum(self.drill.rto.get(name, 0.0) for name in RESTORING), 3)


def run_drill(config: Config, wish: Wish, database: Database, *, clock: Callable[[], datetime], progress: Progress) -> Drilled:
    """Drill one snapshot. `clock` gives the time, with a zone. The caller records what comes out (`record_drill`).

    Raises:
        BackupError, ConfigError, StoreError: there is nothing to drill, or no key to open it or to sign the drill with.
    """
    catalogue = Catalogue(database)
    key = SigningKey.load(key_file(config))
    if key.name not in catalogue.trusted():
        raise BackupError(
            f"the control database does not know the signing key {key.name}", hint="`dbshield backup key` makes it known."
        )
    if wish.random_point:
        wish = replace(wish, goal=random_moment(config, database, environment=wish.environment, plan=wish.plan))
    if wish.goal and wish.snapshot in {None, "latest"}:
        found = newest_before(catalogue, environment_of(config, wish.environment, wish.plan), wish.plan, wish.goal)
    else:
        found = chosen(catalogue, config, snapshot=wish.snapshot, environment=wish.environment, plan=wish.plan)
    run = _Run(config, wish, catalogue, found, progress=progress)
    began, begin = clock(), time.monotonic()
    run.all()
    elapsed = timedelta(seconds=time.monotonic() - begin)
    run.times(began, elapsed, clock())
    rpo = max(0.0, round((began - run.newest).total_seconds(), 3)) if run.newest is not None and not run.doubtful else None
    drill = Drill(
        snapshot=found.id,
        began=began,
        ended=began + elapsed,
        verdict=str(verdict_of(run.checks)),
        checks=[check.tree() for check in run.checks],
        rpo_seconds=rpo,
        rto={name: round(seconds, 3) for name, seconds in run.laps.seconds.items()},
    )
    return Drilled(
        drill=drill,
        signature=drill.sign(key),
        snapshot=found,
        server_version=found.server_version or 0,
        rpo_from=run.newest_from,
        evidence=run.evidence,
        covered=run.covered,
    )


def record_drill(database: Database, drilled: Drilled, *, report: Path | None) -> int:
    """Keep a drill in the control database; its number there. Raises StoreError."""
    return Drills(database).add(drilled.drill, drilled.signature, report=str(report) if report is not None else None)


class _Run:
    """One drill under way: what it has found so far."""

    def __init__(self, config: Config, wish: Wish, catalogue: Catalogue, found: Snapshot, *, progress: Progress) -> None:
        self._config = config
        self._wish = wish
        self._catalogue = catalogue
        self._found = found
        self._trusted = catalogue.trusted()
        self._progress = progress
        self._plan: BackupConfig | None = config.backup.get(found.plan)
        self._reader: Reader | None = None
        self._repository: Repository | None = None
        self.checks: list[Check] = []
        self.laps = Laps()
        self.newest: datetime | None = None
        """The moment that a restore of the snapshot brings back."""
        self.newest_from = ""
        self.doubtful = False
        """Whether the times are not to be believed."""
        self.evidence: Path | None = None

    @property
    def covered(self) -> tuple[str, ...]:
        return self._repository.covered() if self._repository is not None else ()

    # In order ---------------------------------------------------------------------------------------------------------------

    def all(self) -> None:
        """Every check that can be made, in order."""
        if self._wish.goal:
            measure = f"{self._wish.goal}, from {self._found.id} and the WAL after it"
            self.checks.append(Check(name=MOMENT, outcome=Outcome.PASSED, measure=measure))
        self._check("manifest", self._manifest)
        if self._reader is None or self._repository is None:
            return
        identity = self._wish.identity or (self._plan.identity_file if self._plan is not None else None)
        identities = identities_for(self._reader.manifest, identity)
        with self.laps.phase("download"):
            try:
                record = kept_record(self._reader, identities)
            except DbshieldError as error:
                self.checks.append(failure("members", error))
                return
        self._moment(record)
        try:
            binaries = server_binaries(self._reader.manifest, self._plan.binaries if self._plan is not None else None)
            base = drill_base(self._config, self._plan)
            work = work_base(self._config, self._plan) if self._plan is not None else self._config.state / "backup"
            with drill_place(base) as place, work_folder(work) as private:
                order = Order(
                    reader=self._reader,
                    repository=self._repository,
                    trusted=self._trusted,
                    identities=identities,
                    record=record,
                    binaries=binaries,
                    cluster=cluster_folder(place),
                    work=private,
                    settings=self._wish.settings,
                    jobs=self._plan.jobs if self._plan is not None else 1,
                    progress=self._progress,
                    laps=self.laps,
                    goal=self._wish.goal,
                    plan=self._plan,
                )
                self._cluster(order)
                if self._wish.keep or verdict_of(self.checks) is Verdict.FAILED:
                    name = f"{self._found.id}-{datetime.now(UTC):%Y%m%dt%H%M%Sz}"
                    self.evidence = keep(order.cluster, base, name)
        except (DbshieldError, OSError) as error:
            # Whatever is wrong here is wrong with this machine.
            self.checks.append(
                Check(name="machine", outcome=Outcome.ERROR, measure="it did not end", problems=(_sentence(error),))
            )

    def _manifest(self) -> Found:
        self._repository = place_of(self._config, self._found)
        reader = opened(self._repository, self._found, self._trusted)
        self._reader = reader
        return Found(measure=f"signed by {reader.signature.key}, {len(reader.manifest.members)} members")

    def _cluster(self, order: Order) -> None:
        """Restore it, look at it, and stop it."""
        manifest = order.reader.manifest
        try:
            standing = restorer_of(manifest).restore(order)
        except (DbshieldError, OSError) as error:
            name = NAMES.get(self.laps.now, "restored")
            if name == "restored":
                self.checks.append(self._members(order))
            log = order.cluster / "server.log" if name == "restored" else None
            self.checks.append(failure(name, error, log=log, seconds=self.laps.seconds.get(self.laps.now, 0.0)))
            return
        seconds = sum(self.laps.seconds.get(name, 0.0) for name in ("start", "restore"))
        self.checks += [
            self._members(order),
            *standing.checks,
            Check(
                name="restored",
                outcome=Outcome.PASSED,
                measure=f"{len(order.record.databases)} databases, PostgreSQL {order.binaries.major}.{order.binaries.minor}",
                seconds=seconds,
            ),
        ]
        if standing.archived_until:
            self.newest, self.newest_from = datetime.fromisoformat(standing.archived_until), "archive"
        elif standing.reached:
            self.newest, self.newest_from = datetime.fromisoformat(standing.reached), "replay"
        with self.laps.phase("checks"):
            try:
                self._examine(order, standing)
            finally:
                standing.cluster.stop("fast")
            self._check("page-checksums", lambda: checks_programs.page_checksums(standing.cluster))

    def _members(self, order: Order) -> Check:
        manifest = order.reader.manifest
        measure = f"{len(manifest.members)} members, {manifest.stored} bytes as they were written, {manifest.size} opened"
        if self.covered:
            # The snapshot is whole, so this is no failure; who reads the record in a year is to see it all the same.
            more = f", and {len(self.covered) - NAMED} more" if len(self.covered) > NAMED else ""
            measure += f", by what Object Lock kept: {'; '.join(self.covered[:NAMED])}{more}"
        return Check(
            name="members",
            outcome=Outcome.PASSED,
            measure=measure,
            seconds=self.laps.seconds.get("download", 0.0),
        )

    def _examine(self, order: Order, standing: Standing) -> None:
        """The questions to the running server. amcheck comes last: it installs an extension."""
        record, jobs = order.record, order.jobs
        source = Source(base=standing.cluster.dsn(), databases=())
        target = Target(source=source, programs=order.binaries, work=order.work)
        log = standing.cluster.log
        found: list[DatabaseRecord] = []

        def rows() -> Found:
            found.extend(measured(source, database.name, jobs=jobs, like=database) for database in record.databases)
            return checks_sql.rows(record, checks_sql.compared(record, found)[0])

        undecided = prepared.waiting(source, record)
        if undecided:
            self._check("prepared", lambda: prepared.rolled_back(source, undecided), log=log)
        if self._wish.goal:
            self._check("canary", lambda: checks_sql.canary_past(source, record), log=log)
        else:
            self._check("canary", lambda: checks_sql.canary(source, record), log=log)
            self._check("rows", rows, log=log)
            if len(found) == len(record.databases):
                self._check("content", lambda: checks_sql.content(record, checks_sql.compared(record, found)[1]))
                self._check("extensions", lambda: checks_sql.extensions(record, found))
                self._check("sequences", lambda: checks_sql.sequences(source, record, found), log=log)
            self._check("schema", lambda: checks_programs.schema(target, record, found), log=log)
            self._check("roles", lambda: checks_sql.roles(source, record), log=log)
        self._check("indexes", lambda: checks_sql.indexes(source, record), log=log)
        self._check("foreign-keys", lambda: checks_sql.foreign_keys(source, record), log=log)
        folder = self._wish.assertions or (self._plan.assertions if self._plan is not None else None)
        if folder is not None:
            self._assertions(folder, source, record, log)
        self._check("read-back", lambda: checks_programs.read_back(target, record), log=log)
        self._check("amcheck", lambda: checks_programs.amcheck(target, record, jobs=jobs), log=log)

    def _assertions(self, folder: Path, source: Source, record: Record, log: Path) -> None:
        try:
            asked = checks_assertions.read(folder, record)
        except DbshieldError as error:
            self.checks.append(failure("assertions", error))
            return
        self._progress.step("assertions", None)
        self.checks += checks_assertions.ask(source, asked, log=log)

    def _check(self, name: str, body: Callable[[], Found], *, log: Path | None = None) -> None:
        self._progress.step(name, None)
        self.checks.append(checked(name, body, log=log))

    # Times ------------------------------------------------------------------------------------------------------------------

    def _moment(self, record: Record) -> None:
        if record.canary is not None:
            self.newest, self.newest_from = datetime.fromisoformat(record.canary.before_at), "canary"
        else:
            self.newest, self.newest_from = datetime.fromisoformat(record.taken), "snapshot"

    def times(self, began: datetime, elapsed: timedelta, now: datetime) -> None:
        """Whether the clocks can be believed; without that there is no RPO, and which snapshot is the newest nobody knows."""

        def look() -> Found:
            if abs(now - began - elapsed) > SKEW:
                raise NoVerdict(f"this machine's clock was moved by {(now - began - elapsed).total_seconds():.0f} s meanwhile")
            if self.newest is not None and self.newest - began > SKEW:
                ahead = (self.newest - began).total_seconds()
                raise NoVerdict(f"the snapshot is of {ahead:.0f} s after this machine's now: a clock went back")
            if not self._wish.goal and self._wish.snapshot in {None, "latest"} and (later := self._overtaken()) is not None:
                raise NoVerdict(
                    f"{later} was made at a later LSN than {self._found.id}, which has the later time: a clock went back"
                )
            return Found(
                measure=f"the newest data is of {self.newest:%Y-%m-%dT%H:%M:%SZ}" if self.newest else "no times to compare"
            )

        check = checked("clock", look)
        self.doubtful = check.outcome is not Outcome.PASSED
        self.checks.append(check)

    def _overtaken(self) -> str | None:
        """Another whole snapshot of the same server whose LSN is further on, although it counts as older."""
        if self._found.lsn is None:
            return None
        own, _ = self._catalogue.details(self._found.id)
        system = own["server"]["system"] if own is not None else None
        for other in self._catalogue.list(environment=self._found.environment, plan=self._found.plan, limit=1000):
            if other.state != "complete" or other.lsn is None or other.timeline != self._found.timeline:
                continue
            if _position(other.lsn) > _position(self._found.lsn):
                manifest, _ = self._catalogue.details(other.id)
                if manifest is not None and manifest["server"]["system"] == system:
                    return other.id
        return None


def _position(lsn: str) -> int:
    """Bytes, of the text that PostgreSQL writes an LSN as."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, DbshieldError) else str(error)
