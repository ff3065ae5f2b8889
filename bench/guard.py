"""What the guard costs those whom it does not hold: the same work straight to the server, with and without it.

One server as servers are run, with durable commits, and on it two databases that are copies of one another, one of them guarded.
Each round does a row in both right after one another, in turns; what counts is the median of each round's own ratio. The server's
own CPU time says the same with less noise.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
from psycopg import pq, sql

from bench.database import INIT_TIMEOUT, ROLE, server_binaries
from bench.goals import Figure, Goal, Outcome
from bench.measure import Processes, median_ratio
from bench.model import Address, BenchError
from bench.workloads import GRACE, pgbench_said, run_client
from dbshield.cluster import Cluster
from dbshield.guard.install import Options, install

SCALE: Final = 5
CLIENTS: Final = 8
SIDES: Final = ("plain", "guarded")
"""The two databases."""
SETTINGS: Final = {
    # Durable commits are PostgreSQL's default and stay. What comes by itself and at any time would only add noise.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "jit": "off",
}
ONE_ROW: Final = r"""\set aid random(1, 100000 * :scale)
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run: transactions per second or seconds, and µs of the server's CPU time per transaction (or for all)."""

    value: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRow:
    """One row. `bound` is a floor for rates and a ceiling for times; None where the row only explains another."""

    key: str
    label: str
    measure: Callable[[GuardServer, str, int], Measured]
    times: bool = False
    bound: float | None = None

    @property
    def goal(self) -> Goal | None:
        if self.bound is None:
            return None
        return Goal(row=self.key, figure=Figure.GUARD_TIME if self.times else Figure.GUARD_RATE, bound=self.bound)


