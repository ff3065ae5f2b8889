"""SIGTERM before there is a loop that hears it.

Until then its handler raises, so that whatever was begun is undone on the way out. But what a handler raises is lost where the
interpreter happens to be in a finalizer, or in a callback of an import or of the event loop; and a process that has lost its
SIGTERM runs on. So the signal is put back at the door: blocked, and pending for the main thread, until `hear` lets it in.
"""

from __future__ import annotations

import signal
import threading
from typing import Final

HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def unwind_on_sigterm() -> None:
    """From now on, until somebody else handles it. Called in the main thread."""
    signal.signal(signal.SIGTERM, _unwind)


def hear() -> None:
    """Handlers that lose nothing are in place: what came meanwhile comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def _unwind(number: int, _frame: object) -> None:
    # A second one must not interrupt the clearing up either.
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    # To this thread: any other would take what is sent to the process.
    signal.pthread_kill(threading.get_ident(), number)
    raise SystemExit(0)
