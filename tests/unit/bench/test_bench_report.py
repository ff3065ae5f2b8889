"""The report: every column says something, a failure is not a figure, and JSON keeps every run."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from bench.goals import outcomes
from bench.model import Name, Result, Run
from bench.report import PLAIN_WIDTH, print_report, write_json
from bench.workloads import rows

ROWS = {row.key: row for row in rows(1000)}


def results() -> dict[str, Result]:
    simple = Result(row=ROWS["simple-8"])
    simple.runs = {
        Name.DIRECT: [Run(value=46_300, cpu=None)],
        Name.PGBOUNCER: [Run(value=32_100, cpu=11.5)],
        Name.DBSHIELD: [Run(value=21_900, cpu=22.8)],
    }
    copy = Result(row=ROWS["copy-out"])
    copy.runs = {Name.DIRECT: [Run(value=500.0, cpu=None, note="0.60 s")]}
    copy.failures = {Name.DBSHIELD: "psql: error: the server closed the connection"}
    return {"simple-8": simple, "copy-out": copy}


def printed() -> str:
    stream = io.StringIO()
    found = results()
    console = Console(file=stream, width=PLAIN_WIDTH, no_color=True)
    print_report(console, ["machine   2 cores"], found, {Name.PGBOUNCER: "apt-get is not here"}, outcomes(found))
    return stream.getvalue()


def test_plain_report_is_a_table_without_escapes() -> None:
    text = printed()
    line = next(line for line in text.splitlines() if "pgbench -S simple, 8 clients" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["tps", "46,300", "32,100", "21,900", "0.68", "0.47", "11.5", "22.8", "1.98"]
    assert "\x1b" not in text
    assert "machine   2 cores" in text


def test_a_failure_is_named_and_is_no_figure() -> None:
    text = printed()
    line = next(line for line in text.splitlines() if "COPY out" in line)
    assert "failed" in line
    assert "500 (0.60 s)" in line
    assert "copy-out, dbshield: psql: error: the server closed the connection" in text
    assert "PgBouncer is empty: apt-get is not here" in text


def test_goals_are_printed_with_their_outcome() -> None:
    lines = [" ".join(line.split()) for line in printed().splitlines()]
    assert "reached simple-8: rate / PgBouncer ≥ 0.6, measured 0.68" in lines
    assert "reached simple-8: CPU / PgBouncer ≤ 2.5, measured 1.98" in lines
    assert "not measured copy-out: rate / direct ≥ 0.95, measured –" in lines


def test_json_keeps_every_run(tmp_path: Path) -> None:
    found = results()
    write_json(tmp_path / "bench.json", ["header"], found, {}, outcomes(found))
    document = json.loads((tmp_path / "bench.json").read_text())
    simple, copy = document["rows"]
    assert simple["runs"]["dbshield"] == [{"value": 21900, "cpu": 22.8, "note": ""}]
    assert simple["ratios"]["CPU / PgBouncer"] == 22.8 / 11.5
    assert copy["failures"] == {"dbshield": "psql: error: the server closed the connection"}
    assert [goal["reached"] for goal in document["goals"]] == [True, True, False]