@dataclass(slots=True, kw_only=True)
class GuardResult:
    """All runs of one row: one entry a round for each database; or why there are none."""

    row: GuardRow
    runs: dict[str, list[Measured]] = field(default_factory=lambda: {side: [] for side in SIDES})
    failure: str = ""

    @property
    def ratio(self) -> float | None:
        """Guarded to plain."""
        return None if self.failure else median_ratio(*self._columns("value"))

    @property
    def cpu_ratio(self) -> float | None:
        return None if self.failure else median_ratio(*self._columns("cpu"))

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the greatest ratio of a round: what the noise is."""
        ratios = [ours / theirs for ours, theirs in zip(*self._columns("value"), strict=False) if theirs]
        return (min(ratios), max(ratios)) if ratios and not self.failure else None

    @property
    def outcome(self) -> Outcome | None:
        return None if self.row.goal is None else Outcome(goal=self.row.goal, measured=self.ratio)

    def _columns(self, name: str) -> tuple[list[float], list[float]]:
        plain, guarded = ([float(getattr(run, name)) for run in self.runs[side]] for side in SIDES)
        return guarded, plain


class GuardServer:
    """The server with its two databases."""

    def __init__(self, folder: Path, bulk_rows: int) -> None:
        self.cluster = Cluster(folder, binaries=server_binaries(), listen=True, settings=SETTINGS)
        self.bulk_rows = bulk_rows
        self.script = folder.parent / "one-row.sql"
        self.password = secrets.token_urlsafe(18)

    @property
    def version(self) -> str:
        return f"PostgreSQL {self.cluster.binaries.major}.{self.cluster.binaries.minor}"

    def start(self) -> None:
        """Start it and fill both databases. It goes, folder and all, when this process does."""
        self.script.write_text(ONE_ROW)
        self.cluster.start(throwaway=True)
        plain, guarded = SIDES
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(ROLE), sql.Literal(self.password)))
            admin.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(plain), sql.Identifier(ROLE)))
            pgbench = self.cluster.binaries.program("pgbench")
            run_client([pgbench, "--initialize", "--quiet", f"--scale={SCALE}"], self.address(plain), INIT_TIMEOUT)
            with psycopg.connect(self.address(plain).conninfo(), autocommit=True) as conn:
                conn.execute(
                    "create table bulk as select i as id, 0 as n, 'customer number ' || i as name"
                    " from generate_series(1, %s) as i",
                    [self.bulk_rows],
                )
            admin.execute(sql.SQL("create database {} template {} owner {}").format(*map(sql.Identifier, (guarded, plain, ROLE))))
        with psycopg.connect(self.cluster.dsn(guarded), autocommit=True) as admin:
            install(admin, Options(environment="bench"))
        self.tidy()

    def tidy(self) -> None:
        """After each round, so that no run pays for what an earlier one left."""
        for side in SIDES:
            with psycopg.connect(self.cluster.dsn(side), autocommit=True) as admin:
                admin.execute("vacuum analyze")
                admin.execute("checkpoint")

    def address(self, side: str) -> Address:
        """As the ordinary role that owns the tables."""
        return Address(port=self.cluster.port, user=ROLE, password=self.password, dbname=side)

    def cpu_seconds(self) -> float:
        """Of the server and all its processes, those that have ended too."""
        pid = self.cluster.pid
        if pid is None:
            raise BenchError("the server of the guard's rows has ended")
        return Processes(pid).cpu_seconds()

    def stop(self) -> None:
        self.cluster.remove()


def _pgbench(server: GuardServer, side: str, seconds: int, *, script: bool, durable: bool = True) -> Measured:
    """TPC-B, or the one row of the script."""
    what = [f"--define=scale={SCALE}", "--file", server.script] if script else ["--builtin=tpcb-like"]
    times = [f"--client={CLIENTS}", "--jobs=2", f"--time={seconds}"]
    before = server.cpu_seconds()
    said = run_client(
        [server.cluster.binaries.program("pgbench"), *what, "--protocol=prepared", "--no-vacuum", *times],
        server.address(side),
        seconds + GRACE,
        options="" if durable else "-c synchronous_commit=off",
    )
    spent = server.cpu_seconds() - before
    sample = pgbench_said(said)
    return Measured(value=sample.value, cpu=spent * 1e6 / sample.work)


def _bulk(server: GuardServer, side: str, _seconds: int, *, text: str) -> Measured:
    """One statement over all rows, taken back; nothing of Python is between libpq and the clock."""
    connection = pq.PGconn.connect(server.address(side).conninfo().encode())
    try:
        connection.exec_(b"begin")
        before, began = server.cpu_seconds(), time.perf_counter()
        result = connection.exec_(text.encode())
        taken, spent = time.perf_counter() - began, server.cpu_seconds() - before
        if result.command_tuples != server.bulk_rows:
            raise BenchError(f"{text}: {result.get_error_message() or result.command_tuples}")
        connection.exec_(b"rollback")
    finally:
        connection.finish()
    with psycopg.connect(server.cluster.dsn(side), autocommit=True) as admin:
        admin.execute("vacuum bulk")
    return Measured(value=taken, cpu=spent * 1e6)


def guard_rows(bulk_rows: int) -> tuple[GuardRow, ...]:
    """In the order of the table."""
    one_row = partial(_pgbench, script=True)
    return (
        GuardRow(key="guard-tpcb", label="pgbench TPC-B", measure=partial(_pgbench, script=False), bound=0.95),
        GuardRow(key="guard-update", label="UPDATE of one row", measure=one_row, bound=0.95),
        GuardRow(
            key="guard-update-fast",
            label="the same, synchronous_commit off",
            measure=partial(_pgbench, script=True, durable=False),
        ),
        GuardRow(
            key="guard-bulk-update",
            label=f"UPDATE of {bulk_rows:,} rows",
            measure=partial(_bulk, text="update bulk set n = n + 1"),
            times=True,
            bound=1.15,
        ),
        GuardRow(
            key="guard-bulk-delete",
            label=f"DELETE of {bulk_rows:,} rows",
            measure=partial(_bulk, text="delete from bulk"),
            times=True,
            bound=1.15,
        ),
    )


def run(
    server: GuardServer, rows: Sequence[GuardRow], *, seconds: int, rounds: int, tell: Callable[[str], None]
) -> dict[str, GuardResult]:
    """All rounds of all rows; which database comes first changes with the round."""
    results = {row.key: GuardResult(row=row) for row in rows}
    for number in range(rounds):
        for row in rows:
            result = results[row.key]
            for side in SIDES if number % 2 else reversed(SIDES):
                if result.failure:
                    continue
                tell(f"guard, round {number + 1} of {rounds}: {row.label}, {side}")
                try:
                    result.runs[side].append(row.measure(server, side, seconds))
                except BenchError as error:
                    result.failure = str(error)
        server.tidy()
    return results


def guard_outcomes(results: Mapping[str, GuardResult]) -> list[Outcome]:
    """One outcome for each row that has a goal."""
    return [result.outcome for result in results.values() if result.outcome is not None]
