"""`dbshield backup`: a snapshot now, what there is, and whether it is still what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbshield.backup import sealing
from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.pgbackrest import PgBackRest
from dbshield.backup.repository import Repository
from dbshield.backup.run import Made, plan_named, take, work_base
from dbshield.backup.verify import Verified, verify
from dbshield.backup.work import work_folder
from dbshield.cli import tampered
from dbshield.cli.backup_keys import PlanOption, key, setup
from dbshield.cli.backup_prune import prune
from dbshield.cli.backup_wal import wal
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, date, headline, remark, say, table, visible
from dbshield.cli.progress import shown
from dbshield.cli.stopping import stoppable
from dbshield.config import Config
from dbshield.control import audit_store
from dbshield.errors import BackupError, ConfigError, DbshieldError

if TYPE_CHECKING:
    from dbshield.store.database import Database

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, invoke_without_command=True, help="Make a snapshot now; list, show, verify them."
)

SnapshotArgument = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id, or the beginning of it.")]
IdentityOption = Annotated[
    Path | None, typer.Option("--identity", "-i", metavar="FILE", help="The age identity, to open what is sealed.")
]


app.command("key")(key)
app.command("setup")(setup)
app.command("prune")(prune)
app.command("wal")(wal)


@app.callback()
def backup(
    context: typer.Context,
    plan: PlanOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make one snapshot of a plan now; made for cron. Exit code 0: it is whole; 1: it may not be made; 2: it came to nothing.

    \b
    Examples:
      dbshield backup
      dbshield backup --plan nightly --json
      dbshield backup list
    """
    if context.invoked_subcommand is not None:
        return
    settings = read_settings(config)
    name, chosen = plan_named(settings, plan)
    with open_database(settings) as database, stoppable(), shown(quiet=json) as progress:
        try:
            made = take(settings, name, database, clock=now, progress=progress)
        except DbshieldError as error:
            _noted(database, plan=name, environment=chosen.environment or name, outcome="failed", error=error.message)
            raise
        manifest = made.manifest
        _noted(database, plan=name, environment=manifest.environment, outcome="complete", snapshot=manifest.snapshot)
    if json:
        answer(_made_entry(made, plan=name, destination=chosen.destination))
        return
    for sentence in _remarks(made):
        remark(f"remark: {sentence}")
    say(
        f"{manifest.snapshot}: {manifest.environment}, {len(manifest.members)} objects, {_size(manifest.size_everywhere)}"
        f" in {_size(manifest.stored_everywhere)}, {made.seconds:.1f} s, to {chosen.destination}"
    )


