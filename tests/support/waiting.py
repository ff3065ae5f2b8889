"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

DEADLINE = 30.0
"""Seconds; generous, because the machine may run other things. A condition that holds is seen at once."""
POLL = 0.01


def until(what: Callable[[], object], *, deadline: float = DEADLINE) -> bool:
    """Whether the condition came true before the deadline."""
    end = time.monotonic() + deadline
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


async def seconds_until(what: Callable[[], object], *, deadline: float = DEADLINE) -> float:
    """The seconds until the condition came true, while the event loop goes on; fails after the deadline."""
    begin = time.monotonic()
    while not what():
        assert time.monotonic() - begin < deadline, "the condition did not come true in time"
        await asyncio.sleep(POLL / 2)
    return time.monotonic() - begin
