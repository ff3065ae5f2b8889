"""`python -m bench`: start the server and the contenders, run the rows, print one table, leave nothing behind."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench import machine, report
from bench.contenders import Contender, Direct, PgBouncer, Shield
from bench.database import Database
from bench.goals import outcomes
from bench.guard import GuardResult, GuardServer, guard_outcomes, guard_rows
from bench.guard import run as run_guard
from bench.measure import Neighbours
from bench.model import BenchError, Name, Result, Row, Run, Setup
from bench.workloads import rows
from dbshield.cluster import temporary_folder
from dbshield.errors import DbshieldError

SECONDS, QUICK_SECONDS = 5, 1
ROUNDS, QUICK_ROUNDS = 3, 1
GUARD_ROUNDS = 3
"""Times as many rounds: what the guard costs is near to what the noise is."""
BULK_ROWS, QUICK_BULK_ROWS = 1_000_000, 100_000
IDLE_CONNECTIONS, QUICK_IDLE_CONNECTIONS = 200, 50
SHAPES, QUICK_SHAPES = 1000, 200


def main(arguments: Sequence[str]) -> int:
    """0 when the table was printed, 1 when with --strict a goal was not reached, 2 when there is no table."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    progress = Console(stderr=True)
    try:
        with ExitStack() as stack:
            return _bench(options, arguments, stack, progress)
    except KeyboardInterrupt:
        progress.print("stopped; servers and folders are gone")
        return 130
    except (BenchError, DbshieldError) as error:
        progress.print(f"no table: {error}", markup=False, highlight=False)
        return 2


