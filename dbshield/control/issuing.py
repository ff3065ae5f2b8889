"""The life of tokens: issued, listed, rotated, revoked; nothing of how they are shown.

The time and the person come in as arguments. A token is shown once, when it is issued; the store keeps its verifier. Every change
is written into the audit in the same transaction, and reaches the proxies with its commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, insert, select, update

from dbshield.config import EnvironmentConfig, near
from dbshield.control.audit_store import Entry, append
from dbshield.control.scopes import ANYWHERE, check_within
from dbshield.control.tokens import Token, make_verifier, new_token
from dbshield.control.withdrawing import withdraw_open
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel, TokenScope
from dbshield.store.database import Database, Within
from dbshield.store.schema import agents, token_uses, tokens

UNDEFINED_OBJECT = "42704"
INVALID_PARAMETER_VALUE = "22023"
OBJECT_NOT_IN_STATE = "55000"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token that was just made: the only moment at which it is known in clear."""

    agent: str
    environment: str
    token: Token
    expires_at: datetime
    scope: TokenScope = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A token that took another one's place; the old one works until `old_ends_at`."""

    issued: IssuedToken
    old: str
    old_ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What is known of a token afterwards. `replaces` is the token that a rotation put it in the place of."""

    id: str
    agent: str
    environment: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    created_by: str
    scope: TokenScope = ANYWHERE
    replaces: str | None = None
    last_used_at: datetime | None = None
    last_used_from: str | None = None

    def state(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at > now else "expired"

    def stale(self, now: datetime, after: timedelta) -> bool:
        """Whether it still opens the door although nobody has used it for so long, or ever since it was made."""
        return self.state(now) == "live" and now - (self.last_used_at or self.created_at) > after


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """What making a token needs of its agent; `user` is its name and environment."""

    id: UUID
    access: AccessLevel
    salt: bytes
    iterations: int
    user: tuple[str, str]


class Tokens:
    """The tokens of the agents of the environments that are configured here."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = settings

    def issue_token(
        self,
        *,
        name: str,
        environment: str,
        now: datetime,
        by: str,
        ttl: timedelta | None = None,
        scope: TokenScope = ANYWHERE,
    ) -> IssuedToken:
        """Another token for an agent; the earlier ones stay. Refused where there is no such agent, the lifetime is too long, or
        the scope names what the agent does not have."""
        lifetime = self._lifetime(environment, ttl)
        with self._database.transaction() as connection:
            agent = self._living(connection, name, environment)
            check_within(scope, agent=name, access=agent.access, databases=self._settings[environment].databases)
            return issue(connection, agent, now, lifetime, by, scope=scope)

    def rotate_token(
        self, *, token_id: str, now: datetime, by: str, overlap: timedelta = timedelta(), ttl: timedelta | None = None
    ) -> Rotated:
        """A new token with the agent and the scope of another, which ends after `overlap`, and never later than it would have.

        Raises Refused where there is no such token, it is over, or the lifetime is too long.
        """
        with self._database.transaction() as connection:
            old = connection.execute(
                select(tokens, agents.c.name, agents.c.environment)
                .join_from(tokens, agents, tokens.c.agent == agents.c.id)
                .where(tokens.c.id == token_id, agents.c.removed_at.is_(None))
            ).one_or_none()
            if old is None:
                raise _unknown(token_id)
            agent = self._living(connection, old.name, old.environment)
            # The agent's row is locked now; who revoked the token meanwhile has committed.
            ends = connection.execute(
                select(tokens.c.expires_at, tokens.c.revoked_at).where(tokens.c.id == token_id).with_for_update()
            ).one()
            if ends.revoked_at is not None or ends.expires_at <= now:
                over = "revoked" if ends.revoked_at is not None else "expired"
                raise Refused(
                    f"token {token_id} is {over}, so there is nothing to rotate",
                    sqlstate=OBJECT_NOT_IN_STATE,
                    hint=f"`dbshield token issue {old.name} --environment {old.environment}` gives the agent another one.",
                )
            ends_at = min(ends.expires_at, now + overlap)
            lifetime = self._lifetime(old.environment, ttl)
            change = {"expires_at": ends_at} if overlap else {"revoked_at": now}
            connection.execute(update(tokens).where(tokens.c.id == token_id).values(change))
            issued = issue(connection, agent, now, lifetime, by, scope=scope_of(old), replaces=token_id)
            return Rotated(issued=issued, old=token_id, old_ends_at=ends_at)

    def list_tokens(self, *, name: str | None = None, environment: str | None = None) -> list[TokenInfo]:
        """The tokens of living agents, the newest last; ended ones too."""
        query = (
            select(tokens, agents.c.name, agents.c.environment, token_uses.c.used_at, token_uses.c.used_from)
            .join_from(tokens, agents, tokens.c.agent == agents.c.id)
            .join(token_uses, token_uses.c.token == tokens.c.id, isouter=True)
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
            return [_info(row) for row in connection.execute(query)]

    def revoke_token(self, *, token_id: str, now: datetime, by: str = "", within: Within | None = None) -> bool:
        """Revokes a token, and takes back what its agent asked for; False where it was revoked before; `within` runs it in
        another transaction than its own. Refused where there is none with this id."""

        def change(connection: Connection) -> bool:
            known = connection.execute(
                select(tokens.c.id, tokens.c.agent, agents.c.name, agents.c.environment)
                .join_from(tokens, agents, tokens.c.agent == agents.c.id)
                .where(tokens.c.id == token_id)
                .with_for_update(of=tokens)
            ).one_or_none()
            if known is None:
                raise _unknown(token_id)
            changed = connection.execute(
                update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            if changed.rowcount != 1:
                return False
            fields = {"environment": known.environment, "agent": known.name, "person": by, "token": token_id}
            revoked = Entry(at=now, kind="token-revoked", fields=fields)
            why = f"a token of {known.name} in {known.environment} was revoked"
            back = withdraw_open(
                connection, agent_id=known.agent, agent=known.name, environment=known.environment, why=why, now=now
            )
            append(connection, [revoked, *back])
            return True

        return (within or self._database.within)(change)

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

    def _living(self, connection: Connection, name: str, environment: str) -> Living:
        self._environment(environment)
        found = connection.execute(
            select(agents.c.id, agents.c.access, agents.c.salt, agents.c.iterations)
            .where(and_(agents.c.name == name, agents.c.environment == environment, agents.c.removed_at.is_(None)))
            .with_for_update()
        ).one_or_none()
        if found is None:
            raise Refused(
                f"there is no agent {name} in {environment}",
                sqlstate=UNDEFINED_OBJECT,
                hint="`dbshield agent list` shows those that there are.",
            )
        return Living(
            id=found.id,
            access=AccessLevel(found.access),
            salt=found.salt,
            iterations=found.iterations,
            user=(name, environment),
        )


def issue(
    connection: Connection,
    agent: Living,
    now: datetime,
    lifetime: timedelta,
    by: str,
    *,
    scope: TokenScope = ANYWHERE,
    replaces: str | None = None,
) -> IssuedToken:
    """Makes a token in the caller's transaction, which ends soon: the entry in the audit is the last thing it does."""
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
        "access": scope.access.value if scope.access is not None else None,
        "databases": list(scope.databases) or None,
        "networks": list(scope.networks) or None,
        "hours": scope.hours or None,
        "replaces": replaces,
    }
    connection.execute(insert(tokens).values(row))
    said = {"token": token.id, "expires_at": expires_at, "scope": scope_fields(scope)}
    fields = {"environment": environment, "agent": name, "person": by, **said, **({"replaces": replaces} if replaces else {})}
    append(connection, [Entry(at=now, kind="token-rotated" if replaces else "token-issued", fields=fields)])
    return IssuedToken(agent=name, environment=environment, token=token, expires_at=expires_at, scope=scope)


def scope_of(row: Row[Any]) -> TokenScope:
    """The scope in a row of `tokens`."""
    return TokenScope(
        access=AccessLevel(row.access) if row.access is not None else None,
        databases=tuple(row.databases or ()),
        networks=tuple(row.networks or ()),
        hours=row.hours or "",
    )


def scope_fields(scope: TokenScope) -> dict[str, Any]:
    """What a scope narrows, as JSON knows values; empty where it narrows nothing."""
    found = {
        "access": scope.access.value if scope.access is not None else None,
        "databases": list(scope.databases),
        "networks": list(scope.networks),
        "hours": scope.hours,
    }
    return {name: value for name, value in found.items() if value}


def _info(row: Row[Any]) -> TokenInfo:
    return TokenInfo(
        id=row.id,
        agent=row.name,
        environment=row.environment,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        created_by=row.created_by,
        scope=scope_of(row),
        replaces=row.replaces,
        last_used_at=row.used_at,
        last_used_from=row.used_from,
    )


def _unknown(token_id: str) -> Refused:
    return Refused(f"there is no token {token_id}", sqlstate=UNDEFINED_OBJECT, hint="`dbshield token list` shows their ids.")
