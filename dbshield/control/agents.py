"""Agents: making, listing, ending; nothing of how they are shown. Their tokens are in `issuing.py`.

The time and the person come in as arguments. A name is free again when its agent was removed; the removed agent stays in the
table, because the audit names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

from dbshield.config import EnvironmentConfig, check_name
from dbshield.control.audit_store import Entry, append
from dbshield.control.issuing import IssuedToken, Living, Tokens, issue
from dbshield.control.tokens import ITERATIONS, new_salt
from dbshield.control.vault import Vault, password_identity
from dbshield.control.withdrawing import withdraw_open
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel
from dbshield.store.database import Database
from dbshield.store.schema import agents, environments, tokens

__all__ = ["Agent", "Agents", "IssuedToken", "register_environments"]

DUPLICATE_OBJECT = "42710"
UNDEFINED_OBJECT = "42704"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A living agent. `role` is empty where the environment's own is used; `live_tokens` are neither revoked nor expired; `owner`
    is the person who answers for it."""

    id: UUID
    name: str
    environment: str
    access: AccessLevel
    role: str
    created_at: datetime
    live_tokens: int
    owner: str | None = None

    @property
    def user(self) -> str:
        return f"{self.name}.{self.environment}"


def register_environments(database: Database, names: Sequence[str]) -> tuple[str, ...]:
    """Puts the environments of the configuration into the table; the names that were new. None is ever taken out."""
    if not names:
        return ()
    statement = upsert(environments).values([{"name": check_name(name)} for name in names]).on_conflict_do_nothing()
    with database.transaction() as connection:
        return tuple(connection.scalars(statement.returning(environments.c.name)))


