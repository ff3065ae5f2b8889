"""Whether the bench says "reached" only where it was: a failure, an empty column or a wrong direction must not pass."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, Figure, Goal, Outcome, figure, outcomes
from bench.measure import median, median_ratio
from bench.model import Address, Name, Result, Row, Run
from bench.workloads import rows

ROWS = {row.key: row for row in rows(1000)}


def result(key: str, **runs: list[tuple[float, float | None]]) -> Result:
    """A result from (value, cpu) pairs by contender."""
    made = Result(row=ROWS[key])
    for name, pairs in runs.items():
        made.runs[Name[name]] = [Run(value=value, cpu=cpu) for value, cpu in pairs]
    return made


def test_every_goal_names_a_row_that_there_is() -> None:
    assert {goal.row for goal in GOALS} <= ROWS.keys()


def test_every_row_has_a_key_of_its_own() -> None:
    assert len(ROWS) == len(rows(1000))


def test_ratio_is_the_median_of_each_rounds_own() -> None:
    # The second round was slow for both, so the medians of the values alone would give 150 / 200.
    assert median_ratio([90, 10, 150], [100, 20, 200]) == pytest.approx(0.75)
    assert median_ratio([90, 10, 190], [100, 20, 200]) == pytest.approx(0.9)


def test_nothing_measured_has_no_median() -> None:
    assert median([]) is None
    assert median_ratio([1.0], []) is None
    assert median_ratio([1.0], [0.0]) is None


@pytest.mark.parametrize(
    ("figure_", "bound", "measured", "reached"),
    [
        (Figure.RATE_TO_PGBOUNCER, 0.8, 0.8, True),
        (Figure.RATE_TO_PGBOUNCER, 0.8, 0.79, False),
        (Figure.RATE_TO_DIRECT, 0.95, 0.94, False),
        (Figure.CPU_TO_PGBOUNCER, 1.6, 1.6, True),
        (Figure.CPU_TO_PGBOUNCER, 1.6, 1.61, False),
        (Figure.CPU_TO_PGBOUNCER, 1.6, None, False),
        (Figure.RATE_TO_PGBOUNCER, 0.8, None, False),
    ],
)
def test_reached(figure_: Figure, bound: float, measured: float | None, reached: bool) -> None:
    assert Outcome(goal=Goal(row="simple-8", figure=figure_, bound=bound), measured=measured).reached is reached


def test_figures_of_a_row() -> None:
    row = result("simple-8", DIRECT=[(200, None)], PGBOUNCER=[(100, 10.0)], DBSHIELD=[(80, 15.0)])
    assert figure(row, Figure.RATE_TO_PGBOUNCER) == pytest.approx(0.8)
    assert figure(row, Figure.RATE_TO_DIRECT) == pytest.approx(0.4)
    assert figure(row, Figure.CPU_TO_PGBOUNCER) == pytest.approx(1.5)


def test_a_failed_contender_has_no_figure_even_after_rounds_that_went_well() -> None:
    row = result("simple-8", PGBOUNCER=[(100, 10.0)], DBSHIELD=[(90, 11.0)])
    row.failures[Name.DBSHIELD] = "a transaction was refused"
    assert figure(row, Figure.RATE_TO_PGBOUNCER) is None
    assert not any(outcome.reached for outcome in outcomes({"simple-8": row}))


def test_only_goals_of_rows_that_were_asked_for() -> None:
    row = result("prepared-8", PGBOUNCER=[(100, 10.0)], DBSHIELD=[(90, 11.0)])
    assert [outcome.goal.row for outcome in outcomes({"prepared-8": row})] == ["prepared-8", "prepared-8"]
    assert all(outcome.reached for outcome in outcomes({"prepared-8": row}))


def test_a_password_is_not_in_the_text_of_an_address() -> None:
    address = Address(port=6432, user="bench", password="do-not-show", dbname="bench")
    assert "do-not-show" not in repr(address)
    assert address.environment()["PGPASSWORD"] == "do-not-show"


def test_rows_say_what_their_cpu_time_is_divided_by() -> None:
    def known(row: Row) -> bool:
        return row.work in {"transaction", "MB", "connection", "statement"} or row.key == "idle-memory"

    assert [row.key for row in ROWS.values() if not known(row)] == []
