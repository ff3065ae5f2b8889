"""Freezes: an environment in which no agent writes, or one agent that does not, until a time or until somebody lifts it.

Any number may be in force at once, and an agent is frozen while one of its own or of its environment is: a later freeze never
shortens an earlier one, and nobody has to know of the others to add one in a hurry. `thaw` lifts all of an environment, or all of
an agent, and never one by lifting the other. Lifted ones stay in the table, since they say who froze what, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, insert, or_, select, update

from dbshield.config import EnvironmentConfig, near
from dbshield.control.agents import register_environments
from dbshield.control.audit_store import Entry, append
from dbshield.control.issuing import UNDEFINED_OBJECT
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database, Within
from dbshield.store.frozen import Freeze
from dbshield.store.schema import agents, freezes

REASON_MAX = 120
"""Characters of a reason: agents read it inside a message that holds 300."""
BY_DBSHIELD = "dbshield"
"""Who froze what no human froze."""


class Freezes:
    """The freezes in the control database, of the environments that are configured here."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = settings

    def freeze(
        self,
        environment: str,
        *,
        reason: str,
        by: str,
        now: datetime,
        until: datetime | None = None,
        agent: str | None = None,
        within: Within | None = None,
    ) -> Freeze:
        """Freezes an environment, or one agent of it, from the commit on; `within` runs it in another transaction than its own.
        ConfigError where the environment, the reason or the time is none; Refused where there is no such agent."""
        self._known(environment)
        reason = check_reason(reason)
        if until is not None and until <= now:
            raise ConfigError("the freeze would be over before it begins", hint="Name a time that is still to come.")
        register_environments(self._database, [environment])

        def change(connection: Connection) -> Freeze:
            if agent is not None:
                _require_agent(connection, environment, agent)
            return freeze_in(connection, environment, reason=reason, by=by, now=now, until=until, agent=agent)

        return (within or self._database.within)(change)

    def thaw(self, environment: str, *, by: str, now: datetime, agent: str | None = None, within: Within | None = None) -> int:
        """Lifts every freeze of an environment, or of one agent of it; how many were in force. Refused where none was."""
        self._known(environment)
        unlifted = (freezes.c.environment == environment, _of(agent), freezes.c.lifted_at.is_(None))
        running = or_(freezes.c.until.is_(None), freezes.c.until > now)
        fields = {"environment": environment, "by": by}

        def change(connection: Connection) -> int:
            lifted = connection.execute(update(freezes).where(*unlifted, running).values(lifted_at=now, lifted_by=by)).rowcount
            if not lifted:
                raise _not_frozen(environment, agent)
            kind = "environment-thawed" if agent is None else "agent-thawed"
            append(connection, [Entry(at=now, kind=kind, fields=fields | ({"agent": agent} if agent is not None else {}))])
            return lifted

        return (within or self._database.within)(change)

    def in_force(self, now: datetime) -> dict[str, tuple[Freeze, ...]]:
        """The freezes of environments that hold now, by environment, the oldest first."""
        return self._holding(now, freezes.c.agent.is_(None))

    def agents_in_force(self, now: datetime) -> dict[str, tuple[Freeze, ...]]:
        """The freezes of single agents that hold now, by the name that the agent logs in with, the oldest first."""
        return self._holding(now, freezes.c.agent.is_not(None))

    def _holding(self, now: datetime, whose: ColumnElement[bool]) -> dict[str, tuple[Freeze, ...]]:
        columns = [freezes.c[name] for name in Freeze.__slots__]
        query = (
            select(*columns)
            .where(whose, freezes.c.lifted_at.is_(None), or_(freezes.c.until.is_(None), freezes.c.until > now))
            .order_by(freezes.c.environment, freezes.c.agent, freezes.c.frozen_at, freezes.c.id)
        )
        found: dict[str, tuple[Freeze, ...]] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(query):
                freeze = Freeze(**row._mapping)
                found[freeze.whom] = (*found.get(freeze.whom, ()), freeze)
        return found

    def _known(self, environment: str) -> None:
        if environment not in self._settings:
            close = near(environment, self._settings)
            hint = f'Did you mean "{close}"?' if close else "`dbshield environment list` shows those that there are."
            raise ConfigError(f'the environment "{environment}" is not configured', hint=hint)


def freeze_in(
    connection: Connection,
    environment: str,
    *,
    reason: str,
    by: str,
    now: datetime,
    until: datetime | None = None,
    agent: str | None = None,
) -> Freeze:
    """Freezes within the caller's transaction, which ends soon: the audit's entry is its last."""
    row = {"environment": environment, "agent": agent, "reason": reason, "frozen_by": by, "frozen_at": now, "until": until}
    number = connection.execute(insert(freezes).values(row).returning(freezes.c.id)).scalar_one()
    fields = {"environment": environment, "freeze": number, "reason": reason, "by": by, "until": until}
    kind = "environment-frozen" if agent is None else "agent-frozen"
    append(connection, [Entry(at=now, kind=kind, fields=fields | ({"agent": agent} if agent is not None else {}))])
    return Freeze(id=number, environment=environment, agent=agent, reason=reason, frozen_by=by, frozen_at=now, until=until)


def _of(agent: str | None) -> ColumnElement[bool]:
    return freezes.c.agent.is_(None) if agent is None else freezes.c.agent == agent


def _require_agent(connection: Connection, environment: str, name: str) -> None:
    living = (agents.c.environment == environment, agents.c.name == name, agents.c.removed_at.is_(None))
    if connection.scalar(select(agents.c.id).where(*living)) is None:
        raise Refused(
            f"there is no agent {name} in {environment}",
            sqlstate=UNDEFINED_OBJECT,
            hint=f"`dbshield agent list --environment {environment}` shows those that there are.",
        )


def _not_frozen(environment: str, agent: str | None) -> Refused:
    if agent is not None:
        return Refused(
            f"nobody froze {agent} in {environment}",
            sqlstate=UNDEFINED_OBJECT,
            hint=f"If all of {environment} is frozen: `dbshield environment thaw {environment}`.",
        )
    return Refused(
        f"nobody froze {environment}",
        sqlstate=UNDEFINED_OBJECT,
        hint=f"If dbshield.toml freezes it: take frozen out of [environments.{environment}] and reload the proxies.",
    )


def check_reason(text: str) -> str:
    """A reason as it is kept: one line. Raises ConfigError."""
    reason = " ".join(text.split())
    if not reason:
        raise ConfigError("a freeze needs a reason", hint="Agents and colleagues read it: say what is going on.")
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise ConfigError(f"a reason has at most {REASON_MAX} printable characters", hint="Say it shorter.")
    return reason
