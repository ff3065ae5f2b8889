"""Freezes agents that are refused again and again: something is wrong with them, or somebody is trying what passes.

What counts is a statement that was refused for what it is. What was refused because the agent is frozen already, or because
nothing can be written down, does not; nor does what was held, since asking is what an agent shall do. A human's thaw begins a new
count.

The audit is where all workers' refusals come together, and each gets there within a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select, text

from dbshield.config import EnvironmentConfig
from dbshield.control.freezes import BY_DBSHIELD, freeze_in
from dbshield.store.database import Database
from dbshield.store.frozen import Freeze
from dbshield.store.schema import environments

LOCK: Final = 0x6462_7368_7265_6675
"""The advisory lock of who counts, "dbshrefu"."""
NOT_COUNTED: Final = ["DS313", "DS701"]
"""Rules that say nothing of what the agent sent: it is frozen, or nothing can be audited."""
CLOCKS_DIFFER: Final = timedelta(hours=1)
"""Between the proxy that refused and the database that took it in."""

_OFFENDERS: Final = text("""
    select a.agent, count(*) as refused
    from dbshield.audit a
    where a.verdict = 'deny' and a.kind = 'statement' and a.environment = :environment and a.at > :since
        and a.recorded_at > :recorded_since and not a.rules <@ cast(:not_counted as text[])
        and a.at > coalesce(
            (select max(f.lifted_at) from dbshield.freezes f where f.environment = a.environment and f.agent = a.agent),
            '-infinity')
        and not exists (
            select from dbshield.freezes f
            where f.environment = a.environment and f.agent = a.agent and f.lifted_at is null
                and (f.until is null or f.until > :now))
    group by a.agent
    having count(*) >= :most
    order by a.agent
""")

_NEWS: Final = text("""
    select h.position, exists (
        select from dbshield.audit a
        where a.verdict = 'deny' and a.id > :after and a.at > :since and a.recorded_at > :recorded_since)
    from dbshield.audit_head h
""")


class Refusals:
    """Counts for the environments that freeze after refusals."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = {name: each for name, each in settings.items() if each.freeze_after_refusals}

    def news(self, after: int, now: datetime | None = None) -> tuple[int, bool]:
        """The id of the newest entry (0 where there is none), and whether a refusal that may count stands behind `after`.
        StoreError where the control database is away."""
        window = max((each.freeze_window_minutes for each in self._settings.values()), default=0)
        since = (now or datetime.now(UTC)) - timedelta(minutes=window)
        asked = {"after": after, "since": since, "recorded_since": since - CLOCKS_DIFFER}
        with self._database.transaction() as connection:
            row = connection.execute(_NEWS, asked).one_or_none()
        return (row[0], row[1]) if row is not None else (0, False)

    def freeze_offenders(self, now: datetime | None = None) -> list[Freeze]:
        """Freezes every agent that was refused too often; the freezes that were made. StoreError where the control database is
        away."""
        if not self._settings:
            return []
        moment = now or datetime.now(UTC)
        frozen: list[Freeze] = []
        with self._database.transaction() as connection:
            if not connection.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                return []
            known = set(connection.scalars(select(environments.c.name)))
            for name, settings in self._settings.items():
                if name in known:
                    frozen += _freeze_in(connection, name, settings, moment)
        return frozen


def _freeze_in(connection: Connection, environment: str, settings: EnvironmentConfig, now: datetime) -> list[Freeze]:
    since = now - timedelta(minutes=settings.freeze_window_minutes)
    asked = {
        "environment": environment,
        "since": since,
        "recorded_since": since - CLOCKS_DIFFER,
        "not_counted": NOT_COUNTED,
        "now": now,
        "most": settings.freeze_after_refusals,
    }
    offenders = connection.execute(_OFFENDERS, asked).all()
    return [
        freeze_in(
            connection,
            environment,
            agent=agent,
            reason=f"{refused} statements refused within {settings.freeze_window_minutes:g} minutes",
            by=BY_DBSHIELD,
            now=now,
        )
        for agent, refused in offenders
    ]