def _end(_number: int, _frame: FrameType | None) -> None:
    """Leave by one door, also where the shell that started the bench had told it to ignore Ctrl-C."""
    raise KeyboardInterrupt


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    keys = [row.key for row in rows(BULK_ROWS)] + [row.key for row in guard_rows(BULK_ROWS)]
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="dbshield beside a direct connection and PgBouncer, in one table from one run.",
        epilog="example: python -m bench --only prepared-8 simple-8 --rounds 5 --json /tmp/bench.json",
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=keys, help=f"some rows of: {', '.join(keys)}")
    parser.add_argument("--seconds", type=_positive, metavar="N", help=f"of one pgbench run (default {SECONDS})")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="a smoke run: short, one round, a tenth of the bulk rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    parser.add_argument("--metrics", action="store_true", help="have dbshield tell its metrics, to see what that costs")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is not reached")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _bench(options: argparse.Namespace, arguments: Sequence[str], stack: ExitStack, progress: Console) -> int:
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    bulk_rows = QUICK_BULK_ROWS if options.quick else BULK_ROWS
    load = machine.load()
    results: dict[str, Result] = {}
    absent: Mapping[Name, str] = {}
    versions: Sequence[str] = []
    commit_ms: float | None = None
    guarded: dict[str, GuardResult] = {}
    with progress.status("starting PostgreSQL") as status:
        folder = temporary_folder("dbshield-bench-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        neighbours = Neighbours()
        wanted = [row for row in rows(bulk_rows) if not options.only or row.key in options.only]
        if wanted:
            contenders, absent, setup, commit_ms = _started(options, folder, seconds, bulk_rows, stack, status.update)
            versions = [one.version for one in contenders]
            neighbours = Neighbours()
            results = _run(wanted, contenders, setup, rounds, status.update)
        of_guard = [row for row in guard_rows(bulk_rows) if not options.only or row.key in options.only]
        if of_guard:
            status.update("starting a server with and without the guard")
            server = GuardServer(folder / "guarded", bulk_rows)
            stack.callback(server.stop)
            server.start()
            versions = versions or [server.version]
            guarded = run_guard(server, of_guard, seconds=seconds, rounds=rounds * GUARD_ROUNDS, tell=status.update)
    header = machine.header(arguments, versions, seconds=seconds, rounds=rounds, load=load, commit_ms=commit_ms)
    header.append(machine.noise(neighbours.share()))
    reached = [*outcomes(results), *guard_outcomes(guarded)]
    report.print_report(_output(), header, results, absent, reached, guarded)
    if options.json is not None:
        report.write_json(options.json, header, results, absent, reached, guarded)
    return 1 if options.strict and not all(outcome.reached for outcome in reached) else 0


def _started(
    options: argparse.Namespace, folder: Path, seconds: int, bulk_rows: int, stack: ExitStack, tell: Callable[[str], None]
) -> tuple[list[Contender], Mapping[Name, str], Setup, float]:
    """The server with its tables, the contenders in front of it, and milliseconds of a commit in the control database."""
    database = Database.in_folder(folder / "server")
    stack.callback(database.stop)
    database.start()
    tell("filling its tables")
    database.fill(bulk_rows)
    setup = Setup(
        seconds=seconds,
        bulk_rows=bulk_rows,
        idle_connections=QUICK_IDLE_CONNECTIONS if options.quick else IDLE_CONNECTIONS,
        shapes=QUICK_SHAPES if options.quick else SHAPES,
        binaries=database.cluster.binaries.folder,
        folder=folder,
        admin=database.admin,
    )
    commit_ms = database.commit_ms()
    contenders, absent = _contenders(folder, database, stack, tell, metrics=options.metrics)
    return contenders, absent, setup, commit_ms


def _output() -> Console:
    """As wide as the table needs where nobody looks at it directly."""
    console = Console()
    return console if console.is_terminal else Console(width=report.PLAIN_WIDTH, no_color=True)


def _contenders(
    folder: Path, database: Database, stack: ExitStack, tell: Callable[[str], None], *, metrics: bool
) -> tuple[list[Contender], Mapping[Name, str]]:
    """Those that could be started, and why the others could not."""
    makers: dict[Name, Callable[[], Contender]] = {
        Name.DIRECT: lambda: Direct(database),
        Name.PGBOUNCER: lambda: PgBouncer(folder / "pgbouncer", database),
        Name.DBSHIELD: lambda: Shield(folder / "dbshield", database, metrics=metrics),
    }
    ready: list[Contender] = []
    absent: dict[Name, str] = {}
    for name, make in makers.items():
        tell(f"starting {name}")
        try:
            contender = make()
            stack.callback(contender.stop)
            contender.start()
        except BenchError as error:
            absent[name] = str(error)
        else:
            ready.append(contender)
    return ready, absent


def _run(
    wanted: Sequence[Row], contenders: Sequence[Contender], setup: Setup, rounds: int, tell: Callable[[str], None]
) -> dict[str, Result]:
    """All rounds of all rows. The contender that begins changes with the round, so that none is always the first."""
    results = {row.key: Result(row=row) for row in wanted}
    for number in range(rounds):
        turn = number % len(contenders)
        order = [*contenders[turn:], *contenders[:turn]]
        for row in sorted(wanted, key=lambda row: not row.fresh):
            if row.fresh and number:
                continue
            for contender in order:
                if row.proxies_only and contender.processes is None:
                    continue
                tell(f"round {number + 1} of {rounds}: {row.label}, {contender.name}")
                _once(results[row.key], contender, setup)
    return results


def _once(result: Result, contender: Contender, setup: Setup) -> None:
    """One run; one that fails is told in the report and not tried again."""
    if contender.name in result.failures:
        return
    try:
        if result.row.fresh:
            contender.stop()
            contender.start()
        processes = contender.processes
        before = processes.cpu_seconds() if processes is not None else 0.0
        sample = result.row.measure(contender.address, processes.resident_bytes if processes is not None else int, setup)
        spent = processes.cpu_seconds() - before if processes is not None else 0.0
    except BenchError as error:
        result.failures[contender.name] = str(error)
        return
    finally:
        contender.tidy()
    cpu = spent * 1e6 / sample.work if processes is not None and sample.work else None
    result.runs.setdefault(contender.name, []).append(Run(value=sample.value, cpu=cpu, note=sample.note))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
