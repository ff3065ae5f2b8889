"""Looks that may take their time, kept from those who ask: at most one at a time, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import structlog

from dbshield.errors import DbshieldError

AGE: Final = 15.0
"""Seconds for which what was seen is told again."""
PATIENCE: Final = 3.0
"""Seconds that somebody who asks waits for a look; Prometheus gives up after ten."""

T = TypeVar("T")


class Fresh(Generic[T]):
    """What `look` sees. Nobody is told what is older than `age` and a look that is late: then nothing is known."""

    def __init__(self, look: Callable[[], T], *, age: float = AGE, patience: float = PATIENCE) -> None:
        self._look = look
        self._age = age
        self._patience = patience
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._seen: T | None = None
        self._seen_at = float("-inf")
        self._log: Any = structlog.get_logger("dbshield.monitoring")

    def begin(self) -> None:
        """Looks, where nothing is known that is fresh; whoever asks for several begins them all before waiting for one."""
        with self._lock:
            self._begin()

    def get(self, *, until: float | None = None) -> T | None:
        """What was seen lately; nothing where the look failed, or is not over yet: after the patience, or at this time of
        `time.monotonic`."""
        with self._lock:
            running = self._begin()
            if running is None:
                return self._seen
        running.wait(self._patience if until is None else max(0.0, until - time.monotonic()))
        with self._lock:
            return self._seen if time.monotonic() - self._seen_at <= self._age else None

    def _begin(self) -> threading.Event | None:
        """With the lock held: what to wait for, or nothing where what was seen is fresh."""
        if time.monotonic() - self._seen_at <= self._age:
            return None
        if self._running is None:
            self._running = threading.Event()
            threading.Thread(target=self._work, args=[self._running], daemon=True).start()
        return self._running

    def _work(self, done: threading.Event) -> None:
        seen: T | None = None
        try:
            seen = self._look()
        except DbshieldError as error:
            self._log.warning("nothing is known for the metrics", why=error.message)
        except Exception:  # noqa: BLE001 - a look that dies of a bug is tried again, and leaves a gap meanwhile
            self._log.exception("bug in a look for the metrics")
        with self._lock:
            self._seen, self._seen_at, self._running = seen, time.monotonic(), None
        done.set()
