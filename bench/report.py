"""One table for people, plain where the output is not a terminal, and the same with every single run as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.goals import OF_CONTENDERS, Figure, Outcome, figure
from bench.guard import GuardResult
from bench.measure import median
from bench.model import Name, Result

NOTHING = "–"
PLAIN_WIDTH = 200
HEADINGS = ("to PgBouncer", "to direct", "PgBouncer CPU", "dbshield CPU", "CPU ratio")
EXPLANATION = (
    "to …: dbshield's figure divided by the other's. CPU: µs of the proxy's own processes per transaction, connection,"
    " statement or MB. ↓: less is better."
)

GUARD_HEADINGS = ("without guard", "with guard", "with / without", "rounds from … to", "CPU without", "CPU with", "CPU ratio")
GUARD_EXPLANATION = (
    "Two copies of one database on a server with fsync on; durable commits but where it says otherwise. CPU: µs of the server's"
    " own processes per transaction, or for the one statement. ↓: less is better. Single rounds' ratios show what the noise is."
)
EMPTY: Mapping[str, GuardResult] = {}


def table(results: Mapping[str, Result], *, terminal: bool) -> Table:
    """Medians over the rounds; ratios are medians of each round's own ratio."""
    drawn = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN, pad_edge=not terminal, collapse_padding=terminal)
    drawn.add_column("row", min_width=20)
    drawn.add_column("unit", no_wrap=True)
    for name in Name:
        drawn.add_column(name.value, justify="right", min_width=max(8, len(name.value)))
    for heading in HEADINGS:
        # On a terminal two short lines leave room for the figures; Markdown knows one line only.
        drawn.add_column(heading.replace(" ", "\n") if terminal else heading, justify="right", no_wrap=True)
    for result in results.values():
        row = result.row
        rates = [_cell(result, name) for name in Name]
        ratios = [_ratio(figure(result, which)) for which in (Figure.RATE_TO_PGBOUNCER, Figure.RATE_TO_DIRECT)]
        unit = row.unit + (" ↓" if row.lower_is_better else "")
        drawn.add_row(
            row.label,
            unit,
            *rates,
            *(ratios if row.ratios else (NOTHING, NOTHING)),
            _cpu(result, Name.PGBOUNCER),
            _cpu(result, Name.DBSHIELD),
            _ratio(figure(result, Figure.CPU_TO_PGBOUNCER)),
        )
    return drawn


def guard_table(results: Mapping[str, GuardResult], *, terminal: bool) -> Table:
    """The same work in two databases; medians over the rounds, and of the ratios also the least and the greatest."""
    drawn = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN, pad_edge=not terminal, collapse_padding=terminal)
    drawn.add_column("row", min_width=20)
    drawn.add_column("unit", no_wrap=True)
    for heading in GUARD_HEADINGS:
        drawn.add_column(heading.replace(" ", "\n", 1) if terminal else heading, justify="right", no_wrap=True)
    for result in results.values():
        values = {side: median([run.value for run in runs]) for side, runs in result.runs.items()}
        cpu = {side: median([run.cpu for run in runs]) for side, runs in result.runs.items()}
        spread = result.spread
        drawn.add_row(
            result.row.label,
            "s ↓" if result.row.times else "tps",
            *("failed" if result.failure else _small(values[side]) for side in values),
            _ratio(result.ratio),
            NOTHING if spread is None else f"{spread[0]:.2f} … {spread[1]:.2f}",
            *(NOTHING if result.failure else _small(cpu[side]) for side in cpu),
            _ratio(result.cpu_ratio),
        )
    return drawn


