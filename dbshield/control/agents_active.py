"""Which agents do something now, by the newest thing that the audit has of each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, true

from dbshield.store.database import Database
from dbshield.store.schema import agents, audit

LATELY: Final = timedelta(minutes=5)
SHOWN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """An agent, and when it last connected, said something, or left."""

    name: str
    environment: str
    at: datetime
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """`agents` are those who did something lately, the newest first, and no more than `SHOWN`; `living` is how many there are in
    all."""

    agents: tuple[Active, ...]
    living: int

    @property
    def counted(self) -> str:
        """How many did something; "50+" where there may be more than are listed."""
        number = len(self.agents)
        return f"{number}+" if SHOWN <= number < self.living else str(number)


def active_agents(database: Database, *, now: datetime) -> Activity:
    """Who did something within `LATELY`. One look into the index for each living agent, however long the audit is."""
    newest = (
        select(audit.c.at, audit.c.kind)
        .where(audit.c.environment == agents.c.environment, audit.c.agent == agents.c.name, audit.c.at > now - LATELY)
        .order_by(audit.c.at.desc())
        .limit(1)
        .lateral("newest")
    )
    query = (
        select(agents.c.name, agents.c.environment, newest.c.at, newest.c.kind)
        .join(newest, true())
        .where(agents.c.removed_at.is_(None))
        .order_by(newest.c.at.desc(), agents.c.environment, agents.c.name)
        .limit(SHOWN)
    )
    with database.transaction() as connection:
        living = connection.scalar(select(func.count()).select_from(agents).where(agents.c.removed_at.is_(None))) or 0
        found = tuple(Active(**row._mapping) for row in connection.execute(query))
    return Activity(agents=found, living=living)
