"""`python -m bench.backups`: backups and restores beside one another, in one table from one run, and drills by phase.

Rates are megabytes of the cluster (10^6 bytes, as PostgreSQL counts it) a second, so they compare whatever is stored. `copy` is
until the data lies at its destination, or from there on the disk; `whole` is until the command has ended: dbshield counts and
fingerprints every table in a backup, and starts a server, compares and syncs in a restore, which nobody else does. Others start
a server on what they have laid down.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.backup_contenders import BaseBackup, Contender, Dump, PgBackRest, Shield, Took
from bench.backup_ground import JOBS, Ground
from bench.measure import Neighbours, median, median_ratio
from bench.model import BenchError
from dbshield.cluster import temporary_folder
from dbshield.errors import DbshieldError

MEGABYTES: Final = 2000
QUICK_MEGABYTES: Final = 60
ROUNDS: Final = 3
NAMES: Final = ("pg_dump", "logical", "pg_basebackup", "pg_basebackup-threads", "physical", "pgbackrest")
GOAL: Final = 0.8
"""Of bare pg_basebackup's rate with the same compression: what the engine physical copies at, sealed."""
MB: Final = 1e6
PLAIN_WIDTH: Final = 160
NOTHING: Final = "–"


@dataclass(slots=True)
class Rows:
    """All runs of one contender, one a round; or why there are none."""

    name: str
    backups: list[Took] = field(default_factory=list)
    restores: list[Took] = field(default_factory=list)
    failure: str = ""


@dataclass(slots=True)
class Found:
    """What a run of the bench gave. `bytes` are of the cluster; `drills` seconds by phase and by check."""

    bytes: int
    rows: dict[str, Rows]
    drills: dict[str, Mapping[str, float]]

    def rate(self, name: str, kind: str, part: str) -> float | None:
        """MB/s, the median of the rounds."""
        taken = [float(getattr(took, part)) for took in getattr(self.rows[name], kind)]
        return median([self.bytes / MB / seconds for seconds in taken if seconds > 0])

    def ratio(self, ours: str, theirs: str, part: str) -> float | None:
        """How fast we back up beside them: the median of each round's own ratio; None where one of us did not run."""
        if ours not in self.rows or theirs not in self.rows:
            return None
        these = [1 / getattr(took, part) for took in self.rows[ours].backups]
        return median_ratio(these, [1 / took.whole for took in self.rows[theirs].backups])


