"""`dbshield restore`: a snapshot to a new data folder, or into a server that has none of its databases."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.backup import keys
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.keys import key_name
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository
from dbshield.backup.restore import (
    Goal,
    chosen,
    environment_of,
    identities_for,
    kept_record,
    opened,
    place_of,
    server_binaries,
)
from dbshield.backup.restore_place import require_free
from dbshield.backup.restore_run import Done, Wanted, to_folder, to_server, with_tables
from dbshield.backup.run import plan_named, work_base
from dbshield.backup.wal_restore import is_before, newest_before
from dbshield.cli import tampered
from dbshield.cli.backup_keys import PlanOption
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import AnyEnvironmentOption, open_database, person, read_settings
from dbshield.cli.output import answer, remark, say, visible
from dbshield.cli.progress import shown
from dbshield.cli.restore_drill import IdentityFileOption, SettingOption, given_settings
from dbshield.cli.restore_goal import asked
from dbshield.cli.stopping import stoppable
from dbshield.config import BackupConfig, Config, conninfo
from dbshield.config.secret import read_secret
from dbshield.control import audit_store
from dbshield.errors import BackupError, ConfigError, DbshieldError

SnapshotOption = Annotated[
    str, typer.Option("--snapshot", "-s", metavar="ID", help='Its id or the beginning of it, or "latest".')
]
FolderOption = Annotated[
    Path | None, typer.Option("--to-folder", metavar="DIR", help="A new data folder for a server; absent or empty.")
]
ServerOption = Annotated[
    str | None, typer.Option("--to", metavar="URL", help="A server without these databases, as its superuser; no password.")
]
PasswordOption = Annotated[str, typer.Option("--password-env", metavar="VARIABLE", help="Where the password for --to is.")]
TablesOption = Annotated[
    list[str] | None,
    typer.Option("--table", "-t", metavar="SCHEMA.TABLE", help="The rows of this table alone; may be repeated."),
]
AtOption = Annotated[
    str, typer.Option("--at", metavar="TIME", help="The moment to restore, by the protected server's clock: needs the WAL.")
]
LsnOption = Annotated[str, typer.Option("--lsn", metavar="LSN", help="The place in the WAL to restore up to.")]
BeforeOption = Annotated[
    int | None, typer.Option("--before", metavar="AUDIT_ID", min=1, help="The moment before an entry of the audit.")
]
TimelineOption = Annotated[
    int, typer.Option("--timeline", metavar="N", min=0, help="The timeline to follow; else the newest.", show_default=False)
]
PublicKeyOption = Annotated[
    str, typer.Option("--public-key", metavar="TEXT", help="Restore without the control database: who signed the snapshot.")
]
CompareOption = Annotated[
    bool, typer.Option("--compare/--no-compare", help="Count and fingerprint what was restored before it gets its name.")
]


def restore(
    *,
    snapshot: SnapshotOption = "latest",
    folder: FolderOption = None,
    to: ServerOption = None,
    password_env: PasswordOption = "",
    identity: IdentityFileOption = None,
    table: TablesOption = None,
    at: AtOption = "",
    lsn: LsnOption = "",
    before: BeforeOption = None,
    timeline: TimelineOption = 0,
    environment: AnyEnvironmentOption = None,
    plan: PlanOption = None,
    public_key: PublicKeyOption = "",
    setting: SettingOption = None,
    compare: CompareOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a snapshot to a new data folder (--to-folder) or into a running server (--to). Nothing is ever written over.

    Until all of it is there it has another name; what fails or is killed leaves nothing that could be taken for it. With --table
    the database is called NAME_partial. Exit code 0: restored; 2: not, with the reason.

    With --at, --lsn or --before the WAL archive of the plan (`dbshield backup wal`) leads on from the newest physical snapshot
    that ended before that moment.

    \b
    Examples:
      dbshield restore --to-folder /srv/restored/15 --identity-file /media/key/identity.txt
      dbshield restore --before 48211 --to-folder /srv/restored/15 --identity-file /media/key/identity.txt
      dbshield restore --at 2026-05-01T12:00:00Z --to-folder /srv/restored/15 --identity-file /media/key/identity.txt
      dbshield restore --snapshot 20260501t1200 --to postgresql://postgres@new.example.com -i identity.txt --table public.orders
      dbshield restore --public-key dbshield-backup-public-1:Zk2… --plan nightly --to-folder /srv/restored -i identity.txt
    """
    dsn = _target(folder, to, password_env)
    settings = read_settings(config)
    wanted_moment = asked(settings, at=at, lsn=lsn, before=before, timeline=timeline)
    with stoppable(), shown(quiet=json) as progress:
        place, goal = environment or wanted_moment.environment, wanted_moment.goal
        found = _found(settings, snapshot, place, plan, public_key=public_key, goal=goal)
        try:
            wanted = _wanted(
                settings, *found, identity=identity, tables=tuple(table or ()), compare=compare, goal=goal, given=setting
            )
            done = (
                to_folder(wanted, folder, progress=progress) if folder is not None else to_server(wanted, dsn, progress=progress)
            )
        finally:
            # Whatever became of it.
            covered = _covered(settings, *found[:2], audited=not public_key)
    target = str(folder.absolute()) if folder is not None else _shown(dsn)
    if not public_key:
        _noted(settings, wanted.reader, target)
    if wanted_moment.remark and not json:
        remark(f"remark: {wanted_moment.remark}")
    _tell(wanted.reader, done, target, covered, goal=goal, in_folder=folder is not None, compared=compare, json=json)


