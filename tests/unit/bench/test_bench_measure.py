"""The CPU time of a contender includes what its children burnt, ended or not."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.measure import Processes

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_a_child_that_ended_still_counts() -> None:
    processes = Processes(os.getpid())
    before = processes.cpu_seconds()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert processes.cpu_seconds() - before >= 0.25


def test_a_child_that_lives_counts_in_time_and_memory() -> None:
    processes = Processes(os.getpid())
    time_before, memory_before = processes.cpu_seconds(), processes.resident_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", f"{BURN}print(flush=True)\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes.cpu_seconds() - time_before >= 0.25
        assert processes.resident_bytes() - memory_before > 4_000_000
        child.communicate(b"\n")


def test_a_process_that_is_gone_costs_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    processes = Processes(child.pid)
    child.communicate(b"\n")
    assert processes.cpu_seconds() == 0.0
    assert processes.resident_bytes() == 0
