"""A daemon beside another process: the signals that it gets at a bad moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
from dbshield.cli import beside

def slow(*given, real=beside.told_by_signals):
    time.sleep(0.2)
    return real(*given)

def work(told):
    while not (told.reload.wait(0.01) or told.stop.is_set()):
        pass
    print("reload", told.reload.is_set(), "stop", told.stop.is_set(), flush=True)

beside.told_by_signals = slow
with beside.beside("part", work) as pid:
    os.kill(pid, getattr(signal, sys.argv[1]))
    # Not buried: its number is used once more when the block ends.
    print("ended with", os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_status)
"""


@pytest.mark.parametrize(("name", "heard"), [("SIGHUP", "reload True stop False"), ("SIGTERM", "reload False stop True")])
def test_regression_a_signal_before_it_listens_is_heard(name: str, heard: str) -> None:
    """A SIGHUP ended it, and `dbshield up` went on without it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == ([heard, "ended with 0"], "")