def _target(folder: Path | None, to: str | None, variable: str) -> str:
    """The connection string of --to with its password, empty for a folder, which has to be free. Raises ConfigError unless it is
    one of the two."""
    if (folder is None) == (to is None):
        raise ConfigError("say where to, once", hint="Give --to-folder DIR or --to URL.")
    if folder is not None:
        require_free(folder.absolute())
    if to is None:
        if variable:
            raise ConfigError("--password-env is for --to")
        return ""
    try:
        conninfo.to_upstream(to)
    except ValueError as error:
        raise ConfigError(f"--to {error}") from None
    if conninfo.password(to) is not None:
        raise ConfigError("--to holds a password", hint="Use --password-env VARIABLE, PGPASSWORD or a .pgpass file.")
    return conninfo.with_password(to, read_secret("--password-env", file=None, variable=variable))


def _shown(dsn: str) -> str:
    server = conninfo.to_upstream(dsn)
    return f"{server.host}:{server.port}"


def _found(
    settings: Config, snapshot: str, environment: str | None, plan: str | None, *, public_key: str, goal: Goal
) -> tuple[Reader, Repository, dict[str, bytes], BackupConfig | None]:
    """The snapshot, opened: by the catalogue, or where the control database is lost by the public key alone."""
    if not public_key:
        with open_database(settings) as database:
            catalogue = Catalogue(database)
            trusted = dict(catalogue.trusted())
            if goal and snapshot == "latest":
                found = newest_before(catalogue, environment_of(settings, environment, plan), plan, goal)
            else:
                found = chosen(catalogue, settings, snapshot=snapshot, environment=environment, plan=plan)
        repository = place_of(settings, found)
        return opened(repository, found, trusted), repository, trusted, settings.backup.get(found.plan)
    public = keys.public_key(public_key)
    name, chosen_plan = plan_named(settings, plan)
    repository = Repository.of(chosen_plan)
    where = environment or chosen_plan.environment or environment_of(settings, None, name)
    there = [each.snapshot for each in repository.list(where) if each.complete]
    fitting = [each for each in there if snapshot == "latest" or each.startswith(snapshot)]
    if not fitting or (snapshot != "latest" and len(fitting) > 1):
        raise BackupError(
            f'"{snapshot}" is {"no snapshot" if not fitting else "the beginning of several snapshots"} of {where}'
            f" at {repository.store.place}",
            hint=f"There are: {', '.join(there[-5:])}." if there else "Look at --plan and --environment.",
        )
    trusted = {key_name(public): public}
    for each in reversed(fitting):
        reader = repository.open(where, each, trusted)
        manifest = reader.manifest
        ended = datetime.fromisoformat(manifest.ended)
        if not goal or snapshot != "latest" or is_before(goal, ended=ended, lsn=manifest.server.lsn):
            return reader, repository, trusted, chosen_plan
    raise BackupError(
        f"no snapshot of {where} at {repository.store.place} ended before {goal}",
        hint="WAL leads onward, never back.",
    )