def main(arguments: Sequence[str]) -> int:
    """0 when the table was printed, 1 when with --strict the goal was not reached, 2 when there is no table."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    progress = Console(stderr=True)
    load, neighbours = machine.load(), Neighbours()
    try:
        with ExitStack() as stack:
            status = stack.enter_context(progress.status("starting PostgreSQL"))
            ground, found = _measured(options, stack, status.update)
    except KeyboardInterrupt:
        progress.print("stopped; servers and folders are gone")
        return 130
    except (BenchError, DbshieldError) as error:
        progress.print(f"no table: {error}", markup=False, highlight=False)
        return 2
    header = [
        f"command   python -m bench.backups {' '.join(arguments)}".rstrip(),
        machine.stand(load),
        f"server    PostgreSQL {ground.binaries.major}.{ground.binaries.minor}, {found.bytes / MB:,.0f} MB, pgbench scale"
        f" {ground.scale}, nobody else connected; everything on one disk",
        f"method    {options.rounds} rounds, contenders interleaved in each; medians",
        machine.noise(neighbours.share()),
    ]
    reached = _print(found, header)
    if options.json is not None:
        _write_json(options.json, header, found)
    return 1 if options.strict and not reached else 0


def _end(_number: int, _frame: FrameType | None) -> None:
    """Leave by one door, so that servers and folders go."""
    raise KeyboardInterrupt


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.backups",
        description="dbshield's backups beside pg_dump, pg_basebackup and pgBackRest, and drills by phase.",
        epilog="example: python -m bench.backups --megabytes 500 --rounds 1 --json /tmp/backups.json",
    )
    parser.add_argument("--megabytes", type=_positive, metavar="N", help=f"of the database (default {MEGABYTES})")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES, help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help=f"a smoke run: {QUICK_MEGABYTES} MB, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    parser.add_argument("--strict", action="store_true", help="exit 1 when the goal is not reached")
    options = parser.parse_args(arguments)
    options.megabytes = options.megabytes or (QUICK_MEGABYTES if options.quick else MEGABYTES)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _measured(options: argparse.Namespace, stack: ExitStack, tell: Callable[[str], None]) -> tuple[Ground, Found]:
    """All rounds of all contenders, then the drills. The contender that begins changes with the round."""
    folder = temporary_folder("dbshield-bench-")
    folder.chmod(0o711)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    ground = Ground(folder, options.megabytes)
    stack.callback(ground.stop)
    tell(f"filling {options.megabytes} MB of tables")
    ground.start()
    makers: dict[str, Callable[[], Contender]] = {
        "pg_dump": lambda: Dump(ground),
        "logical": lambda: Shield(ground, "logical"),
        "pg_basebackup": lambda: BaseBackup(ground),
        "pg_basebackup-threads": lambda: BaseBackup(ground, workers=JOBS),
        "physical": lambda: Shield(ground, "physical"),
        "pgbackrest": lambda: PgBackRest(ground),
    }
    found = Found(bytes=ground.bytes, rows={}, drills={})
    contenders: dict[str, Contender] = {}
    for key in options.only or NAMES:
        try:
            contenders[key] = makers[key]()
            found.rows[key] = Rows(contenders[key].name)
        except BenchError as error:
            found.rows[key] = Rows(key, failure=str(error))
    for number in range(options.rounds):
        turn = number % len(contenders)
        for key in [*list(contenders)[turn:], *list(contenders)[:turn]]:
            tell(f"round {number + 1} of {options.rounds}: {contenders[key].name}")
            _once(found.rows[key], contenders[key])
    for key, contender in contenders.items():
        if isinstance(contender, Shield):
            tell(f"drilling {contender.name}")
            contender.back_up()
            found.drills[key] = contender.drill()
            contender.stop()
    return ground, found


def _once(rows: Rows, contender: Contender) -> None:
    """One backup and its restore; what fails is told in the report and not tried again."""
    if rows.failure:
        return
    try:
        rows.backups.append(contender.back_up())
        rows.restores.append(contender.restore())
    except BenchError as error:
        rows.failure = str(error)
    finally:
        contender.stop()


def _print(found: Found, header: Sequence[str]) -> bool:
    """Header, tables, and whether the goal was reached."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH, no_color=True)
    for line in header:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(table(found, terminal=console.is_terminal))
    for rows in found.rows.values():
        if rows.failure:
            console.print(f"{rows.name}: {rows.failure}", markup=False, highlight=False, soft_wrap=True)
    if found.drills:
        console.print(drill_table(found, terminal=console.is_terminal))
    copied, whole = (found.ratio("physical", "pg_basebackup", part) for part in ("copy", "whole"))
    threads = found.ratio("physical", "pg_basebackup-threads", "copy")
    reached = copied is not None and copied >= GOAL
    word = "reached" if reached else "not measured" if copied is None else "not reached"
    console.print(
        f"  {word:<12} physical, compressed and sealed: copies at ≥ {GOAL:g} of pg_basebackup's rate, measured {_two(copied)}"
        f" ({_two(whole)} with finding the moment, counts and fingerprints; {_two(threads)} of its rate with as many threads)",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return reached


def table(found: Found, *, terminal: bool) -> Table:
    """Medians over the rounds."""
    drawn = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    drawn.add_column("MB/s of the cluster")
    for heading in ("backup: copy", "whole", "stored, MB", "restore: copy", "whole"):
        drawn.add_column(heading, justify="right")
    for key, rows in found.rows.items():
        stored = median([took.stored / MB for took in rows.backups])
        drawn.add_row(
            rows.name,
            _whole(found.rate(key, "backups", "copy")),
            _whole(found.rate(key, "backups", "whole")),
            _whole(stored),
            _whole(found.rate(key, "restores", "copy")),
            _whole(found.rate(key, "restores", "whole")),
        )
    return drawn


def drill_table(found: Found, *, terminal: bool) -> Table:
    """Seconds of one drill for each engine."""
    drawn = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    drawn.add_column("seconds of a drill")
    for engine in found.drills:
        drawn.add_column(engine, justify="right")
    for phase in dict.fromkeys(name for seconds in found.drills.values() for name in seconds):
        drawn.add_row(phase, *(_two(seconds.get(phase)) for seconds in found.drills.values()))
    return drawn


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _two(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _write_json(path: Path, header: Sequence[str], found: Found) -> None:
    """Every single run."""
    tree: dict[str, Any] = {
        "header": list(header),
        "bytes": found.bytes,
        "rows": {key: asdict(rows) for key, rows in found.rows.items()},
        "drills": found.drills,
    }
    path.write_text(json.dumps(tree, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
