"""Taking back what an agent asked for when it is removed, or when a token of it is revoked.

An approval does not say with which token it was asked for. So all that is open goes: whoever had the token may have asked for any
of it, and the agent that still may asks again.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, and_, or_, select

from dbshield.control.approval import OPEN, State
from dbshield.control.approvals import approval_entry, load, move
from dbshield.control.audit_store import Entry
from dbshield.store.schema import approvals


def withdraw_open(
    connection: Connection, *, agent_id: UUID, agent: str, environment: str, why: str, now: datetime
) -> list[Entry]:
    """Withdraws every open approval of an agent in this transaction; the entries of the audit, to be appended with its others.

    What runs already goes on: it was claimed while it might be.
    """
    asked_by = or_(
        approvals.c.agent_id == agent_id,
        and_(approvals.c.agent_id.is_(None), approvals.c.agent == agent, approvals.c.environment == environment),
    )
    # An executor that is about to claim one has it locked; what it claimed meanwhile is not open any more.
    query = (
        select(approvals.c.id)
        .where(asked_by, approvals.c.state.in_(OPEN), approvals.c.expires_at > now)
        .order_by(approvals.c.id)
        .with_for_update()
    )
    entries = []
    for approval_id in connection.scalars(query).all():
        error = {
            "sqlstate": "42501",
            "message": f"{why}, which takes back approval {approval_id}",
            "detail": "",
            "hint": "Ask again.",
        }
        decided = {"decided_at": now} if load(connection, approval_id).state is State.WAITING else {}
        withdrawn = move(connection, approval_id, State.WITHDRAWN, now=now, error=error, **decided)
        entries.append(approval_entry("approval-withdrawn", withdrawn, now, reason=error["message"]))
    return entries
