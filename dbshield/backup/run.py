"""One backup, from the lock to the catalogue. Whatever goes wrong on the way, nothing counts as a snapshot that is not whole."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dbshield
from dbshield.backup import chain, destination, look, manifest
from dbshield.backup.binaries import programs
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.engine import Engine, Progress, Taken, Task
from dbshield.backup.keys import Signature, SigningKey
from dbshield.backup.logical import Logical
from dbshield.backup.manifest import RECORD, Manifest, Member
from dbshield.backup.pgbackrest import PgBackRest
from dbshield.backup.pgbackrest_engine import PgBackRestEngine, check_repository
from dbshield.backup.physical import Physical
from dbshield.backup.record import Record
from dbshield.backup.repository import Repository, Writer
from dbshield.backup.source import Source, told
from dbshield.backup.store import Holding
from dbshield.backup.work import Work, work_folder
from dbshield.cluster import Binaries
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, ConfigError, DbshieldError, StoreError
from dbshield.store.database import Database

ENGINES: dict[str, Callable[[], Engine]] = {"logical": Logical, "physical": Physical, "pgbackrest": PgBackRestEngine}
"""By the name in the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A snapshot that was made. `interrupted` are earlier ones whose makers had died, failed since this one began.

    `why_full` says why one that should be incremental is not.
    """

    manifest: Manifest
    record: Record
    signature: Signature
    seconds: float
    interrupted: tuple[str, ...]
    why_full: str = ""


def key_file(config: Config) -> Path:
    """The key that signs manifests and drills on this machine."""
    return config.state / "backup.key"


def work_base(config: Config, plan: BackupConfig) -> Path:
    """Where folders for what is under way are made."""
    return plan.work or config.state / "backup"


def plan_named(config: Config, name: str | None) -> tuple[str, BackupConfig]:
    """The plan of a name; without one, the only plan. Raises ConfigError."""
    if name is None and len(config.backup) == 1:
        name = next(iter(config.backup))
    if name is None:
        raise ConfigError(
            "there are several plans of backups" if config.backup else "there is no plan of backups",
            hint=f"Name one with --plan: {', '.join(config.backup)}." if config.backup else "Add [backup.NAME] to dbshield.toml.",
        )
    if name not in config.backup:
        raise ConfigError(f'there is no plan of backups "{name}"', hint=f"There are: {', '.join(config.backup) or 'none'}.")
    return name, config.backup[name]


def take(config: Config, name: str, database: Database, *, clock: Callable[[], datetime], progress: Progress) -> Made:
    """Make one snapshot of a plan now. `clock` gives the time, with a zone.

    Raises:
        Refused: the destination is not safe, or another backup of the plan runs.
        BackupError: it came to nothing; the catalogue says why, and nothing counts as a snapshot.
        ConfigError: the plan, its keys or its passwords are not usable.
    """
    plan = config.backup[name]
    environment = plan.environment or name
    catalogue = Catalogue(database)
    key = _signing_key(config, catalogue)
    source = Source.of(plan, config.environments[environment])
    repository = Repository.of(plan)
    began = clock()
    with catalogue.alone(environment, name, began) as interrupted:
        tools = _checked(config, plan, environment, source, catalogue)
        if isinstance(repository.store, Holding):
            repository.store.require_lock()
        upon = _upon(config, name, source, catalogue, repository)
        for dead in interrupted:
            # Where that is not allowed it stays, and is no snapshot all the same.
            with contextlib.suppress(BackupError):
                repository.remove(environment, dead)
        writer = repository.begin(environment, began, recipients=plan.encrypt_to, level=plan.compression_level)
        engine = ENGINES[plan.engine]()
        try:
            catalogue.begin(
                writer.snapshot,
                environment=environment,
                plan=name,
                engine=engine.name,
                kind=engine.kind if upon.parent is None else chain.INCREMENTAL,
                destination=plan.destination,
                now=began,
            )
            with work_folder(work_base(config, plan)) as work:
                taken = engine.back_up(_task(plan, source, writer, catalogue, upon, programs=tools, work=work, progress=progress))
            repository.hold_again(environment, upon.members)
            made, signature = _finish(writer, taken, engine, key, plan=name, began=began, clock=clock, tools=tools)
        except BaseException as error:
            _undo(writer, catalogue, error, clock())
            raise
        _complete(catalogue, made, signature, taken.record, place=repository.store.place, now=clock())
        if plan.incremental:
            # Without it the next one is full, and says why.
            with contextlib.suppress(BackupError):
                chain.keep(config.state, name, made.snapshot, taken.backup_manifest)
    seconds = (clock() - began).total_seconds()
    return Made(
        manifest=made, record=taken.record, signature=signature, seconds=seconds, interrupted=interrupted, why_full=upon.why
    )


def _signing_key(config: Config, catalogue: Catalogue) -> SigningKey:
    key = SigningKey.load(key_file(config))
    if key.name not in catalogue.trusted():
        raise BackupError(
            f"the control database does not know the signing key {key.name}", hint="`dbshield backup key` makes it known."
        )
    return key


def _checked(config: Config, plan: BackupConfig, environment: str, source: Source, catalogue: Catalogue) -> Binaries:
    """Look at the server and at the destination before anything is written; the programs of the server's version."""
    if not source.databases:
        raise ConfigError(f"no database of {environment} is named", hint="Name one in databases.")
    with source.connect(source.databases[0]) as connection, told("the facts about the server"):
        server = look.server(connection)
        pinned = catalogue.pinned(environment)
        if pinned is not None and pinned != int(server.system):
            raise BackupError(
                f"another cluster answers in place of {environment}: its system identifier is {server.system}, not {pinned}",
                hint="Look at source. A backup of the wrong database is none.",
            )
        destination.check(plan, config.state, source.server(), connection)
        if plan.engine == PgBackRestEngine.name:
            with work_folder(work_base(config, plan)) as work:
                check_repository(plan, PgBackRest(plan, work), config.state, source.server(), connection)
    return programs(server.version // 10000, plan.binaries)


def _upon(config: Config, name: str, source: Source, catalogue: Catalogue, repository: Repository) -> chain.Upon:
    """What the snapshot is made upon, where the plan wants incremental ones."""
    plan = config.backup[name]
    if not plan.incremental:
        return chain.Upon()
    with source.connect(source.databases[0]) as connection, told("what the snapshot is made upon"):
        return chain.next_upon(name, plan, state=config.state, catalogue=catalogue, repository=repository, connection=connection)


def _task(
    plan: BackupConfig,
    source: Source,
    writer: Writer,
    catalogue: Catalogue,
    upon: chain.Upon,
    *,
    programs: Binaries,
    work: Work,
    progress: Progress,
) -> Task:
    """What the engine is to do, by the plan."""
    return Task(
        plan=plan,
        source=source,
        writer=writer,
        programs=programs,
        work=work,
        progress=progress,
        jobs=plan.jobs,
        fingerprint_max_bytes=plan.fingerprint_max_bytes,
        known=catalogue.has,
        parent=upon.parent,
    )


def _finish(
    writer: Writer,
    taken: Taken,
    engine: Engine,
    key: SigningKey,
    *,
    plan: str,
    began: datetime,
    clock: Callable[[], datetime],
    tools: Binaries,
) -> tuple[Manifest, Signature]:
    """Add the record, then sign and write the manifest, which makes it a snapshot."""
    writer.add(RECORD, io.BytesIO(taken.record.text()))

    def facts(members: tuple[Member, ...]) -> Manifest:
        return Manifest(
            snapshot=writer.snapshot,
            environment=writer.environment,
            plan=plan,
            engine=engine.name,
            kind=taken.kind or engine.kind,
            parent=taken.parent,
            began=manifest.moment(began),
            ended=manifest.moment(clock()),
            server=taken.server,
            recipients=writer.recipients,
            programs=f"{tools.major}.{tools.minor}",
            dbshield=dbshield.__version__,
            members=members,
            outside=taken.outside,
        )

    return writer.finish(facts, key)


def _complete(catalogue: Catalogue, made: Manifest, signature: Signature, record: Record, *, place: str, now: datetime) -> None:
    """Write the snapshot into the catalogue. It can be restored, so it is not thrown away where the catalogue does not answer."""
    try:
        catalogue.complete(made, signature, record, now=now)
    except StoreError as error:
        raise BackupError(
            f"the snapshot {made.snapshot} is whole at {place}, and the catalogue does not know it: {error.message}",
            hint="Make another one when the control database answers.",
        ) from error


def _undo(writer: Writer, catalogue: Catalogue, error: BaseException, now: datetime) -> None:
    """Remove what was written and say in the catalogue what became of it, as far as either answers."""
    left = writer.abandon()
    if isinstance(error, DbshieldError):
        reason = error.message
    elif isinstance(error, Exception):
        reason = type(error).__name__
    else:
        reason = "stopped by a signal"
    with contextlib.suppress(DbshieldError):
        catalogue.fail(writer.snapshot, f"{reason}; what was written is still there: {left}" if left else reason, now=now)
