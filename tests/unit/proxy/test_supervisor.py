"""The supervisor, in a process of its own: what it does with workers that die, and with signals at a bad moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
from support.waiting import until

SCRIPT = """
import os, signal, sys, time
import structlog
from dbshield.proxy import supervisor
supervisor.RESTART_PAUSE = {pause}
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout))

def work(number):
    print("worker " + str(number) + " is " + str(os.getpid()) + "\\n", end="", flush=True)
    {work}

def stop():
    print("stopping", flush=True)

sys.exit(supervisor.Supervisor(2, work, structlog.get_logger(), on_stop=stop).run())
"""
LIVES = "signal.pause()"
LISTENS = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.sigwait([signal.SIGTERM]); return 0"
DIES = "return 3"
CANNOT_BEGIN = "return supervisor.CANNOT_BEGIN"
ONE_STANDS = "return supervisor.CANNOT_BEGIN if number else signal.pause()"
RELOADS = "print('reloads', signal.sigwait([signal.SIGHUP]) == signal.SIGHUP, flush=True); return signal.pause()"
BREAKS = "raise ValueError('a bug')"


class Run:
    """The script, with what it has said."""

    def __init__(self, work: str, *, pause: float = 0.05) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(work=work, pause=pause)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self._lines = self.process.stdout
        self.said = ""

    def read_until(self, what: str) -> bool:
        while what not in self.said and (line := self._lines.readline()):
            self.said += line
        return what in self.said

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            self.said += self.process.communicate(timeout=20)[0]
        finally:
            self.process.kill()
        return self.process.returncode


def test_workers_that_obey_end_it_with_success() -> None:
    run = Run(LISTENS)
    assert run.read_until("worker 0")
    assert run.read_until("worker 1")
    code = run.end()
    assert run.said.count("stopping") == 1
    # Also of one that was told before it listened, and so ended by the signal itself.
    assert code == 0


def test_regression_a_proxy_that_stood_still_for_a_pause_starts_its_workers_again() -> None:
    """As by Ctrl-Z, or for a debugger: it took what CPython told then for a signal to stop, and took nobody any more."""
    run = Run(DIES, pause=0.5)
    assert run.read_until("started again")
    supervisor = psutil.Process(run.process.pid)
    assert until(lambda: supervisor.status() == psutil.STATUS_SLEEPING)
    supervisor.suspend()
    run.said, over = "", time.monotonic() + 0.6
    assert until(lambda: time.monotonic() > over)
    supervisor.resume()
    assert run.read_until("worker 0 is"), run.said
    run.end()
    assert run.said.count("stopping") == 1


def test_regression_a_signal_while_workers_die_is_not_lost() -> None:
    """Whichever moment it comes in: a worker has just died, is being started, or has not been told."""
    for _ in range(5):
        run = Run(DIES)
        assert run.read_until("started again")
        run.end()
        assert until(lambda: run.process.poll() is not None)  # noqa: B023


def test_workers_that_cannot_begin_are_not_started_for_ever() -> None:
    run = Run(CANNOT_BEGIN)
    assert run.read_until("no worker can begin")
    run.said += run.process.communicate(timeout=20)[0]
    assert run.process.returncode == 2
    # Three each, and another for one that the other has kept waiting.
    assert 3 <= min(run.said.count("worker 0 is"), run.said.count("worker 1 is")) < 6


def test_a_worker_that_cannot_begin_is_tried_again_while_another_stands() -> None:
    """More often than the proxy would wait for if none did; and the one that stands is left alone."""
    run = Run(ONE_STANDS)
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.8):
        assert run.read_until(f"seconds={seconds}")
    assert run.end() == 0
    assert "no worker can begin" not in run.said
    assert run.said.count("worker 0 is") == 1


def test_regression_why_a_worker_broke_is_told() -> None:
    run = Run(BREAKS)
    assert run.read_until("started again")
    run.end()
    assert "ValueError" in run.said
    assert "a bug" in run.said


def test_regression_signals_at_once_are_all_heard() -> None:
    """And a reload before a worker listens does not end it."""
    run = Run(LIVES)
    assert run.read_until("worker 0")
    assert run.read_until("worker 1")
    for _ in range(20):
        run.process.send_signal(signal.SIGHUP)
    run.end()
    assert "started again" not in run.said


def test_regression_a_reload_waits_for_a_worker_that_has_not_begun() -> None:
    """It has read the configuration already, perhaps the one before."""
    run = Run(f"while not signal.sigpending(): time.sleep(0.01)\n    {RELOADS}")
    assert run.read_until("worker 0")
    assert run.read_until("worker 1")
    run.process.send_signal(signal.SIGHUP)
    assert run.read_until("reloads True\nreloads True")
    run.end()


def test_workers_end_with_a_supervisor_that_is_killed() -> None:
    """Or they would hold the port, and the next proxy could not start."""
    run = Run(LIVES)
    assert run.read_until("worker 0 is")
    assert run.read_until("worker 1 is")
    workers = [psutil.Process(int(line.split()[-1])) for line in run.said.splitlines() if " is " in line]
    assert len(workers) == 2
    run.end(signal.SIGKILL)
    assert until(lambda: all(map(_ended, workers)))


ORPHAN = """
import os, time
from dbshield.proxy.supervisor import end_with_parent
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    end_with_parent(parent)
    print("goes on", flush=True)
"""


def test_a_worker_whose_supervisor_was_killed_before_it_had_begun_does_not_begin() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def _ended(process: psutil.Process) -> bool:
    """Gone, or dead and not buried: whoever inherits orphans here may not care for them."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
