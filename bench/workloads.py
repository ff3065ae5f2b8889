"""The rows of the table: what is done to each contender, and what is counted.

The clients are written in C wherever they are measured (pgbench, psql, libpq), so that they take as little as can be of a
machine that they share with the server and the proxy.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
from psycopg import pq

from bench.model import Address, BenchError, Row, Sample, Setup

MODES = ("prepared", "extended", "simple")
CLIENTS = (1, 8, 32)
GRACE = 60.0
"""Seconds that a client program may take beyond the time it was told to run for."""
BULK_TIMEOUT = 300.0
MB = 1_000_000

Resident = Callable[[], int]


def rows(bulk_rows: int) -> tuple[Row, ...]:
    """All rows in the order of the table; `fresh` ones are run first all the same."""
    select = tuple(
        Row(
            key=f"{mode}-{clients}",
            label=f"pgbench -S {mode}, {clients} client{'s' if clients > 1 else ''}",
            unit="tps",
            work="transaction",
            measure=partial(_pgbench, ("--select-only", f"--protocol={mode}"), clients),
        )
        for mode in MODES
        for clients in CLIENTS
    )
    return (
        *select,
        Row(
            key="tpcb-8",
            label="pgbench TPC-B simple, 8 clients",
            unit="tps",
            work="transaction",
            measure=partial(_pgbench, ("--builtin=tpcb-like", "--protocol=simple"), 8),
        ),
        Row(
            key="update-8",
            label="pgbench -N prepared, 8 clients",
            unit="tps",
            work="transaction",
            measure=partial(_pgbench, ("--builtin=simple-update", "--protocol=prepared"), 8),
        ),
        Row(
            key="update-32",
            label="pgbench -N prepared, 32 clients",
            unit="tps",
            work="transaction",
            measure=partial(_pgbench, ("--builtin=simple-update", "--protocol=prepared"), 32),
        ),
        Row(key="copy-out", label="COPY out", unit="MB/s", work="MB", measure=_copy_out, notes=True),
        Row(key="copy-in", label="COPY in", unit="MB/s", work="MB", measure=_copy_in, notes=True),
        Row(key="select-rows", label=f"SELECT of {bulk_rows:,} rows", unit="MB/s", work="MB", measure=_select_rows, notes=True),
        Row(
            key="connect",
            label="new connections, 8 clients",
            unit="conn/s",
            work="connection",
            measure=partial(_pgbench, ("--select-only", "--connect"), 8),
        ),
        Row(
            key="idle-memory",
            label="memory per idle connection",
            unit="KiB",
            work="",
            measure=_idle_memory,
            lower_is_better=True,
            fresh=True,
            proxies_only=True,
        ),
        Row(
            key="first-seen",
            label="first-seen statement, extra time",
            unit="µs",
            work="statement",
            measure=_first_seen,
            lower_is_better=True,
            ratios=False,
        ),
    )


def run_client(command: list[str | Path], address: Address, timeout: float, options: str = "") -> str:
    """Run one client program to its end; its output. `options` are settings of its session, as PGOPTIONS has them.

    Raises:
        BenchError: it failed, with its last line of complaint.
    """
    try:
        done = subprocess.run(
            command,
            env=address.environment() | ({"PGOPTIONS": options} if options else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{Path(command[0]).name} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise BenchError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BenchError(f"{Path(command[0]).name}: {' '.join(complaints[:2]) or 'failed without a word'}")
    return done.stdout


def _pgbench(arguments: tuple[str, ...], clients: int, address: Address, _resident: Resident, setup: Setup) -> Sample:
    """Transactions per second of pgbench's own clock, which starts when all clients are connected (but for --connect)."""
    threads = min(2, clients)
    said = run_client(
        [
            setup.binaries / "pgbench",
            *arguments,
            "--no-vacuum",
            f"--client={clients}",
            f"--jobs={threads}",
            f"--time={setup.seconds}",
        ],
        address,
        setup.seconds + GRACE,
    )
    return pgbench_said(said)