def _small(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if abs(value) < 10 else _number(value)


def _print_guard(console: Console, results: Mapping[str, GuardResult]) -> None:
    """The guard's own table, and what failed in it."""
    terminal = console.is_terminal
    rounds = max((len(runs) for result in results.values() for runs in result.runs.values()), default=0)
    console.print(f"\nThe guard, straight to the server, for a role that it does not hold, {rounds} rounds", highlight=False)
    _print_table(console, guard_table(results, terminal=terminal))
    console.print(GUARD_EXPLANATION, style="dim" if terminal else None, highlight=False, markup=False, soft_wrap=True)
    for key, result in results.items():
        if result.failure:
            console.print(f"{key}: {result.failure}", markup=False, highlight=False, soft_wrap=True)


def print_report(
    console: Console,
    header: Sequence[str],
    results: Mapping[str, Result],
    absent: Mapping[Name, str],
    reached: Sequence[Outcome],
    guarded: Mapping[str, GuardResult] = EMPTY,
) -> None:
    """Header, table, what failed and why, and the goals."""
    terminal = console.is_terminal
    for line in header:
        console.print(line, style="dim" if terminal else None, highlight=False, markup=False, soft_wrap=True)
    if results:
        console.print()
        _print_table(console, table(results, terminal=terminal))
        console.print(EXPLANATION, style="dim" if terminal else None, highlight=False, markup=False, soft_wrap=True)
    for name, reason in absent.items():
        console.print(f"{name} is empty: {reason}", markup=False, highlight=False, soft_wrap=True)
    for key, result in results.items():
        for name, reason in result.failures.items():
            if name not in absent:
                console.print(f"{key}, {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if guarded:
        _print_guard(console, guarded)
    if reached:
        console.print("\nGoals", style="bold" if terminal else None)
    for outcome in reached:
        word = "not measured" if outcome.measured is None else "reached" if outcome.reached else "not reached"
        style = ("green" if outcome.reached else "red") if terminal else None
        console.print(
            f"  {word:<12} {outcome.goal}, measured {_ratio(outcome.measured)}", style=style, highlight=False, markup=False
        )


def _print_table(console: Console, drawn: Table) -> None:
    """As it is on a terminal; elsewhere without the blank edges that rich gives a Markdown table."""
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as capture:
        console.print(drawn)
    for line in capture.get().splitlines():
        if line.strip():
            console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


def write_json(
    path: Path,
    header: Sequence[str],
    results: Mapping[str, Result],
    absent: Mapping[Name, str],
    reached: Sequence[Outcome],
    guarded: Mapping[str, GuardResult] = EMPTY,
) -> None:
    """Every run of every round, so that another reader can take other medians."""
    document: dict[str, Any] = {
        "header": list(header),
        "absent": {name.value: reason for name, reason in absent.items()},
        "rows": [
            {
                "key": key,
                "label": result.row.label,
                "unit": result.row.unit,
                "lower_is_better": result.row.lower_is_better,
                "cpu_unit": f"µs per {result.row.work}" if result.row.work else None,
                "runs": {
                    name.value: [{"value": run.value, "cpu": run.cpu, "note": run.note} for run in runs]
                    for name, runs in result.runs.items()
                },
                "failures": {name.value: reason for name, reason in result.failures.items()},
                "ratios": {which.value: figure(result, which) for which in OF_CONTENDERS},
            }
            for key, result in results.items()
        ],
        "guard": [
            {
                "key": key,
                "label": result.row.label,
                "unit": "s" if result.row.times else "tps",
                "cpu_unit": "µs per statement" if result.row.times else "µs per transaction",
                "runs": {side: [{"value": run.value, "cpu": run.cpu} for run in runs] for side, runs in result.runs.items()},
                "failure": result.failure,
                "ratio": result.ratio,
                "cpu_ratio": result.cpu_ratio,
            }
            for key, result in guarded.items()
        ],
        "goals": [{"goal": str(outcome.goal), "measured": outcome.measured, "reached": outcome.reached} for outcome in reached],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _cell(result: Result, name: Name) -> str:
    if name in result.failures:
        return "failed"
    runs = result.runs.get(name, [])
    value = median([run.value for run in runs])
    if value is None:
        return NOTHING
    shown = _number(value)
    if not runs[0].note or not result.row.notes:
        return shown
    # The note of the run that is the median, or next to it.
    nearest = min(runs, key=lambda run: abs(run.value - value))
    return f"{shown} ({nearest.note})"


def _cpu(result: Result, name: Name) -> str:
    if name in result.failures:
        return NOTHING
    value = median([run.cpu for run in result.runs.get(name, []) if run.cpu is not None])
    return NOTHING if value is None else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"
