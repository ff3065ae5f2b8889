"""What a proxy has to know of freezes, in one query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dbshield.store.schema import SCHEMA

CLOCKS_DIFFER_HOURS = 24
"""Freezes that ended lately are read too: whether one is over is decided by the clock of the proxy that applies it, which may
be behind the control database's."""

UNLIFTED_FREEZES = f"""
    select id, environment, agent, reason, frozen_by, frozen_at, until
    from {SCHEMA}.freezes
    where lifted_at is null and (until is null or until > now() - make_interval(hours => {CLOCKS_DIFFER_HOURS}))
    order by environment, frozen_at, id
"""  # noqa: S608  (constants of ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """One freeze that nobody lifted: of an agent, or of a whole environment. Without `until` it lasts until a human lifts it."""

    id: int
    environment: str
    reason: str
    frozen_by: str
    frozen_at: datetime
    until: datetime | None
    agent: str | None = None

    @property
    def whom(self) -> str:
        """What it freezes: an environment, or an agent by the name that it logs in with."""
        return f"{self.agent}.{self.environment}" if self.agent is not None else self.environment

    def in_force(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def longest(freezes: Iterable[Freeze]) -> Freeze:
    """The freeze that holds longest, the oldest of several without an end. Raises ValueError of none."""
    return max(freezes, key=lambda freeze: (freeze.until is None, freeze.until or freeze.frozen_at, -freeze.id))
