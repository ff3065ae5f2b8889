"""What is asked of dbshield's speed, and whether one run of the bench reached it. Eight clients, policy and audit on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique

from bench.measure import median_ratio
from bench.model import Name, Result


@unique
class Figure(StrEnum):
    """What is compared with what; the guard's are of bench/guard.py."""

    RATE_TO_PGBOUNCER = "rate / PgBouncer"
    CPU_TO_PGBOUNCER = "CPU / PgBouncer"
    RATE_TO_DIRECT = "rate / direct"
    GUARD_RATE = "rate with / without guard"
    GUARD_TIME = "time with / without guard"


OF_CONTENDERS = (Figure.RATE_TO_PGBOUNCER, Figure.CPU_TO_PGBOUNCER, Figure.RATE_TO_DIRECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`bound` is a floor for rates and a ceiling for CPU time and for the time that something takes."""

    row: str
    figure: Figure
    bound: float

    @property
    def ceiling(self) -> bool:
        return self.figure in {Figure.CPU_TO_PGBOUNCER, Figure.GUARD_TIME}

    def __str__(self) -> str:
        return f"{self.row}: {self.figure} {'≤' if self.ceiling else '≥'} {self.bound:g}"


GOALS = (
    Goal(row="prepared-8", figure=Figure.RATE_TO_PGBOUNCER, bound=0.8),
    Goal(row="extended-8", figure=Figure.RATE_TO_PGBOUNCER, bound=0.7),
    Goal(row="simple-8", figure=Figure.RATE_TO_PGBOUNCER, bound=0.6),
    Goal(row="prepared-8", figure=Figure.CPU_TO_PGBOUNCER, bound=1.6),
    Goal(row="extended-8", figure=Figure.CPU_TO_PGBOUNCER, bound=1.8),
    Goal(row="simple-8", figure=Figure.CPU_TO_PGBOUNCER, bound=2.5),
    Goal(row="copy-out", figure=Figure.RATE_TO_DIRECT, bound=0.95),
    Goal(row="copy-in", figure=Figure.RATE_TO_DIRECT, bound=0.95),
    Goal(row="select-rows", figure=Figure.RATE_TO_DIRECT, bound=0.95),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`measured` is None where the row did not run, or failed; that is not reached either."""

    goal: Goal
    measured: float | None

    @property
    def reached(self) -> bool:
        if self.measured is None:
            return False
        return self.measured <= self.goal.bound if self.goal.ceiling else self.measured >= self.goal.bound


def outcomes(results: Mapping[str, Result]) -> list[Outcome]:
    """One outcome for each goal whose row was asked for in this run."""
    return [Outcome(goal=goal, measured=figure(results[goal.row], goal.figure)) for goal in GOALS if goal.row in results]


def figure(result: Result, which: Figure) -> float | None:
    """One ratio of dbshield in one row; None where either side has none."""
    base = Name.DIRECT if which is Figure.RATE_TO_DIRECT else Name.PGBOUNCER
    if Name.DBSHIELD in result.failures or base in result.failures:
        return None
    ours, theirs = result.runs.get(Name.DBSHIELD, []), result.runs.get(base, [])
    if which is Figure.CPU_TO_PGBOUNCER:
        return median_ratio([run.cpu or 0.0 for run in ours], [run.cpu or 0.0 for run in theirs])
    return median_ratio([run.value for run in ours], [run.value for run in theirs])
