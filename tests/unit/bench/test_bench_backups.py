"""Whether the bench of backups says "reached" only where it was, and the whole of it on a small database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.backup_contenders import Steps, Took
from bench.backups import Found, Rows, table

QUIET = {"PATH": "/usr/bin:/bin"}


def found(ours: list[float], theirs: list[float]) -> Found:
    """Backups of 1000 MB: seconds until the data was there."""
    rows = {
        "physical": Rows("physical", backups=[Took(copy=each, whole=each * 2, stored=1) for each in ours]),
        "pg_basebackup": Rows("pg_basebackup", backups=[Took(copy=each, whole=each, stored=1) for each in theirs]),
    }
    return Found(bytes=1_000_000_000, rows=rows, drills={})


def test_the_ratio_is_the_median_of_each_rounds_own() -> None:
    # The second round was slow for both.
    made = found([10, 100, 12], [8, 90, 9])
    assert made.ratio("physical", "pg_basebackup", "copy") == pytest.approx(0.8)
    assert made.ratio("physical", "pg_basebackup", "whole") == pytest.approx(0.4)
    assert made.rate("physical", "backups", "copy") == pytest.approx(1000 / 12)
    assert found([], [8]).ratio("physical", "pg_basebackup", "copy") is None


def test_what_did_not_run_has_no_figure() -> None:
    drawn = table(found([], [8]), terminal=False)
    cells = [list(column.cells) for column in drawn.columns]
    assert [column[0] for column in cells] == ["physical", "–", "–", "–", "–", "–"]
    assert cells[1][1] == "125"


def test_steps_add_up_by_name() -> None:
    steps = Steps()
    for name in ("base backup", "count shop", "base backup", "over"):
        steps.step(name, None)
    assert set(steps.seconds) == {"prepare", "base backup", "count"}


@pytest.mark.long
@pytest.mark.needs("pgbackrest")
def test_all_of_it_on_a_small_database(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.backups", "--megabytes=30", "--rounds=1", f"--json={written}"],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], env=QUIET, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads(written.read_text())
    assert {key: (row["failure"], len(row["restores"])) for key, row in tree["rows"].items()} == dict.fromkeys(
        ("pg_dump", "logical", "pg_basebackup", "pg_basebackup-threads", "physical", "pgbackrest"), ("", 1)
    )
    assert tree["drills"].keys() == {"logical", "physical"}
    assert "copies at" in done.stdout
