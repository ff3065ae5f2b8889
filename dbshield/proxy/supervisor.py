"""Several workers that share the listening sockets: start them, start again those that die, pass on signals.

The sockets are bound before the first fork and inherited, so a worker that dies loses no connection that waits in the queue.
A single worker needs no supervisor and runs in the process itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

RESTART_PAUSE: Final = 1.0
"""Seconds before a worker that died is started again: one that dies at once must not spin."""
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Runs `work(number)` in `workers` processes; `work` returns its exit code. `on_stop` is called when they are told to
    stop, for what the workers inherited."""

    def __init__(self, workers: int, work: Callable[[int], int], log: Any, *, on_stop: Callable[[], None]) -> None:
        self._workers = workers
        self._work = work
        self._on_stop = on_stop
        self._log = log
        self._running: dict[int, int] = {}
        self._stopping = False

    def run(self) -> int:
        """The exit code: that of the only worker, or the highest of those that ended after a signal to stop."""
        if self._workers == 1:
            return self._work(0)
        for number in FORWARDED:
            signal.signal(number, self._forward)
        for worker in range(self._workers):
            self._start(worker)
        return self._wait()

    def _start(self, worker: int) -> None:
        pid = os.fork()
        if pid:
            self._running[pid] = worker
            if self._stopping:  # the signal came while there was no such process yet
                os.kill(pid, signal.SIGTERM)
            return
        for number in FORWARDED:
            # A worker that has not begun to listen to signals has nothing to drain and nothing old to reload.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        code = 2
        try:
            code = self._work(worker)
        except Exception:  # noqa: BLE001 - the child's own end: said here or nowhere
            self._log.exception("bug in a worker", worker=worker)
        finally:
            os._exit(code)

    def _forward(self, number: int, _frame: object) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
            self._on_stop()
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):  # it died, and is about to be noticed
                os.kill(pid, number)

    def _wait(self) -> int:
        code = 0
        while self._running:
            pid, status = os.wait()
            worker = self._running.pop(pid, None)
            if worker is None:
                continue
            ended = os.waitstatus_to_exitcode(status)
            if self._stopping:
                code = max(code, abs(ended))
                continue
            self._log.error("a worker died and is started again", worker=worker, code=ended)
            time.sleep(RESTART_PAUSE)
            if not self._stopping:
                self._start(worker)
        return code