@app.command("list")
def list_(
    environment: AnyEnvironmentOption = None,
    plan: PlanOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List snapshots, the newest first: those that are whole, those that came to nothing, those under way.

    \b
    Example:
      dbshield backup list --environment production
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        catalogue = Catalogue(database)
        found = [
            (snapshot, _state(catalogue, snapshot))
            for snapshot in catalogue.list(environment=environment, plan=plan, limit=limit)
        ]
    if json:
        answer([_entry(snapshot, state) for snapshot, state in found])
        return
    table(
        ("snapshot", "environment", "plan", "engine", "state", "began", "size", "stored", "drill"),
        [
            (
                snapshot.id,
                snapshot.environment,
                snapshot.plan,
                snapshot.engine,
                state,
                snapshot.began,
                _size(snapshot.size),
                _size(snapshot.stored),
                snapshot.drilled or "-",
            )
            for snapshot, state in found
        ],
        empty="There are none; `dbshield backup` makes one.",
    )


@app.command("show")
def show(snapshot: SnapshotArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one snapshot: what the catalogue knows, with the count of every table.

    \b
    Example:
      dbshield backup show 20260501t120000z
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        catalogue = Catalogue(database)
        found = catalogue.get(snapshot)
        state = _state(catalogue, found)
        manifest, kept = catalogue.details(found.id)
    if json:
        answer({**_entry(found, state), "manifest": manifest, "record": kept})
        return
    for name, value in _entry(found, state).items():
        if value is not None:
            say(f"{name}: {visible(date(value) if hasattr(value, 'astimezone') else str(value))}")
    if kept is not None:
        canary_row = kept["canary"]
        say(f"canary: {canary_row['before_at']}" if canary_row else f"canary: none ({visible(kept['no_canary'])})")
        say()
        table(
            ("database", "table", "rows", "content"),
            [
                (entry["name"], f"{row['schema']}.{row['name']}", "-" if row["rows"] is None else row["rows"], _content(row))
                for entry in kept["databases"]
                for row in entry["tables"]
            ],
            empty="There are no tables in it.",
        )


@app.command("verify")
def verify_(
    snapshot: SnapshotArgument,
    identity: IdentityOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Read every object of a snapshot back and compare it with the signed manifest. With an identity, open each as well.

    Exit code 0: all is as it was written; 1: something is not, with its name; 2: the destination does not answer, or the identity
    is another one. It does not prove that the snapshot restores; a drill does.

    \b
    Examples:
      dbshield backup verify 20260501t120000z-abcdefgh
      dbshield backup verify 20260501t120000z-abcdefgh --identity /media/key/identity.txt
    """
    settings = read_settings(config)
    identities = sealing.identities(identity) if identity is not None else None
    with ExitStack() as stack:
        database, progress = stack.enter_context(open_database(settings)), stack.enter_context(shown(quiet=json))
        catalogue = Catalogue(database)
        found = catalogue.get(snapshot)
        if found.state != "complete":
            raise BackupError(f"the snapshot {found.id} is {_state(catalogue, found)}, so there is nothing to verify")
        plan = settings.backup.get(found.plan)
        tool = None
        if plan is not None and plan.stanza:
            tool = PgBackRest(plan, stack.enter_context(work_folder(work_base(settings, plan))), reading=True)
        repository = _repository(settings, found)
        result = verify(
            repository,
            found.environment,
            found.id,
            catalogue.trusted(),
            sha256=found.manifest_sha256,
            identities=identities,
            progress=progress,
            elsewhere=tool.check if tool is not None else None,
            object_lock_days=plan.object_lock_days if plan is not None else 0,
        )
        covered = repository.covered()
        tampered.tell(covered, database, environment=found.environment, plan=found.plan, snapshot=found.id)
    _tell_verified(found.id, result, covered, json=json)
    if result.problems:
        raise typer.Exit(1)


def _tell_verified(snapshot: str, result: Verified, covered: tuple[str, ...], *, json: bool) -> None:
    if json:
        answer(
            {
                "snapshot": snapshot,
                "verified": not result.problems,
                "objects": result.objects,
                "stored_bytes": result.stored,
                "opened": result.opened,
                "locked_until": result.locked_until,
                "covered": covered,
                "problems": result.problems,
            }
        )
        return
    for problem in result.problems:
        headline("no", f"  {visible(problem)}")
    if not result.problems:
        how = "read and opened" if result.opened else "read; without an identity nothing was opened"
        say(f"{snapshot}: {result.objects} objects, {_size(result.stored)}, all as they were written ({how}).")
        if result.locked_until is not None:
            say(f"It is locked until {date(result.locked_until)}.")


def _repository(settings: Config, found: Snapshot) -> Repository:
    """The destination of a snapshot, with the credentials of its plan or of another one that goes there."""
    plans = [settings.backup[found.plan]] if found.plan in settings.backup else []
    for plan in (*plans, *settings.backup.values()):
        if plan.destination == found.destination:
            return Repository.of(plan)
    raise ConfigError(
        f"{found.id} is at {found.destination}, and no plan of backups goes there",
        hint="Add one to dbshield.toml, for its credentials.",
    )


def _noted(database: Database, **fields: Any) -> None:
    """Write it into the audit. A snapshot that is made stays made when that fails."""
    try:
        audit_store.record(database, kind="backup", person=person(), **fields)
    except DbshieldError as error:
        remark(f"remark: the audit could not be written: {error.message}")


def _state(catalogue: Catalogue, snapshot: Snapshot) -> str:
    """The state as it is: one whose maker has died is not under way, whatever its row says still."""
    if snapshot.pruned_at is not None:
        return "pruned"
    if snapshot.state == "running" and not catalogue.alive(snapshot):
        return "interrupted"
    return snapshot.state


def _made_entry(made: Made, *, plan: str, destination: str) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "snapshot": manifest.snapshot,
        "environment": manifest.environment,
        "plan": plan,
        "engine": manifest.engine,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "why_full": made.why_full or None,
        "destination": destination,
        "bytes": manifest.size_everywhere,
        "stored_bytes": manifest.stored_everywhere,
        "objects": len(manifest.members),
        "tables": sum(len(database.tables) for database in made.record.databases),
        "lsn": manifest.server.lsn,
        "encrypted": manifest.encrypted,
        "canary": made.record.canary is not None,
        "seconds": round(made.seconds, 3),
        "interrupted": made.interrupted,
    }


def _remarks(made: Made) -> Iterator[str]:
    """What whoever made a snapshot should know besides that it is whole."""
    for earlier in made.interrupted:
        yield f"{earlier} was interrupted, and does not count"
    if made.why_full:
        yield f"it is a full one: {made.why_full}"
    if made.record.canary is None:
        yield f"no canary was written: {made.record.no_canary}"
    if made.record.base is not None and made.record.base.inexact:
        yield f"nothing was counted, so no drill can prove it: {made.record.base.inexact}"
    yield from _sampled(made.record.databases)


def _entry(snapshot: Snapshot, state: str) -> dict[str, Any]:
    return {
        "snapshot": snapshot.id,
        "environment": snapshot.environment,
        "plan": snapshot.plan,
        "engine": snapshot.engine,
        "kind": snapshot.kind,
        "parent": snapshot.parent,
        "state": state,
        "began": snapshot.began,
        "ended": snapshot.ended,
        "error": snapshot.error,
        "destination": snapshot.destination,
        "bytes": snapshot.size,
        "stored_bytes": snapshot.stored,
        "objects": snapshot.objects,
        "lsn": snapshot.lsn,
        "server_version": snapshot.server_version,
        "drilled": snapshot.drilled,
        "signing_key": snapshot.signing_key,
    }


def _sampled(databases: Any) -> Iterator[str]:
    for database in databases:
        for row in database.tables:
            if not row.skipped and row.sample != 1:
                content = _content({"sample": row.sample, "skipped": ""})
                yield visible(f"{database.name}: {row.schema}.{row.name} is counted in full; {content}")


def _content(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return str(row["skipped"])
    if row["sample"] == 0:
        return "its content is not fingerprinted"
    return "all rows" if row["sample"] == 1 else f"one row in {row['sample']} is fingerprinted"


def _size(number: int | None) -> str:
    """For people: 1.5 GB and the like, in powers of 1000."""
    if number is None:
        return "-"
    value, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
