"""Whether this proxy is healthy (it lives, its loops turn) and ready (a login now would be served), by what its workers told.

Healthy is about this process alone, since whoever asks would start it anew for it: a database that is away makes nobody
unhealthy. Ready is about what a login needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dbshield.telemetry.counts import Reading

HUNG: Final = 10.0
"""Seconds without a sign of life, of which there is one a second, after which a worker is taken to hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Yes or no, and what led to it as JSON knows values."""

    yes: bool
    said: Mapping[str, Any]


def lives(pid: int) -> bool:
    """Whether a process of this machine is there."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def turning(reading: Reading, now: float) -> bool:
    """Whether the worker's event loop turns; `now` is a time of CLOCK_MONOTONIC."""
    return now - reading.beat <= HUNG and lives(reading.pid)


def health(readings: Sequence[Reading], now: float) -> Answer:
    """One worker stands at least, and none hangs. One that ended is started again, which makes nobody unhealthy."""
    workers = [
        {"worker": place, "pid": reading.pid, "lives": lives(reading.pid), "seconds": round(now - reading.beat, 3)}
        for place, reading in enumerate(readings)
        if reading.pid
    ]
    standing = [worker for worker in workers if worker["lives"]]
    good = bool(standing) and all(float(str(worker["seconds"])) <= HUNG for worker in standing)
    return Answer(yes=good, said={"healthy": good, "workers": workers})


def readiness(readings: Sequence[Reading], now: float, *, upstreams: Mapping[str, bool | None], environment: str = "") -> Answer:
    """Whether a login would be served now: to `environment`, or to any where none is named. `upstreams` says of each environment
    whether its server answers; nothing where it is not known, which is not taken for good."""
    standing = [reading for reading in readings if turning(reading, now)]
    serving = [reading for reading in standing if not reading.facts.get("refuses")]
    why = ""
    if not standing:
        why = "no worker stands"
    elif not serving:
        why = str(standing[0].facts["refuses"])
    wanted = {name: up for name, up in upstreams.items() if environment in {"", name}}
    if not why and not any(wanted.values()):
        why = f"the server of {environment} does not answer" if environment else "no protected server answers"
    connected = sum(reading.gauges.get(("dbshield_control_connected_workers", ()), 0.0) for reading in standing)
    said = {
        "ready": not why,
        "why": why or None,
        "workers": {"configured": len(readings), "turning": len(standing), "serving": len(serving)},
        "control_database": "answers" if standing and connected == len(standing) else "away",
        "environments": {name: _word(up) for name, up in upstreams.items()},
    }
    return Answer(yes=not why, said=said)


def _word(up: bool | None) -> str:
    return "unknown" if up is None else "answers" if up else "away"
