"""What humans denied lately, by effect, so that a rephrased statement on the same object gets the same answer.

Deleting, truncating and dropping count as one (see `dbshield.control.asking`). A denial of one object says nothing of others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from dbshield.control.approval import Approval
from dbshield.control.asking import denial_keys
from dbshield.model import Effect
from dbshield.store.database import Database
from dbshield.store.schema import decisions, denials


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A denial that still holds: of which approval, by whom, why, until when."""

    approval: str
    person: str
    reason: str
    at: datetime
    until: datetime


class Denials:
    """The denials in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def denied(self, environment: str, agent: str, effects: Iterable[Effect], now: datetime) -> Denial | None:
        """The newest denial that one of these effects falls under; None where there is none."""
        keys = denial_keys(effects)
        if not keys:
            return None
        query = (
            select(denials.c.approval, decisions.c.person, decisions.c.reason, denials.c.at, denials.c.until)
            .join(decisions, and_(decisions.c.approval == denials.c.approval, decisions.c.decision == "deny"))
            .where(denials.c.environment == environment, denials.c.agent == agent)
            .where(denials.c.effect.in_(keys), denials.c.until > now)
            .order_by(denials.c.at.desc(), decisions.c.person)
            .limit(1)
        )
        with self._database.transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Denial(**row._mapping)


def remember(connection: Connection, approval: Approval, *, now: datetime, lasting: timedelta) -> None:
    """Keeps what a denied approval was about, for the agent that asked; nothing where `lasting` is zero."""
    if lasting <= timedelta(0) or not approval.remembers:
        return
    row = {
        "environment": approval.environment,
        "agent": approval.agent,
        "approval": approval.id,
        "at": now,
        "until": now + lasting,
    }
    connection.execute(
        upsert(denials).values([row | {"effect": effect} for effect in approval.remembers]).on_conflict_do_nothing()
    )
