"""`dbshield restore-drill`: proves that a snapshot restores, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.backup.drill import Drilled, Wish, record_drill, run_drill
from dbshield.backup.drill_store import Drills
from dbshield.backup.report import write_reports
from dbshield.backup.restore import Goal
from dbshield.backup.wal_restore import moment_of
from dbshield.backup.wal_ship import wal_time
from dbshield.cli import tampered
from dbshield.cli.backup_keys import PlanOption
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, headline, remark, say, table, timestamp, visible
from dbshield.cli.progress import shown
from dbshield.cli.stopping import stoppable
from dbshield.config import Config
from dbshield.control import audit_store
from dbshield.errors import BackupError, DbshieldError, Refused
from dbshield.store.database import Database

STATUS = {"passed": 0, "failed": 1, "error": 2}
HISTORY = 30
"""Drills in the picture of a report."""
SnapshotOption = Annotated[
    str | None, typer.Option("--snapshot", "-s", metavar="ID", help="Its id or the beginning of it; else the newest.")
]
IdentityFileOption = Annotated[
    Path | None,
    typer.Option("--identity-file", "--identity", "-i", metavar="FILE", help="The age identity that opens it."),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option("--setting", metavar="NAME=VALUE", help="A setting of PostgreSQL for the restored server; may be repeated."),
]
AssertionsOption = Annotated[
    Path | None, typer.Option("--assertions", metavar="DIR", help="SQL files that the restored data must hold to.")
]
AtOption = Annotated[
    str, typer.Option("--at", metavar="TIME", help="Restore this moment by the WAL archive, from the snapshot before it.")
]
RandomPointOption = Annotated[
    bool, typer.Option("--random-point", help="The same with a random moment that the WAL archive has.")
]


def restore_drill(
    *,
    snapshot: SnapshotOption = None,
    environment: AnyEnvironmentOption = None,
    plan: PlanOption = None,
    identity: IdentityFileOption = None,
    assertions: AssertionsOption = None,
    setting: SettingOption = None,
    at: AtOption = "",
    random_point: RandomPointOption = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the restored cluster, stopped, also when all is well.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a snapshot into a throwaway cluster and check it: counts, content, schema, keys, indexes, roles, and a full dump.

    Exit code 0: passed; 1: failed, the snapshot is bad; 2: error, nothing is known. The verdict is signed and recorded, with how
    long a restore takes (RTO) and how much would be lost (RPO). The cluster is removed, unless it failed.

    \b
    Examples:
      dbshield restore-drill --identity-file /media/key/identity.txt
      dbshield restore-drill --snapshot 20260501t120000z-abcdefgh --assertions checks/ --json
      dbshield restore-drill --plan nightly --random-point
    """
    with _verdict_in_every_case(json=json):
        settings = read_settings(config)
        wish = Wish(
            snapshot=snapshot,
            environment=environment,
            plan=plan,
            identity=identity,
            assertions=assertions,
            keep=keep,
            settings=given_settings(setting),
            goal=Goal(at=wal_time(moment_of(at))) if at else Goal(),
            random_point=random_point,
        )
        if at and random_point:
            raise BackupError("--at and --random-point are both given", hint="Keep one.")
        with open_database(settings) as database, stoppable():
            with shown(quiet=json) as progress:
                drilled = run_drill(settings, wish, database, clock=now, progress=progress)
            found = drilled.snapshot
            tampered.tell(drilled.covered, database, environment=found.environment, plan=found.plan, snapshot=found.id)
            number, reports = _recorded(settings, database, drilled)
    if json:
        answer(_tree(drilled, number, reports))
    else:
        _show(drilled, reports)
    raise typer.Exit(STATUS[drilled.drill.verdict])