class Agents(Tokens):
    """The agents of the environments that are configured here. `open_vault` is asked only where a password is to be sealed."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig], open_vault: Callable[[], Vault]) -> None:
        super().__init__(database, settings)
        self._open_vault = open_vault

    def create(
        self,
        *,
        name: str,
        environment: str,
        access: AccessLevel,
        now: datetime,
        by: str,
        ttl: timedelta | None = None,
        role: str | None = None,
        role_password: str | None = None,
        owner: str | None = None,
        agent_id: UUID | None = None,
    ) -> IssuedToken:
        """A new agent with its first token; `owner` is the person who answers for it, `agent_id` its id where it has one already.

        Without a role it logs in with the environment's own. Raises Refused where a living agent has the name or the lifetime
        is too long, ConfigError where the name has no proper form or the environment is not configured.
        """
        _checked(name)
        lifetime = self._lifetime(environment, ttl)
        agent, salt = agent_id or uuid4(), new_salt()
        sealed = None
        if role_password is not None:
            sealed = self._open_vault().seal(role_password, identity=password_identity(agent))
        register_environments(self._database, [environment])
        row = {
            "id": agent,
            "environment": environment,
            "name": name,
            "access": access.value,
            "salt": salt,
            "iterations": ITERATIONS,
            "role": role,
            "sealed_password": sealed,
            "owner": owner,
            "created_at": now,
        }
        try:
            with self._database.transaction() as connection:
                connection.execute(insert(agents).values(row))
                living = Living(id=agent, access=access, salt=salt, iterations=ITERATIONS, user=(name, environment))
                issued = issue(connection, living, now, lifetime, by)
                fields = {"environment": environment, "agent": name, "access": access.value, "role": role, "person": by}
                append(connection, [Entry(at=now, kind="agent-created", fields=fields)])
                return issued
        except IntegrityError as error:
            if "agents_living_name_idx" not in str(error.orig):
                raise
            raise _duplicate(name, environment) from error

    def require_new(self, *, name: str, environment: str, now: datetime) -> None:
        """Refused where a living agent has the name; asked before anything is done elsewhere for the new one."""
        _checked(name)
        if any(agent.name == name for agent in self.list_agents(now=now, environment=environment)):
            raise _duplicate(name, environment)

    def find(self, *, name: str, environment: str, now: datetime) -> Agent:
        """The living agent. Refused where there is none."""
        for agent in self.list_agents(now=now, environment=environment):
            if agent.name == name:
                return agent
        raise Refused(
            f"there is no agent {name} in {environment}",
            sqlstate=UNDEFINED_OBJECT,
            hint="`dbshield agent list` shows those that there are.",
        )

    def change_role_password(self, agent: Agent, password: str, *, now: datetime, by: str) -> bytes | None:
        """Seals another password for the agent's role; the sealed one that it had. Every proxy knows it within a second."""
        sealed = self._open_vault().seal(password, identity=password_identity(agent.id))
        return self._exchange(agent, sealed, now=now, by=by, kind="role-password-changed")

    def restore_role_password(self, agent: Agent, sealed: bytes | None, *, now: datetime, by: str) -> None:
        """Puts back what `change_role_password` gave, because the server did not take the new password."""
        self._exchange(agent, sealed, now=now, by=by, kind="role-password-restored")

    def _exchange(self, agent: Agent, sealed: bytes | None, *, now: datetime, by: str, kind: str) -> bytes | None:
        with self._database.transaction() as connection:
            living = self._living(connection, agent.name, agent.environment)
            before = connection.scalar(select(agents.c.sealed_password).where(agents.c.id == living.id))
            connection.execute(update(agents).where(agents.c.id == living.id).values(sealed_password=sealed))
            fields = {"environment": agent.environment, "agent": agent.name, "role": agent.role, "person": by}
            append(connection, [Entry(at=now, kind=kind, fields=fields)])
        return bytes(before) if before is not None else None

    def list_agents(self, *, now: datetime, environment: str | None = None) -> list[Agent]:
        """The living agents, of one environment or of all."""
        live = func.count(tokens.c.id).filter(tokens.c.revoked_at.is_(None), tokens.c.expires_at > now)
        query = (
            select(
                agents.c.id,
                agents.c.name,
                agents.c.environment,
                agents.c.access,
                agents.c.role,
                agents.c.created_at,
                agents.c.owner,
                live.label("live"),
            )
            .join_from(agents, tokens, tokens.c.agent == agents.c.id, isouter=True)
            .where(agents.c.removed_at.is_(None))
            .group_by(agents.c.id)
            .order_by(agents.c.environment, agents.c.name)
        )
        if environment is not None:
            self._environment(environment)
            query = query.where(agents.c.environment == environment)
        with self._database.transaction() as connection:
            return [
                Agent(
                    id=row.id,
                    name=row.name,
                    environment=row.environment,
                    access=AccessLevel(row.access),
                    role=row.role or "",
                    created_at=row.created_at,
                    live_tokens=row.live,
                    owner=row.owner,
                )
                for row in connection.execute(query)
            ]

    def remove(self, *, name: str, environment: str, now: datetime, by: str = "") -> int:
        """Ends an agent, revokes its tokens and takes back what it asked for; how many tokens were revoked. Refused where
        there is no such agent."""
        with self._database.transaction() as connection:
            agent = self._living(connection, name, environment)
            connection.execute(update(agents).where(agents.c.id == agent.id).values(removed_at=now))
            revoked = connection.execute(
                update(tokens).where(tokens.c.agent == agent.id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            fields = {"environment": environment, "agent": name, "revoked_tokens": revoked.rowcount, "person": by}
            removed = Entry(at=now, kind="agent-removed", fields=fields)
            why = f"the agent {name} of {environment} was removed"
            back = withdraw_open(connection, agent_id=agent.id, agent=name, environment=environment, why=why, now=now)
            append(connection, [removed, *back])
            return revoked.rowcount


def _duplicate(name: str, environment: str) -> Refused:
    return Refused(
        f"there is an agent {name} in {environment} already",
        sqlstate=DUPLICATE_OBJECT,
        hint=f"`dbshield token issue {name} --environment {environment}` gives it another token.",
    )


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