def pgbench_said(said: str) -> Sample:
    """The rate and the count in what pgbench printed. BenchError where there are none, or where transactions failed."""
    rate = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    count = re.search(r"^number of transactions actually processed: (\d+)", said, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", said, re.MULTILINE)
    if rate is None or count is None or int(count[1]) == 0:
        raise BenchError(f"pgbench counted nothing: {said.strip()[-200:]}")
    if failed is not None and int(failed[1]):
        raise BenchError(f"{failed[1]} transactions failed")
    return Sample(value=float(rate[1]), work=float(count[1]))


def _psql_seconds(command: str, address: Address, setup: Setup) -> float:
    r"""How long psql says that one command took (\timing), without its own start and login."""
    said = run_client(
        [setup.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", r"\timing on", "-c", command], address, BULK_TIMEOUT
    )
    taken = re.search(r"^Time: ([0-9.]+) ms", said, re.MULTILINE)
    if taken is None:
        raise BenchError(f"psql told no time: {said[-200:]}")
    return float(taken[1]) / 1000


def _copy_file(setup: Setup) -> Path:
    """The bulk table as COPY writes it, made once by the server's superuser past every proxy."""
    path = setup.folder / "bulk.copy"
    if not path.exists():
        with psycopg.connect(setup.admin) as conn, path.open("wb") as stream, conn.cursor().copy("copy bulk to stdout") as copy:
            for block in copy:
                stream.write(block)
    return path


def _copy_out(address: Address, _resident: Resident, setup: Setup) -> Sample:
    size = _copy_file(setup).stat().st_size / MB
    seconds = _psql_seconds(r"\copy bulk to '/dev/null'", address, setup)
    return Sample(value=size / seconds, work=size, note=f"{seconds:.2f} s")


def _copy_in(address: Address, _resident: Resident, setup: Setup) -> Sample:
    path = _copy_file(setup)
    size = path.stat().st_size / MB
    with psycopg.connect(setup.admin, autocommit=True) as admin:
        admin.execute("truncate sink")
    seconds = _psql_seconds(rf"\copy sink from '{path}'", address, setup)
    with psycopg.connect(setup.admin, autocommit=True) as admin:
        arrived = admin.execute("select count(*) from sink").fetchone()
        admin.execute("truncate sink")
    if arrived is None or arrived[0] != setup.bulk_rows:
        raise BenchError(f"{arrived} of {setup.bulk_rows} rows arrived")
    return Sample(value=size / seconds, work=size, note=f"{seconds:.2f} s")


def _select_rows(address: Address, _resident: Resident, setup: Setup) -> Sample:
    """One SELECT whose whole result libpq collects; MB are those of the DataRow messages (7 bytes, and 4 a column)."""
    columns = ("id", "name", "amount")
    lengths = " + ".join(f"octet_length({column}::text)" for column in columns)
    with psycopg.connect(setup.admin) as admin:
        row = admin.execute(f"select sum(7 + 4 * {len(columns)} + {lengths}) from bulk").fetchone()
    size = float(row[0]) / MB if row is not None else 0.0
    with _Libpq(address) as connection:
        began = time.perf_counter()
        result = connection.execute(f"select {', '.join(columns)} from bulk")
        seconds = time.perf_counter() - began
        if result.ntuples != setup.bulk_rows:
            raise BenchError(f"{result.ntuples} of {setup.bulk_rows} rows arrived")
        result.clear()
    return Sample(value=size / seconds, work=size, note=f"{seconds:.2f} s")


def _idle_memory(address: Address, resident: Resident, setup: Setup) -> Sample:
    """Growth of the proxy's resident memory over connections that logged in, ran one statement, and wait."""
    with ExitStack() as stack:

        def connect() -> None:
            conn = stack.enter_context(psycopg.connect(address.conninfo(), autocommit=True))
            conn.execute("select 1")

        # The first ones pay for what the proxy loads once.
        for _ in range(5):
            connect()
        before = resident()
        for _ in range(setup.idle_connections):
            connect()
        grown = resident() - before
    return Sample(value=grown / setup.idle_connections / 1024, work=0)


def _first_seen(address: Address, _resident: Resident, setup: Setup) -> Sample:
    """Median of how much longer a statement takes than the same statement right after it; no two share a shape.

    The second time the proxy has seen it; the server parses and plans a simple Query anew each time.
    """
    extra, known = [], []
    with _Libpq(address) as connection:
        for text in _shapes(setup.shapes, salt=f"{time.time_ns():x}"):
            first, again = _latency(connection, text), _latency(connection, text)
            extra.append(first - again)
            known.append(again)
    return Sample(
        value=statistics.median(extra) * 1e6, work=2 * len(extra), note=f"known {statistics.median(known) * 1e6:.0f} µs"
    )


def _shapes(count: int, salt: str) -> Iterator[str]:
    """Statements as an agent writes them; an alias that was never used before makes each a new shape."""
    templates = (
        "select abalance as c{n} from pgbench_accounts where aid = {i}",
        "select a.bid, count(*) as c{n}, max(a.abalance) from pgbench_accounts a where a.aid between {i} and {i} + 9"
        " group by a.bid order by 2 desc limit 5",
        "with t as (select tid, tbalance from pgbench_tellers where bid = {i} % 10)"
        " select b.bid, t.tid as c{n} from pgbench_branches b left join t on t.tid = b.bid where b.bid < 3",
        "update pgbench_tellers set tbalance = tbalance + 1 where tid = {i} % 100 and bid is distinct from 0"
        " returning tid as c{n}",
    )
    for i in range(count):
        yield templates[i % len(templates)].format(n=f"{salt}_{i}", i=i + 1)


class _Libpq:
    """A connection with nothing of Python between libpq and the clock."""

    def __init__(self, address: Address) -> None:
        self._connection = pq.PGconn.connect(address.conninfo().encode())
        if self._connection.status != pq.ConnStatus.OK:
            raise BenchError(f"no connection: {self._connection.get_error_message()}")

    def __enter__(self) -> _Libpq:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.finish()

    def execute(self, text: str) -> pq.abc.PGresult:
        result = self._connection.exec_(text.encode())
        if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
            raise BenchError(f"{text[:60]}: {result.get_error_message()}")
        return result


def _latency(connection: _Libpq, text: str) -> float:
    began = time.perf_counter()
    connection.execute(text)
    return time.perf_counter() - began
