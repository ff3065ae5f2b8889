"""`dbshield schedule`: what is due when, what became of it, and the same for cron and systemd."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import open_database, read_settings
from dbshield.cli.output import answer, date, headline, remark, say, table, visible
from dbshield.config import find_config
from dbshield.schedule.export import crontab, units
from dbshield.schedule.view import Leader, Line, Run, View, look, problems, runs_of

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Show what is due when, and what became of it."
)


@app.callback()
def group() -> None:
    """Show what is due when, and what became of it."""


@app.command("show")
def show(
    systemd: Annotated[bool, typer.Option("--systemd", help="Print the unit files alone.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show every job with its next and its last run, and the lines of a crontab and the timers of systemd that do the same.

    Use the scheduler, or cron, or systemd, and not two of them.

    \b
    Examples:
      dbshield schedule show
      dbshield schedule show --json
      dbshield schedule show --systemd
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        view = look(settings, database)
    jobs = [line.job for line in view.lines]
    program = _program(config)
    files = {name: text for job in jobs for name, text in units(job, program).items()}
    lines = crontab(jobs, program) if jobs else ""
    if json:
        answer(
            {"leader": _leader(view.leader), "jobs": [_entry(line) for line in view.lines], "crontab": lines, "systemd": files}
        )
        return
    if not systemd:
        _table(view)
        if jobs:
            say(f"\n# The same for cron:\n{lines}\n\n# The same for systemd, in /etc/systemd/system:")
    for name, text in files.items():
        say(f"# {name}\n{text}\n")


@app.command("runs")
def runs(
    job: Annotated[str | None, typer.Option("--job", metavar="JOB", help='This job alone, as in "snapshot nightly".')] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List runs, the newest first.

    \b
    Example:
      dbshield schedule runs --job "snapshot nightly" --limit 10
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        found = runs_of(database, job=job, limit=limit)
    if json:
        answer([_run(run) for run in found])
        return
    table(
        ("job", "due", "state", "began", "seconds", "said"),
        [(run.job, run.due, _state(run), run.began, _seconds(run), _said(run)) for run in found],
        empty="There were none.",
    )


@app.command("check")
def check(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say whether the schedule is kept, for whatever watches your machines: a scheduler that is dead alerts nobody.

    Exit code 0: a scheduler leads and nothing is overdue or failed; 1: something is, with its name; 2: the control database does
    not answer.

    \b
    Example:
      dbshield schedule check
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        view = look(settings, database)
    found = list(problems(view))
    if json:
        answer({"kept": not found, "leader": _leader(view.leader), "problems": found})
    elif not found:
        say(f"{len(view.lines)} jobs, none is overdue or has failed.")
    else:
        for problem in found:
            headline("no", f"  {visible(problem)}")
    if found:
        raise typer.Exit(1)


def _program(config: Path | None) -> list[str]:
    """The words that start dbshield with this configuration; cron and systemd know no search path."""
    file = find_config(config)
    program = [shutil.which("dbshield") or "dbshield"]
    return [*program, "--config", str(file.absolute())] if file is not None else program


def _table(view: View) -> None:
    table(
        ("job", "environment", "when", "next", "last", "state", "seconds"),
        [
            (
                line.job.name,
                line.job.environment,
                f"{line.job.cron.text} {line.job.zone.key}",
                line.next or "-",
                line.last.due if line.last is not None else "-",
                line.wrong or (_state(line.last) if line.last is not None else "-"),
                _seconds(line.last) if line.last is not None else "-",
            )
            for line in view.lines
        ],
        empty='Nothing is scheduled; say when in [schedule], as in snapshot = "0 2 * * *".',
    )
    if view.leader is not None:
        where = f" ({view.leader.address})" if view.leader.address else ""
        say(f"{visible(view.leader.name)}{where} leads since {date(view.leader.since)}.")
    elif view.lines:
        remark("remark: no scheduler leads, so nothing is run; `dbshield scheduler` or `dbshield up` runs one")


def _entry(line: Line) -> dict[str, Any]:
    return {
        "job": line.job.name,
        "kind": line.job.kind,
        "target": line.job.target,
        "environment": line.job.environment,
        "cron": line.job.cron.text,
        "timezone": line.job.zone.key,
        "command": ["dbshield", *line.job.command],
        "next": line.next,
        "last": _run(line.last) if line.last is not None else None,
        "last_done": line.done,
        "overdue": line.overdue,
        "known": line.known,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "job": run.job,
        "due": run.due,
        "state": run.state,
        "attempt": run.attempt,
        "missed": run.missed,
        "began": run.began,
        "ended": run.ended,
        "exit_code": run.exit_code,
        "scheduler": run.scheduler,
        "output": run.output,
    }


def _leader(leader: Leader | None) -> dict[str, Any] | None:
    return {"scheduler": leader.name, "address": leader.address, "since": leader.since} if leader is not None else None


def _state(run: Run) -> str:
    notes = [f"attempt {run.attempt}"] if run.attempt > 1 else []
    notes += [f"{run.missed} missed before"] if run.missed else []
    return f"{run.state} ({', '.join(notes)})" if notes else run.state


def _seconds(run: Run) -> str:
    return f"{(run.ended - run.began).total_seconds():.1f}" if run.ended is not None else "-"


def _said(run: Run) -> str:
    lines = (run.output or "").strip().splitlines()
    return lines[-1][:100] if lines and run.state != "done" else "-"
