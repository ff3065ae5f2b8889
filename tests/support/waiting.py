"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType

DEADLINE = 30.0
"""Seconds; generous, because the machine may run other things. A condition that holds is seen at once."""
POLL = 0.01
STALL = 0.05
"""Seconds by which a sleep is too long before the machine counts as having stood still meanwhile."""


def until(what: Callable[[], object], *, deadline: float = DEADLINE) -> bool:
    """Whether the condition came true before the deadline."""
    end = time.monotonic() + deadline
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


async def seconds_until(what: Callable[[], object], *, deadline: float = DEADLINE) -> float:
    """The seconds of a `MachineClock` until the condition came true, while the event loop goes on; fails after the deadline."""
    begin = time.monotonic()
    with MachineClock() as clock:
        while not what():
            assert time.monotonic() - begin < deadline, "the condition did not come true in time"
            await asyncio.sleep(POLL / 2)
        return clock.seconds


class MachineClock:
    """Seconds since it was started in which the machine ran: whoever promises something within a second does not promise it of a
    machine that stands still for as long.

    A thread that only sleeps sees when it does not wake in time. What is tested may wait or work as long as it likes meanwhile:
    that keeps no thread from waking, and counts.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._stood = 0.0
        self._begun = self._woke = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MachineClock:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        now = time.monotonic()
        return now - self._begun - self._stood - _too_long(now - self._woke)

    def _run(self) -> None:
        while not self._over.wait(POLL):
            now = time.monotonic()
            self._stood += _too_long(now - self._woke)
            self._woke = now


def _too_long(slept: float) -> float:
    late = slept - POLL
    return late if late > STALL else 0.0
