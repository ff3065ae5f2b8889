"""`dbshield backup prune`: remove what retention lets go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dbshield.backup.prune import Pruned, look
from dbshield.backup.prune import prune as remove
from dbshield.backup.run import plan_named
from dbshield.cli.backup_keys import PlanOption
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import open_database, person, read_settings
from dbshield.cli.output import answer, date, headline, say, table, visible
from dbshield.control import audit_store


def prune(
    plan: PlanOption = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would go and why the others stay; remove nothing.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove the snapshots of a plan that its keep_… settings let go, no more than prune_at_most of them.

    The newest complete snapshot, the newest that a drill has proven, and what another was made upon stay, whatever the settings
    say. Exit code 0: done; 1: a backup of the plan runs; 2: a snapshot could not be removed.

    \b
    Examples:
      dbshield backup prune --plan nightly --dry-run
      dbshield backup prune --plan nightly --json
    """
    settings = read_settings(config)
    name, chosen = plan_named(settings, plan)
    environment = chosen.environment or name
    with open_database(settings) as database:
        if dry:
            done = look(settings, name, database)
        else:

            def told(snapshot: str) -> None:
                # Before it goes: nothing is removed that the audit does not name.
                audit_store.record(
                    database, kind="backup-pruned", person=person(), environment=environment, plan=name, snapshot=snapshot
                )

            done = remove(settings, name, database, told=told)
    if json:
        answer({"plan": name, "environment": environment, "dry_run": dry, **_entry(done, dry=dry)})
    else:
        _show(done, dry=dry)
    if done.problems:
        raise typer.Exit(2)


def _entry(done: Pruned, *, dry: bool) -> dict[str, Any]:
    return {
        "removed": [fate.snapshot.id for fate in done.fates if fate.goes] if dry else list(done.removed),
        "objects": None if dry else done.objects,
        "wal": None if dry else done.wal,
        "wal_locked_until": done.wal_locked_until,
        "later": [fate.snapshot.id for fate in done.fates if fate.later],
        "kept": [{"snapshot": fate.snapshot.id, "because": list(fate.keep)} for fate in done.fates if fate.keep],
        "problems": dict(done.problems),
    }


def _show(done: Pruned, *, dry: bool) -> None:
    if dry:
        table(
            ("snapshot", "state", "drill", "recorded", "fate"),
            [
                (
                    fate.snapshot.id,
                    fate.snapshot.state,
                    fate.snapshot.drilled or "-",
                    fate.snapshot.recorded,
                    "goes" if fate.goes else "goes in a later run" if fate.later else f"stays: {'; '.join(fate.keep)}",
                )
                for fate in done.fates
            ],
            empty="There are no snapshots.",
        )
        return
    for snapshot, problem in done.problems.items():
        headline("no", f"  {snapshot}: {visible(problem)}")
    kept = len(done.fates) - len(done.removed)
    later = f", {done.later} of which may go and are left to later runs" if done.later else ""
    wal = f"; {done.wal} pieces of WAL that none of them needs are gone as well" if done.wal else ""
    locked = f", others are locked until {date(done.wal_locked_until)}" if done.wal_locked_until is not None else ""
    say(f"{len(done.removed)} removed ({done.objects} objects), {kept} kept{later}{wal}{locked}.")
    for snapshot in done.removed:
        say(f"  {snapshot}")
