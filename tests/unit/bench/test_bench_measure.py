"""The CPU time of a contender includes what its children burnt, ended or not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.machine import noise
from bench.measure import Neighbours, Processes, others

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
AND_WAIT = "import sys\nprint(flush=True)\nsys.stdin.read()\n"
STARTS = """
import subprocess, sys
sys.stdin.readline()
with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    if not child.stdout.readline():
        child.wait()
    print(flush=True)
    sys.stdin.readline()
"""
"""Told to, starts a child, and says when that has spoken or ended."""


@contextmanager
def starting(child: str) -> Iterator[tuple[Processes, Callable[[], None]]]:
    """The processes of a program, and what lets it start its child. They are not our own: below us may be servers, whose
    processes come and go with what other tests do."""
    with subprocess.Popen([sys.executable, "-c", STARTS, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def start() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline()

        yield Processes(process.pid), start
        process.communicate()


def test_a_child_that_ended_still_counts() -> None:
    with starting(BURN) as (processes, start):
        before = processes.cpu_seconds()
        start()
        assert processes.cpu_seconds() - before >= 0.25


def test_a_child_that_lives_counts_in_time_and_memory() -> None:
    with starting(BURN + AND_WAIT) as (processes, start):
        time_before, memory_before = processes.cpu_seconds(), processes.resident_bytes()
        start()
        assert processes.cpu_seconds() - time_before >= 0.25
        assert processes.resident_bytes() - memory_before > 4_000_000


def test_a_process_that_is_gone_costs_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    processes = Processes(child.pid)
    child.communicate(b"\n")
    assert processes.cpu_seconds() == 0.0
    assert processes.resident_bytes() == 0


@pytest.mark.parametrize(
    ("total", "busy", "ours", "share"),
    [(20.0, 10.0, 9.0, 0.05), (20.0, 10.0, 10.01, 0.0), (20.0, 20.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0)],
)
def test_neighbours_have_what_is_busy_and_not_ours(total: float, busy: float, ours: float, share: float) -> None:
    assert others(total, busy, ours) == pytest.approx(share)


def test_neighbours_are_read_from_this_machine() -> None:
    neighbours = Neighbours()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert 0.0 <= neighbours.share() < 1.0


def test_a_busy_machine_is_told() -> None:
    assert "not to be trusted" in noise(0.4)
    assert noise(0.02) == "noise     other programs took 2% of all CPU time meanwhile"
