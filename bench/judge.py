"""What a verdict costs: `python -m bench.judge`.

Texts of tests/cases for first-seen costs, pgbench's own query for the cache. Processor time, medians and the best of several
rounds, because the machine is never quiet.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

CASES = Path(__file__).parent.parent / "tests" / "cases"
ROUNDS = 5
POINT_SELECT = b"SELECT abalance FROM pgbench_accounts WHERE aid = %d;"
POINT_UPDATE = b"UPDATE pgbench_accounts SET abalance = abalance + %d WHERE aid = %d"


def fresh(access: AccessLevel = AccessLevel.WRITE) -> Judge:
    return Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin())


def microseconds(body: Callable[[], object], number: int) -> float:
    """The best of several rounds, for one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(number):
            body()
        best = min(best, time.process_time() - begin)
    return best / number * 1e6


def first_seen(name: str) -> list[float]:
    """Microseconds for each text of a file of cases, each by a judge that has not seen it."""
    costs: list[float] = []
    for line in (CASES / name).read_text().splitlines():
        case = json.loads(line)
        for step in case["steps"]:
            if "sql" in step:
                rounds = []
                for _ in range(3):
                    judge = fresh(AccessLevel(case["access"]))
                    begin = time.process_time()
                    judge.judge(step["sql"].encode())
                    rounds.append((time.process_time() - begin) * 1e6)
                costs.append(min(rounds))
    return costs


def main() -> None:
    judge = fresh()
    text, numbers = POINT_SELECT % 12345, count()
    judge.judge(text)
    rows = [
        ("exact text, from the cache", microseconds(lambda: judge.judge(text), 100_000)),
        ("new literal, from the cache", microseconds(lambda: judge.judge(POINT_SELECT % next(numbers)), 10_000)),
        (
            "new literal and a new comment",
            microseconds(lambda: judge.judge(POINT_SELECT[:-1] % next(numbers) + b" /* trace=%d */" % next(numbers)), 5_000),
        ),
        ("point SELECT, first seen", microseconds(lambda: fresh().judge(text), 1_000)),
        ("point UPDATE, first seen", microseconds(lambda: fresh().judge(POINT_UPDATE % (1, 2)), 500)),
    ]
    for name in ("harmless.jsonl", "attacks.jsonl"):
        costs = first_seen(name)
        rows.append((f"{name}, first seen, median", statistics.median(costs)))
        rows.append((f"{name}, first seen, 95 %", statistics.quantiles(costs, n=20)[-1]))
    for label, cost in rows:
        sys.stdout.write(f"{label:<40} {cost:10.2f} µs\n")


if __name__ == "__main__":
    main()
