"""Backups and drills: what there is to restore from, and what restoring it has shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from dbshield.backup import history
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.drill_store import Kept, check
from dbshield.backup.report import MEANING
from dbshield.config import Config
from dbshield.console.figures import picture, span, volume
from dbshield.console.frame import Page, Parts, allowed, parts_of, render
from dbshield.control.person_roles import Role
from dbshield.errors import BackupError, ConfigError, DbshieldError
from dbshield.schedule.view import look, problems

PICTURED: Final = 40
"""Drills in the picture, the newest of an environment or of all."""


@allowed(Role.VIEWER)
async def overview(request: Request) -> Response:
    parts, asked = parts_of(request), request.query_params
    environment = asked.get("environment") or None
    if environment is not None and environment not in parts.config.environments:
        raise ConfigError(f'the environment "{environment}" is not configured', hint="Choose one of the list.")
    return await render(
        request, "backups.html", await run_in_threadpool(_overview, parts, environment, asked.get("before") or None)
    )


def _overview(parts: Parts, environment: str | None, before: str | None) -> dict[str, Any]:
    points, _ = history.points(parts.database, environment=environment, limit=PICTURED)
    snapshots, older = history.snapshots_made(parts.database, environment=environment, before=before)
    view = look(parts.config, parts.database)
    lines = [line for line in view.lines if environment is None or line.job.environment == environment]
    return {
        "environments": list(parts.config.environments),
        "environment": environment or "",
        "points": points,
        "picture": picture(points[::-1]) if points else None,
        "snapshots": snapshots,
        "older": older or "",
        "first": before is None,
        "schedule": lines,
        "leader": view.leader,
        "wrong": list(problems(view)),
        "span": span,
        "volume": volume,
    }


@allowed(Role.VIEWER)
async def drills(request: Request) -> Response:
    asked = request.query_params
    before = asked.get("before", "")
    if before and not (before.isascii() and before.isdigit() and len(before) <= 18):
        raise ConfigError("this is no number of a drill", hint="Begin at the newest again.")
    points, older = await run_in_threadpool(history.points, parts_of(request).database, before=int(before) if before else None)
    return await render(request, "drills.html", {"points": points, "older": older, "first": not before, "span": span})


@allowed(Role.VIEWER)
async def drill(request: Request) -> Response:
    return await render(request, "drill.html", await run_in_threadpool(_drill, parts_of(request), request.path_params["number"]))


def _drill(parts: Parts, number: int) -> dict[str, Any]:
    kept = history.drill(parts.database, number)
    catalogue = Catalogue(parts.database)
    try:
        check(kept, catalogue.trusted())
        doubt = ""
    except DbshieldError as error:
        doubt = error.message
    phases = [(phase, seconds) for phase, seconds in kept.drill.rto.items() if phase != history.CHECKING]
    return {
        "kept": kept,
        "drill": kept.drill,
        "snapshot": catalogue.get(kept.drill.snapshot),
        "meaning": MEANING.get(kept.drill.verdict, ""),
        "doubt": doubt,
        "rto": sum(seconds for _, seconds in phases),
        "phases": phases,
        "problems": [(one["name"], text) for one in kept.drill.checks for text in one["problems"]],
        "report": report_of(parts.config, kept) is not None,
        "span": span,
        "volume": volume,
    }


@allowed(Role.VIEWER)
async def report(request: Request) -> Response:
    """The report that was written beside the drill, as the text that it is."""
    parts, number = parts_of(request), request.path_params["number"]
    kept = await run_in_threadpool(history.drill, parts.database, number)
    path = report_of(parts.config, kept)
    if path is None:
        raise BackupError(
            f"the report of drill {number} is not on this machine", hint="It is where the drill was run; its checks are all here."
        )
    return FileResponse(path, media_type="text/markdown; charset=utf-8", filename=f"drill-{number}.md")


def report_of(config: Config, kept: Kept) -> Path | None:
    """The report's file, if it is one of ours and is here: who may write in the control database must not read other files."""
    if kept.report is None:
        return None
    path = Path(kept.report)
    folders = {plan.report_folder for plan in config.backup.values() if plan.report_folder is not None} | {
        config.state / "reports"
    }
    try:
        real = path.resolve(strict=True)
        ours = real.suffix == ".md" and real.is_file() and any(real.parent == folder.resolve() for folder in folders)
    except (OSError, ValueError, RuntimeError):
        return None
    return real if ours else None


@allowed(Role.VIEWER)
async def snapshot(request: Request) -> Response:
    return await render(
        request, "snapshot.html", await run_in_threadpool(_snapshot, parts_of(request), request.path_params["id"])
    )


def _snapshot(parts: Parts, name: str) -> dict[str, Any]:
    found = Catalogue(parts.database).get(name)
    _, record = Catalogue(parts.database).details(found.id)
    return {
        "snapshot": found,
        "tables": list(_tables(record)),
        "drills": history.points_of(parts.database, found.id),
        "span": span,
        "volume": volume,
    }


def _tables(record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The largest tables that were counted, as the record says."""
    if record is None:
        return []
    found = [
        {
            "database": database["name"],
            "name": f"{table['schema']}.{table['name']}",
            "rows": table["rows"],
            "bytes": table["bytes"],
        }
        for database in record.get("databases", ())
        for table in database["tables"]
        if table["rows"] is not None
    ]
    return sorted(found, key=lambda table: int(table["bytes"]), reverse=True)[:TABLES]


TABLES: Final = 50

PAGE = Page(
    title="Backups",
    path="/backups",
    routes=[
        Route("/backups", overview),
        Route("/backups/drills", drills),
        Route("/backups/drills/{number:int}", drill),
        Route("/backups/drills/{number:int}/report.md", report),
        Route("/backups/snapshots/{id}", snapshot),
    ],
)