@contextmanager
def _verdict_in_every_case(*, json: bool) -> Iterator[None]:
    """What keeps a drill from a verdict is one itself, for who reads JSON; and never the exit code of a snapshot that is bad."""
    try:
        yield
    except DbshieldError as error:
        if json:
            answer({"verdict": "error", "error": error.message, "hint": error.hint, "checks": [], "rpo_seconds": None, "rto": {}})
        if isinstance(error, Refused):
            # A refusal says nothing of the snapshot, and 1 would.
            raise BackupError(error.message, hint=error.hint) from error
        raise


def given_settings(texts: list[str] | None) -> dict[str, str]:
    """NAME=VALUE, each. Raises BackupError."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.replace("_", "").replace(".", "").isalnum():
            raise BackupError(
                f"--setting {text} is no NAME=VALUE", hint="Such as --setting shared_preload_libraries=timescaledb."
            )
        found[name] = value
    return found


def _recorded(settings: Config, database: Database, drilled: Drilled) -> tuple[int, tuple[Path, ...]]:
    """Write the reports, then keep the drill in the control database and in the audit."""
    drill, found = drilled.drill, drilled.snapshot
    plan = settings.backup.get(found.plan)
    folder = (plan.report_folder if plan is not None else None) or settings.state / "reports"
    history = Drills(database).list(environment=found.environment, limit=HISTORY - 1)
    reports = write_reports(folder, drilled, [kept.drill for kept in history])
    try:
        number = record_drill(database, drilled, report=reports[0])
    except DbshieldError as error:
        raise BackupError(
            f"the drill of {found.id} {drill.verdict}, and could not be recorded: {error.message}",
            hint=f"Its report is {reports[0]}.",
        ) from error
    try:
        audit_store.record(
            database,
            kind="drill",
            person=person(),
            environment=found.environment,
            plan=found.plan,
            snapshot=found.id,
            verdict=drill.verdict,
            problems=[check["name"] for check in drill.checks if check["outcome"] in {"failed", "error"}],
            rpo_seconds=drill.rpo_seconds,
            rto_seconds=drilled.rto_seconds,
        )
    except DbshieldError as error:
        remark(f"remark: the audit could not be written: {error.message}")
    return number, reports


def _tree(drilled: Drilled, number: int, reports: tuple[Path, ...]) -> dict[str, Any]:
    drill, found = drilled.drill, drilled.snapshot
    return {
        "verdict": drill.verdict,
        "drill": number,
        "snapshot": found.id,
        "environment": found.environment,
        "plan": found.plan,
        "engine": found.engine,
        "began": timestamp(drill.began),
        "ended": timestamp(drill.ended),
        "checks": list(drill.checks),
        "rpo_seconds": drill.rpo_seconds,
        "rpo_from": drilled.rpo_from,
        "rto_seconds": drilled.rto_seconds,
        "rto": dict(drill.rto),
        "report": [str(path) for path in reports],
        "evidence": str(drilled.evidence) if drilled.evidence is not None else None,
        "signing_key": drilled.signature.key,
        "covered": drilled.covered,
    }


def _show(drilled: Drilled, reports: tuple[Path, ...]) -> None:
    drill, found = drilled.drill, drilled.snapshot
    headline(drill.verdict, f": {found.id}, {found.environment}, {found.engine}")
    table(
        ("check", "outcome", "measure", "seconds"),
        [(check["name"], check["outcome"], check["measure"], f"{check['seconds']:.2f}") for check in drill.checks],
        empty="No check was made.",
    )
    for check in drill.checks:
        for problem in check["problems"]:
            say(f"  {check['name']}: {visible(problem)}")
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in drill.rto.items())
    say(f"RTO {drilled.rto_seconds:.1f} s ({phases})")
    if drill.rpo_seconds is not None:
        say(f"RPO {drill.rpo_seconds:.0f} s (counted from the {drilled.rpo_from})")
    say(f"report: {', '.join(str(path) for path in reports)}")
    if drilled.evidence is not None:
        say(f"kept: {drilled.evidence}, with the data in clear; remove it when it was looked at")