def _wanted(
    settings: Config,
    reader: Reader,
    repository: Repository,
    trusted: dict[str, bytes],
    plan: BackupConfig | None,
    *,
    identity: Path | None,
    tables: tuple[str, ...],
    compare: bool,
    goal: Goal,
    given: list[str] | None,
) -> Wanted:
    """What is to be restored, with what the plan says where there is one."""
    identities = identities_for(reader.manifest, identity or (plan.identity_file if plan else None))
    return Wanted(
        reader=reader,
        repository=repository,
        trusted=trusted,
        identities=identities,
        record=with_tables(kept_record(reader, identities), tables),
        binaries=server_binaries(reader.manifest, plan.binaries if plan else None),
        work=work_base(settings, plan) if plan else settings.state / "backup",
        jobs=plan.jobs if plan else 1,
        compare=compare,
        tables=tables,
        goal=goal,
        settings=given_settings(given),
        plan=plan,
    )


def _covered(settings: Config, reader: Reader, repository: Repository, *, audited: bool) -> tuple[str, ...]:
    """What lies over what was read, told; and written into the audit where the control database is not what was lost."""
    covered, manifest = repository.covered(), reader.manifest
    where = {"environment": manifest.environment, "plan": manifest.plan, "snapshot": manifest.snapshot}
    if covered and audited:
        with open_database(settings) as database:
            tampered.tell(covered, database, **where)
    else:
        tampered.tell(covered, None, **where)
    return covered


def _noted(settings: Config, reader: Reader, where: str) -> None:
    """Write it into the audit. What was restored stays so when that fails."""
    manifest = reader.manifest
    try:
        with open_database(settings) as database:
            audit_store.record(
                database,
                kind="restore",
                person=person(),
                environment=manifest.environment,
                snapshot=manifest.snapshot,
                target=where,
            )
    except DbshieldError as error:
        remark(f"remark: the audit could not be written: {error.message}")


def _tell(
    reader: Reader,
    done: Done,
    where: str,
    covered: tuple[str, ...],
    *,
    goal: Goal,
    in_folder: bool,
    compared: bool,
    json: bool,
) -> None:
    manifest = reader.manifest
    seconds = {name: round(each, 3) for name, each in done.seconds.items()}
    if json:
        told: dict[str, Any] = {
            "snapshot": manifest.snapshot,
            "environment": manifest.environment,
            "engine": manifest.engine,
            "target": where,
            "databases": done.databases,
            "tables_compared": done.compared,
            "goal": str(goal) or None,
            "reached": done.reached or None,
            "archived_until": done.archived_until or None,
            "covered": covered,
            "seconds": seconds,
        }
        answer(told)
        return
    names = ", ".join(visible(name) for name in done.databases)
    if goal:
        say(
            f"{manifest.snapshot} and its WAL: {names} at {where}, as before {goal}"
            if goal.before
            else f"{manifest.snapshot} and its WAL: {names} at {where}, as of {goal}"
        )
        say(f"The newest transaction in it is of {done.reached or 'before the snapshot'}.")
    else:
        if not compared:
            remark("remark: what was restored was not compared with what was backed up")
        say(f"{manifest.snapshot}: {names} at {where}; {done.compared} tables are as they were backed up")
    say(", ".join(f"{name} {each:.1f} s" for name, each in seconds.items()))
    if in_folder:
        major = manifest.server.version // 10000
        say(f"Start it with PostgreSQL {major}: pg_ctl -D {where} start. Look at pg_hba.conf and postgresql.conf first.")
