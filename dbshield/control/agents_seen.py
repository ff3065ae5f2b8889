"""Agents as people look at them: what each may do, who answers for it, whether it is frozen, and when it was last here.

It only looks. Agents are ordered by environment and name, and a page begins behind the last agent of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, func, select, tuple_

from dbshield.control.agents import Agent
from dbshield.model import AccessLevel
from dbshield.store.database import Database
from dbshield.store.schema import agents, token_uses, tokens

PAGE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A living agent, and the newest use of any of its tokens, to about a minute."""

    agent: Agent
    last_used_at: datetime | None
    last_used_from: str | None


def agents_seen(
    database: Database, *, now: datetime, after: tuple[str, str] | None = None, limit: int = PAGE
) -> tuple[list[Seen], tuple[str, str] | None]:
    """The living agents behind an environment and a name, and where the next page begins; None at the end."""
    query = (
        select(
            agents.c.id, agents.c.name, agents.c.environment, agents.c.access, agents.c.role, agents.c.created_at, agents.c.owner
        )
        .where(agents.c.removed_at.is_(None))
        .order_by(agents.c.environment, agents.c.name)
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(tuple_(agents.c.environment, agents.c.name) > after)
    with database.transaction() as connection:
        rows = connection.execute(query).all()
        shown = rows[:limit]
        live = _live_tokens(connection, [row.id for row in shown], now)
        used = _newest_uses(connection, [row.id for row in shown])
    found = [
        Seen(
            agent=Agent(
                id=row.id,
                name=row.name,
                environment=row.environment,
                access=AccessLevel(row.access),
                role=row.role or "",
                created_at=row.created_at,
                live_tokens=live.get(row.id, 0),
                owner=row.owner,
            ),
            last_used_at=used[row.id][0] if row.id in used else None,
            last_used_from=used[row.id][1] if row.id in used else None,
        )
        for row in shown
    ]
    return found, (shown[-1].environment, shown[-1].name) if len(rows) > limit else None


def _live_tokens(connection: Connection, ids: list[UUID], now: datetime) -> dict[UUID, int]:
    query = (
        select(tokens.c.agent, func.count())
        .where(tokens.c.agent.in_(ids), tokens.c.revoked_at.is_(None), tokens.c.expires_at > now)
        .group_by(tokens.c.agent)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _newest_uses(connection: Connection, ids: list[UUID]) -> dict[UUID, tuple[datetime, str]]:
    query = (
        select(tokens.c.agent, token_uses.c.used_at, token_uses.c.used_from)
        .join(token_uses, token_uses.c.token == tokens.c.id)
        .where(tokens.c.agent.in_(ids))
        .order_by(token_uses.c.used_at)
    )
    # The newest of an agent comes last, and stays.
    return {agent: (at, whence) for agent, at, whence in connection.execute(query)}
