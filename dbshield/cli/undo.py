"""`dbshield undo`: brings back what an approved statement destroyed."""

from __future__ import annotations

import json as jsonlib
from datetime import datetime
from typing import Annotated, Any

import typer

from dbshield.cli.approvals import PersonOption
from dbshield.cli.codes import CodeEnvOption, CodeStdinOption, read_code
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.executor import UNDO_FOLDER
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, remark, say, table, visible
from dbshield.config import Config
from dbshield.control.audit_store import append
from dbshield.control.people import People, refused_code
from dbshield.control.undo import UndoConflict, Undone
from dbshield.control.undo import undo as bring_back
from dbshield.control.undo_expiry import kept_until
from dbshield.control.undo_store import UndoRow, UndoStore
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError
from dbshield.store.database import Database

LIST = "list"

TargetArgument = Annotated[str, typer.Argument(metavar="ID|list", help="The approval's id, apr-…, or `list`.")]


def undo(
    target: TargetArgument,
    *,
    who: PersonOption = None,
    environment: AnyEnvironmentOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring back what an approved statement destroyed: all of it, or nothing where something stands in the way (exit code 1).

    Run it on the machine of the executor that ran the statement: its state folder holds what was saved.

    \b
    Examples:
      dbshield undo list --environment production
      dbshield undo apr-k3x7w2mq --person ann
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        store = UndoStore(database)
        if target == LIST:
            _list(store.list_(environment=environment), settings, json=json)
            return
        point = store.get(target)
        if point.environment not in settings.environments or not settings.environments[point.environment].executor:
            raise ConfigError(
                f"the environment {point.environment} names no executor here", hint="Run this where the executor runs."
            )
        decider = who if who is not None else person()
        _admit(database, settings, decider, read_code(decider, stdin=code_stdin, variable=code_env), target)
        with store.using(target) as use:
            # Read again, now that nobody else is at it.
            undone = _bring_back(settings, store.get(target), store, json=json)
            use(by=decider, now=now(), rows=undone.rows)
    if json:
        answer({"approval": target, "undone": True, "relations": undone.relations, "rows": undone.rows, "left": undone.left})
        return
    say(f"What {target} destroyed is back.")
    for name in undone.relations:
        say(f"  {visible(name)}" + (f": {undone.rows[name]:,} rows" if name in undone.rows else ""))
    for name, rows in undone.rows.items():
        if name not in undone.relations:
            say(f"  {visible(name)}: {rows:,} rows are as they were")
    for left in undone.left:
        remark(visible(left))


def _bring_back(settings: Config, point: UndoRow, store: UndoStore, *, json: bool) -> Undone:
    """Exit code 1 where something is in the way."""
    try:
        return bring_back(
            settings.state / UNDO_FOLDER / point.id,
            point.sha256 or b"",
            settings.environments[point.environment],
            environment=point.environment,
            began=lambda transaction: store.began(point.id, transaction),
            earlier=point.undoing,
        )
    except UndoConflict as conflict:
        if json:
            answer({"approval": point.id, "undone": False, "conflicts": conflict.conflicts})
        else:
            remark(f"dbshield: {conflict.message}\n  {conflict.hint}")
        raise typer.Exit(1) from conflict


def _admit(database: Database, settings: Config, name: str, code: str, target: str) -> None:
    """The second factor. A wrong code is counted and written into the audit."""
    moment = now()
    with database.transaction() as connection:
        wrong = People(database, Vault.load(settings.secret_key)).verify(connection, name, code, now=moment)
        if wrong is not None:
            append(connection, [refused_code(name, wrong, moment, approval=target)])
    if wrong is not None:
        raise wrong


def _list(points: list[UndoRow], settings: Config, *, json: bool) -> None:
    if json:
        answer([_describe(point, settings) for point in points])
        return
    rows = [
        (
            point.id,
            point.taken_at,
            point.environment,
            point.agent,
            _what(point),
            f"{point.size:,}",
            point.host or "-",
            _state(point, settings),
        )
        for point in points
    ]
    table(("id", "taken", "environment", "agent", "what", "bytes", "machine", "state"), rows, empty="There are no undo points.")


def _state(point: UndoRow, settings: Config) -> str:
    if point.undone_at is not None:
        return f"undone by {point.undone_by}"
    if "restore_point" in point.summary:
        return f"in the WAL, at {point.summary['lsn']}"
    if point.expired_at is not None:
        return f"expired on {point.expired_at:%Y-%m-%d}"
    until = _until(point, settings)
    return f"can be undone until {until:%Y-%m-%d}" if until is not None else "can be undone" if point.sha256 else "not saved"


def _until(point: UndoRow, settings: Config) -> datetime | None:
    """When its files may go; None where there are none, or this machine does not know how long they are kept."""
    is_kept = point.sha256 is not None and point.undone_at is None and point.expired_at is None
    return kept_until(point.finished_at, settings.environments.get(point.environment)) if is_kept else None


def _describe(point: UndoRow, settings: Config) -> dict[str, Any]:
    return {
        "approval": point.id,
        "environment": point.environment,
        "agent": point.agent,
        "database": point.database,
        "taken_at": point.taken_at,
        "tag": point.tag,
        "machine": point.host,
        "bytes": point.size,
        "what": jsonlib.loads(jsonlib.dumps({name: each for name, each in point.summary.items() if name != "undoing"})),
        "saved": point.sha256 is not None,
        "undone_at": point.undone_at,
        "undone_by": point.undone_by,
        "expired_at": point.expired_at,
        "kept_until": _until(point, settings),
    }


def _what(point: UndoRow) -> str:
    tables = point.summary.get("tables", [])
    names = [f"{each['table']} {each['fate']} ({each['rows']:,} rows)" for each in tables[:3]]
    names += [name for name in point.summary.get("gone", [])[:3] if not any(name == each["table"] for each in tables)]
    return ", ".join(names or point.summary.get("objects", [])[:3]) or point.tag
