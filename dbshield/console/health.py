"""How everything stands, at a glance: each environment with its freezes, its guard, its newest snapshot and drill; the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.drill_store import Drills
from dbshield.config import Config
from dbshield.console.frame import Parts
from dbshield.control.agents_active import Activity, active_agents
from dbshield.control.freezes import Freezes
from dbshield.errors import BackupError
from dbshield.monitoring.facts import facts
from dbshield.store.frozen import Freeze
from dbshield.telemetry.counts import Series

FRESH: Final = 4.0
"""Seconds for which a look is good: every browser that follows the page asks."""
KNOCK: Final = 2.0
"""Seconds in which the proxy has to take a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentHealth:
    """One environment. What is not known is None: `guard` is whether the last comparison found it as it was installed."""

    name: str
    waiting: int
    freezes: tuple[Freeze, ...]
    configured_frozen: bool
    guard: bool | None
    guard_at: datetime | None
    snapshot_at: datetime | None
    drill: str
    drill_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Everything. `proxy` is whether it takes connections at `address`; `scheduler` whether one leads; `overdue` are jobs."""

    proxy: bool
    address: str
    scheduler: bool
    scheduled: bool
    overdue: tuple[str, ...]
    waiting: int
    activity: Activity
    environments: tuple[EnvironmentHealth, ...]


class Glance:
    """Looks at everything, once for all who ask at about the same time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._looked = float("-inf")
        self._seen: Health | None = None

    async def look(self, parts: Parts) -> Health:
        """StoreError where the control database is away."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._looked > FRESH:
                proxy = await answers(parts.config)
                self._seen = await run_in_threadpool(_look, parts, proxy)
                self._looked = time.monotonic()
            return self._seen


async def answers(config: Config) -> bool:
    """Whether the proxy takes a connection where agents are told to connect."""
    address = config.proxy.client_address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  (compared, not bound)
    opening = (
        asyncio.open_unix_connection(address.socket_path) if address.is_socket else asyncio.open_connection(host, address.port)
    )
    try:
        _, writer = await asyncio.wait_for(opening, KNOCK)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _look(parts: Parts, proxy: bool) -> Health:
    now = parts.clock()
    numbers = facts(parts.config, parts.database)
    freezes = Freezes(parts.database, parts.config.environments).in_force(now)
    environments = tuple(
        _environment(parts, name, numbers, freezes=freezes.get(name, ()), frozen=settings.is_frozen(now))
        for name, settings in parts.config.environments.items()
    )
    jobs = {labels[0]: value for (metric, labels), value in numbers.items() if metric == "dbshield_job_overdue"}
    return Health(
        proxy=proxy,
        address=str(parts.config.proxy.client_address),
        scheduler=bool(numbers.get(("dbshield_scheduler_leads", ()))),
        scheduled=bool(jobs),
        overdue=tuple(name for name, value in jobs.items() if value),
        waiting=sum(one.waiting for one in environments),
        activity=active_agents(parts.database, now=now),
        environments=environments,
    )


def _environment(
    parts: Parts, name: str, numbers: Mapping[Series, float], *, freezes: tuple[Freeze, ...], frozen: bool
) -> EnvironmentHealth:
    verified = numbers.get(("dbshield_guard_verified", (name,)))
    snapshot: Any = None
    with contextlib.suppress(BackupError):
        snapshot = Catalogue(parts.database).newest(name)
    drill = next(iter(Drills(parts.database).list(environment=name, limit=1)), None)
    return EnvironmentHealth(
        name=name,
        waiting=int(numbers.get(("dbshield_approvals_waiting", (name,)), 0)),
        freezes=freezes,
        configured_frozen=frozen,
        guard=None if verified is None else bool(verified),
        guard_at=_moment(numbers.get(("dbshield_guard_verified_timestamp_seconds", (name,)))),
        snapshot_at=snapshot.began if snapshot is not None else None,
        drill=drill.drill.verdict if drill is not None else "",
        drill_at=drill.drill.ended if drill is not None else None,
    )


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
