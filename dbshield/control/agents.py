"""Agents and their tokens: making, listing, ending; nothing of how they are shown.

The time and the person come in as arguments. A name is free again when its agent was removed; the removed agent stays in the
table, because the audit names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, and_, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

from dbshield.config import EnvironmentConfig, check_name, near
from dbshield.control.tokens import ITERATIONS, Token, make_verifier, new_salt, new_token
from dbshield.control.vault import Vault, password_identity
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel
from dbshield.store.database import Database
from dbshield.store.schema import agents, environments, tokens

UNDEFINED_OBJECT = "42704"
DUPLICATE_OBJECT = "42710"
INVALID_PARAMETER_VALUE = "22023"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A living agent. `role` is empty where the environment's own is used; `live_tokens` are neither revoked nor expired."""

    id: UUID
    name: str
    environment: str
    access: AccessLevel
    role: str
    created_at: datetime
    live_tokens: int

    @property
    def user(self) -> str:
        return f"{self.name}.{self.environment}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token that was just made: the only moment at which it is known in clear."""

    agent: str
    environment: str
    token: Token
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What is known of a token afterwards."""

    id: str
    agent: str
    environment: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    created_by: str

    def state(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at > now else "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Living:
    """What making a token needs of its agent; `user` is its name and environment."""

    id: UUID
    salt: bytes
    iterations: int
    user: tuple[str, str]


def register_environments(database: Database, names: Sequence[str]) -> tuple[str, ...]:
    """Puts the environments of the configuration into the table; the names that were new. None is ever taken out."""
    if not names:
        return ()
    statement = upsert(environments).values([{"name": check_name(name)} for name in names]).on_conflict_do_nothing()
    with database.transaction() as connection:
        return tuple(connection.scalars(statement.returning(environments.c.name)))


class Agents:
    """The agents of the environments that are configured here. `open_vault` is asked only where a password is to be sealed."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig], open_vault: Callable[[], Vault]) -> None:
        self._database = database
        self._settings = settings
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
    ) -> IssuedToken:
        """A new agent with its first token.

        Without a role it logs in with the environment's own. Raises Refused where a living agent has the name or the lifetime
        is too long, ConfigError where the name has no proper form or the environment is not configured.
        """
        _checked(name)
        lifetime = self._lifetime(environment, ttl)
        agent, salt = uuid4(), new_salt()
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
            "created_at": now,
        }
        try:
            with self._database.transaction() as connection:
                connection.execute(insert(agents).values(row))
                return _issue(
                    connection, _Living(id=agent, salt=salt, iterations=ITERATIONS, user=(name, environment)), now, lifetime, by
                )
        except IntegrityError as error:
            if "agents_living_name_idx" not in str(error.orig):
                raise
            raise Refused(
                f"there is an agent {name} in {environment} already",
                sqlstate=DUPLICATE_OBJECT,
                hint=f"`dbshield token issue {name} --environment {environment}` gives it another token.",
            ) from error

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
                )
                for row in connection.execute(query)
            ]

    def remove(self, *, name: str, environment: str, now: datetime) -> int:
        """Ends an agent and revokes its tokens; how many were revoked. Refused where there is no such agent."""
        with self._database.transaction() as connection:
            agent = self._living(connection, name, environment)
            connection.execute(update(agents).where(agents.c.id == agent.id).values(removed_at=now))
            revoked = connection.execute(
                update(tokens).where(tokens.c.agent == agent.id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            return revoked.rowcount

    def issue_token(self, *, name: str, environment: str, now: datetime, by: str, ttl: timedelta | None = None) -> IssuedToken:
        """Another token for an agent; the earlier ones stay. Refused where there is no such agent or the lifetime is too long."""
        lifetime = self._lifetime(environment, ttl)
        with self._database.transaction() as connection:
            agent = self._living(connection, name, environment)
            return _issue(connection, agent, now, lifetime, by)

    def list_tokens(self, *, name: str | None = None, environment: str | None = None) -> list[TokenInfo]:
        """The tokens of living agents, the newest last; ended ones too."""
        query = (
            select(
                tokens.c.id,
                agents.c.name,
                agents.c.environment,
                tokens.c.created_at,
                tokens.c.expires_at,
                tokens.c.revoked_at,
                tokens.c.created_by,
            )
            .join_from(tokens, agents, tokens.c.agent == agents.c.id)
            .where(agents.c.removed_at.is_(None))
            .order_by(agents.c.environment, agents.c.name, tokens.c.created_at, tokens.c.id)
        )
        with self._database.transaction() as connection:
            if environment is not None:
                self._environment(environment)
                query = query.where(agents.c.environment == environment)
            if name is not None:
                if environment is not None:
                    self._living(connection, name, environment)
                query = query.where(agents.c.name == name)
            return [
                TokenInfo(
                    id=row.id,
                    agent=row.name,
                    environment=row.environment,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                    revoked_at=row.revoked_at,
                    created_by=row.created_by,
                )
                for row in connection.execute(query)
            ]

    def revoke_token(self, *, token_id: str, now: datetime) -> bool:
        """Revokes a token; False where it was revoked before. Refused where there is none with this id."""
        with self._database.transaction() as connection:
            known = connection.scalar(select(tokens.c.id).where(tokens.c.id == token_id).with_for_update())
            if known is None:
                raise Refused(
                    f"there is no token {token_id}", sqlstate=UNDEFINED_OBJECT, hint="`dbshield token list` shows their ids."
                )
            changed = connection.execute(
                update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            return changed.rowcount == 1

    def _environment(self, name: str) -> EnvironmentConfig:
        try:
            return self._settings[name]
        except KeyError:
            close = near(name, self._settings)
            hint = (
                f'Did you mean "{close}"?'
                if close
                else f"There are: {', '.join(self._settings) or 'none; add [environments.NAME]'}."
            )
            raise ConfigError(f'the environment "{name}" is not configured', hint=hint) from None

    def _lifetime(self, environment: str, wanted: timedelta | None) -> timedelta:
        settings = self._environment(environment)
        longest = timedelta(days=settings.token_ttl_max_days)
        lifetime = wanted if wanted is not None else timedelta(days=settings.token_ttl_days)
        if lifetime > longest:
            raise Refused(
                f"a token of {environment} lives at most {settings.token_ttl_max_days:g} days",
                sqlstate=INVALID_PARAMETER_VALUE,
                hint=f"Ask for less, or raise token_ttl_max_days of [environments.{environment}].",
            )
        return lifetime

    def _living(self, connection: Connection, name: str, environment: str) -> _Living:
        self._environment(environment)
        found = connection.execute(
            select(agents.c.id, agents.c.salt, agents.c.iterations)
            .where(and_(agents.c.name == name, agents.c.environment == environment, agents.c.removed_at.is_(None)))
            .with_for_update()
        ).one_or_none()
        if found is None:
            raise Refused(
                f"there is no agent {name} in {environment}",
                sqlstate=UNDEFINED_OBJECT,
                hint="`dbshield agent list` shows those that there are.",
            )
        return _Living(id=found.id, salt=found.salt, iterations=found.iterations, user=(name, environment))


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _issue(connection: Connection, agent: _Living, now: datetime, lifetime: timedelta, by: str) -> IssuedToken:
    name, environment = agent.user
    token = new_token(environment)
    verifier = make_verifier(token, salt=agent.salt, iterations=agent.iterations)
    expires_at = now + lifetime
    row = {
        "id": token.id,
        "agent": agent.id,
        "stored_key": verifier.stored_key,
        "server_key": verifier.server_key,
        "created_at": now,
        "expires_at": expires_at,
        "created_by": by,
    }
    connection.execute(insert(tokens).values(row))
    return IssuedToken(agent=name, environment=environment, token=token, expires_at=expires_at)
