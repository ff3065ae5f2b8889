"""A human's decision on an approval: who may, with which code, and what follows from it.

Laws:
- Whether this person may decide on this approval is asked before the code is taken, so that no code is used up for a no.
- The code, the decision and the approval's new state are one transaction, with the approval locked first and the person second.
- A decision is bound to what was asked: the digest is computed again from what is stored, and compared with the stored one and
  with what the human was shown.
- Each person has one word on an approval. One denial denies.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as upsert

from dbshield.config import EnvironmentConfig
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import approval_entry, load, move, wrong_state
from dbshield.control.audit_store import append
from dbshield.control.denials import remember
from dbshield.control.people import People, refused_code
from dbshield.control.person_roles import Role, wrong_role
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database
from dbshield.store.schema import agents, approvals, decisions, people

REASON_MAX: Final = 200
"""Characters of a reason: an agent reads it inside a message."""


class Deciding:
    """Decisions on approvals of the environments that are configured here."""

    def __init__(self, database: Database, people: People, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._people = people
        self._settings = settings

    def approve(
        self,
        approval_id: str,
        *,
        person: str,
        code: str,
        reason: str = "",
        now: datetime,
        without_undo: bool = False,
        shown: str = "",
    ) -> Approval:
        """One person's yes. The approval is `approved` afterwards where enough people said so, else it is still waiting.

        It runs without an undo point only where each of them said `without_undo`.
        `shown` is the digest that the human saw, or its beginning, in hexadecimal. Refused where it is not open, not intact, the
        code does not hold, or this person may not decide here.
        """
        reason = check_reason(reason)
        with self._database.transaction() as connection:
            found = self._open(connection, approval_id, person, now)
            self._may_approve(connection, found, person, shown)
            wrong = self._people.verify(connection, person, code, now=now)
            if wrong is None:
                _decide(connection, found, person=person, decision="approve", reason=reason, at=now)
                found = load(connection, approval_id)
                needed = max(found.needed, self._environment(found).approvals_needed)
                # Nobody goes without an undo point because somebody else would.
                everybody = without_undo and (found.without_undo or found.approved_by == (person,))
                connection.execute(approvals.update().where(approvals.c.id == approval_id).values(without_undo=everybody))
                if len(found.approved_by) >= needed:
                    found = move(connection, approval_id, State.APPROVED, now=now, decided_at=now)
                fields = {"person": person, "verdict": "approve", "reason": reason, "without_undo": without_undo}
                append(connection, [approval_entry("approval-decided", found, now, **fields)])
                return found
            append(connection, [refused_code(person, wrong, now, approval=approval_id)])
        raise wrong

    def deny(self, approval_id: str, *, person: str, code: str, reason: str, now: datetime) -> Approval:
        """One person's no, which is everybody's; what it was about is remembered. Refused as `approve`, or without a reason."""
        reason = check_reason(reason)
        if not reason:
            raise ConfigError("a denial needs a reason", hint="The agent reads it, and may do better with it.")
        with self._database.transaction() as connection:
            found = self._open(connection, approval_id, person, now)
            wrong = self._people.verify(connection, person, code, now=now)
            if wrong is None:
                _decide(connection, found, person=person, decision="deny", reason=reason, at=now)
                found = move(connection, approval_id, State.DENIED, now=now, decided_at=now)
                lasting = timedelta(minutes=self._environment(found).denial_memory_minutes)
                remember(connection, found, now=now, lasting=lasting)
                fields = {"person": person, "verdict": "deny", "reason": reason}
                append(connection, [approval_entry("approval-decided", found, now, **fields)])
                return found
            append(connection, [refused_code(person, wrong, now, approval=approval_id)])
        raise wrong

    def _open(self, connection: Connection, approval_id: str, person: str, now: datetime) -> Approval:
        found = load(connection, approval_id, lock=True)
        if found.state_at(now) is not State.WAITING:
            raise wrong_state(found, "cannot be decided", expired=found.state_at(now) is State.EXPIRED)
        if any(decision.person == person and decision.counts for decision in found.decisions):
            raise Refused(f"{person} has decided on {approval_id} already", hint="Another person has to.")
        self._environment(found)
        role = connection.scalar(select(people.c.role).where(people.c.name == person, people.c.removed_at.is_(None)))
        if role is not None and Role(role) < Role.APPROVER:
            raise wrong_role(person, Role(role), Role.APPROVER)
        return found

    def _may_approve(self, connection: Connection, found: Approval, person: str, shown: str) -> None:
        if not found.intact:
            raise Refused(
                f"approval {found.id} was changed after it was asked for",
                hint="Somebody wrote into the control database. Deny it, and find out who.",
            )
        if shown and not _begins(found.digest.hex(), shown.lower()):
            raise Refused(f"approval {found.id} is not the one that was shown", hint=f"`dbshield approvals show {found.id}`")
        if self._environment(found).owners_may_approve:
            return
        owner = _owner(connection, found)
        if owner is not None and owner == person:
            raise Refused(
                f"{person} answers for {found.agent}, and in {found.environment} nobody approves for an agent of their own",
                hint="Another person has to approve.",
            )

    def _environment(self, approval: Approval) -> EnvironmentConfig:
        try:
            return self._settings[approval.environment]
        except KeyError:
            raise ConfigError(
                f'approval {approval.id} is for "{approval.environment}", which is not configured here',
                hint="Decide where it is configured: how many people are needed stands there.",
            ) from None


def check_reason(text: str) -> str:
    """A reason as it is kept: one line. Raises ConfigError."""
    reason = " ".join(text.split())
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise ConfigError(f"a reason has at most {REASON_MAX} printable characters", hint="Say it shorter.")
    return reason


def _begins(digest: str, prefix: str) -> bool:
    return len(prefix) <= len(digest) and hmac.compare_digest(digest[: len(prefix)].encode(), prefix.encode())


def _owner(connection: Connection, found: Approval) -> str | None:
    """Who answers for the agent that asked; by its id, or by its name among the living."""
    query = select(agents.c.owner)
    if found.agent_id is not None:
        return connection.scalar(query.where(agents.c.id == found.agent_id))
    named = (agents.c.environment == found.environment, agents.c.name == found.agent, agents.c.removed_at.is_(None))
    return connection.scalar(query.where(*named))


def _decide(connection: Connection, found: Approval, *, person: str, decision: str, reason: str, at: datetime) -> None:
    """Keeps the word of a person, in the place of one that no longer counts."""
    values = {"decision": decision, "reason": reason, "at": at}
    statement = upsert(decisions).values(approval=found.id, person=person, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[decisions.c.approval, decisions.c.person], set_=values))
