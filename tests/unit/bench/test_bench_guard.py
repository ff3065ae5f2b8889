"""The guard's rows: what counts is each round's own ratio, in the right direction, and a failure is not a figure."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.goals import Figure
from bench.guard import SIDES, GuardResult, Measured, guard_outcomes, guard_rows
from bench.report import PLAIN_WIDTH, print_report
from bench.workloads import rows

ROWS = {row.key: row for row in guard_rows(1000)}


def result(key: str, plain: list[float], guarded: list[float], cpu: float = 1.0) -> GuardResult:
    """A result from the values of each round; the guarded runs take `cpu` times the CPU time."""
    made = GuardResult(row=ROWS[key])
    made.runs = {
        SIDES[0]: [Measured(value=value, cpu=10.0) for value in plain],
        SIDES[1]: [Measured(value=value, cpu=10.0 * cpu) for value in guarded],
    }
    return made


def test_no_key_is_also_one_of_the_contenders() -> None:
    assert len(ROWS) == len(guard_rows(1000))
    assert not ROWS.keys() & {row.key for row in rows(1000)}


def test_the_ratio_is_of_each_round() -> None:
    # The second round was slow for both.
    found = result("guard-update", [100, 20, 200], [96, 19, 196], cpu=1.2)
    assert found.ratio == pytest.approx(0.96)
    assert found.cpu_ratio == pytest.approx(1.2)
    assert found.spread == pytest.approx((0.95, 0.98))


@pytest.mark.parametrize(
    ("key", "guarded", "figure", "reached"),
    [
        ("guard-update", 0.95, Figure.GUARD_RATE, True),
        ("guard-update", 0.94, Figure.GUARD_RATE, False),
        ("guard-tpcb", 1.1, Figure.GUARD_RATE, True),
        ("guard-bulk-delete", 1.15, Figure.GUARD_TIME, True),
        ("guard-bulk-delete", 1.16, Figure.GUARD_TIME, False),
        ("guard-bulk-update", 0.8, Figure.GUARD_TIME, True),
    ],
)
def test_rates_have_a_floor_and_times_a_ceiling(key: str, guarded: float, figure: Figure, *, reached: bool) -> None:
    (outcome,) = guard_outcomes({key: result(key, [1.0], [guarded])})
    assert (outcome.goal.figure, outcome.reached) == (figure, reached)


def test_a_row_that_explains_another_has_no_goal() -> None:
    assert guard_outcomes({"guard-update-fast": result("guard-update-fast", [1.0], [0.5])}) == []


def test_a_failure_is_not_reached_and_is_told() -> None:
    failed = result("guard-update", [100.0], [99.0])
    failed.failure = "pgbench: connection refused"
    results = {"guard-update": failed, "guard-tpcb": result("guard-tpcb", [200.0], [198.0], cpu=1.05)}
    outcomes = guard_outcomes(results)
    assert [outcome.reached for outcome in outcomes] == [False, True]
    stream = io.StringIO()
    print_report(Console(file=stream, width=PLAIN_WIDTH, no_color=True), [], {}, {}, outcomes, results)
    text = stream.getvalue()
    assert "guard-update: pgbench: connection refused" in text
    line = next(line for line in text.splitlines() if "pgbench TPC-B" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["tps", "200", "198", "0.99", "0.99 … 0.99", "10.0", "10.5", "1.05"]
    assert "not measured guard-update: rate with / without guard ≥ 0.95" in " ".join(text.split())
