"""Several workers that share the listening sockets: start them, start again those that die, pass on signals.

The sockets are bound before the first fork and inherited, so a worker that dies loses no connection that waits in the queue.
A single worker needs no supervisor and runs in the process itself.

A worker that cannot begin (the control database is away, a folder cannot be written to) says why and ends with CANNOT_BEGIN. It
is tried again after longer and longer pauses for as long as another one stands; where none does, the proxy gives up, as a single
worker would.

Signals are blocked and waited for, never handled: a handler that runs just before the process goes to sleep would be lost on it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

RESTART_PAUSE: Final = 1.0
"""Seconds before a worker that died is started again: one that dies at once must not spin."""
LONGEST_PAUSE: Final = 60.0
"""Seconds, where a worker could not begin time and again; each pause is twice the one before."""
CANNOT_BEGIN: Final = 2
"""The exit code of a worker that has said why it cannot begin."""
BUG: Final = 70
"""EX_SOFTWARE of sysexits.h."""
TRIES: Final = 3
"""Beginnings of each worker that fail before the proxy gives up, where none of them stands."""
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AWAITED: Final = (*FORWARDED, signal.SIGCHLD)
PR_SET_PDEATHSIG: Final = 1
"""prctl(2), of Linux alone."""


class Supervisor:
    """Runs `work(number)` in `workers` processes; `work` returns its exit code. `on_stop` is called when they are told to
    stop, for what the workers inherited; `on_reload` when they are told to read the configuration again, so that a worker that
    is started later begins with what the others have by then."""

    def __init__(
        self,
        workers: int,
        work: Callable[[int], int],
        log: Any,
        *,
        on_stop: Callable[[], None],
        on_reload: Callable[[], None] = lambda: None,
    ) -> None:
        self._workers = workers
        self._work = work
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._log = log
        self._running: dict[int, int] = {}
        self._due: dict[int, float] = {}
        """The workers that are to be started again, with the time on the clock that only goes forward."""
        self._failed = [0] * workers
        """For each worker its beginnings that failed since one did not."""
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """The exit code: that of the only worker, or the highest of those that ended after a signal to stop; CANNOT_BEGIN where
        no worker can begin."""
        if self._workers == 1:
            return self._work(0)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
        try:
            for worker in range(self._workers):
                self._start(worker)
            while self._running or self._due:
                number = self._wait()
                if number == signal.SIGCHLD:
                    self._bury()
                elif number is not None:
                    self._forward(number)
                self._start_due()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._code

    def _wait(self) -> int | None:
        """The next signal; None when a worker is due before it."""
        if not self._due:
            return signal.sigwait(AWAITED)
        found = signal.sigtimedwait(AWAITED, max(0.0, min(self._due.values()) - time.monotonic()))
        # Of a process that was stopped meanwhile and goes on when the time is over (Ctrl-Z, a debugger), CPython tells a signal
        # that nobody has sent, with any number.
        return found.si_signo if found is not None and found.si_signo in AWAITED else None

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker, due in self._due.items() if due <= now]:
            del self._due[worker]
            self._start(worker)

    def _start(self, worker: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = worker
            return
        code = BUG
        try:
            end_with_parent(parent)
            # A worker that has not begun to listen to signals has nothing to drain. What it would reload waits at the door:
            # between the fork and its beginning the configuration may have changed once more.
            for number in FORWARDED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(AWAITED) - {signal.SIGHUP})
            code = self._work(worker)
        except Exception:  # noqa: BLE001 - the child's own end: said here or nowhere
            self._log.exception("bug in a worker", worker=worker)
        finally:
            os._exit(code)

    def _forward(self, number: int) -> None:
        if number != signal.SIGHUP and not self._stopping:
            self._stopping = True
            self._due.clear()
            self._on_stop()
        for pid in self._running:
            # One that has ended is not buried yet, so its number belongs to nobody else.
            os.kill(pid, number)
        if number == signal.SIGHUP:
            self._on_reload()

    def _bury(self) -> None:
        """Those that have ended; the process may have children that are no workers."""
        for pid, worker in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._running[pid]
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                # One that had not begun yet ends by the signal itself.
                self._code = max(self._code, 0 if -code in FORWARDED else abs(code))
                continue
            self._again(worker, code)

    def _again(self, worker: int, code: int) -> None:
        """A worker has ended of itself."""
        pause = RESTART_PAUSE
        if code == CANNOT_BEGIN:
            self._failed[worker] += 1
            pause = min(LONGEST_PAUSE, RESTART_PAUSE * 2 ** (self._failed[worker] - 1))
            if not self._running and min(self._failed) >= TRIES:
                self._log.critical("no worker can begin, so the proxy ends", tries=TRIES)
                self._code = CANNOT_BEGIN
                self._due.clear()
                return
        else:
            self._failed[worker] = 0
        self._log.error("a worker died and is started again", worker=worker, code=code, seconds=pause)
        self._due[worker] = time.monotonic() + pause


def end_with_parent(parent: int) -> None:
    """A supervisor that is killed takes its workers along: orphans would hold the port, and nobody could stop them by name. Of a
    `parent` that was killed before it was asked for, the kernel tells nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
