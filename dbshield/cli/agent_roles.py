"""What `dbshield agent` does on the protected server: a role for each agent, where an administrator's connection is given.

The store and the server cannot commit as one. The server's transaction is open and done but for its commit when the store
commits; the server's commit follows at once. Where it fails all the same, the store is put back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import psycopg
import typer
from psycopg.conninfo import make_conninfo

from dbshield.cli.guard import CONNECT_TIMEOUT, told
from dbshield.cli.output import say
from dbshield.config import Config, EnvironmentConfig, conninfo
from dbshield.config.secret import read_secret
from dbshield.control.agents import Agent, Agents, IssuedToken
from dbshield.errors import ConfigError, Refused
from dbshield.guard import roles, roles_remove
from dbshield.guard.install import Connection, Open
from dbshield.model import AccessLevel

PASSWORD_BYTES = 32
"""Of randomness in a role's password: beyond guessing, so that nobody gets it from the verifier that the server keeps."""

DsnOption = Annotated[
    str | None,
    typer.Option("--dsn", metavar="DSN", help="Make or change its role as this administrator, without a password in it."),
]
PasswordEnvOption = Annotated[str, typer.Option("--password-env", metavar="VARIABLE", help="Where the password for --dsn is.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="The same in a file.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """How to reach the protected server as somebody who may make roles: a connection string, password included."""

    dsn: str
    databases: tuple[str, ...]

    @contextmanager
    def connections(self) -> Iterator[Sequence[Connection]]:
        """One to each database of the environment."""
        with ExitStack() as stack:
            found: list[Connection] = []
            for database in self.databases:
                with told():
                    conn: Connection = psycopg.connect(
                        make_conninfo(
                            self.dsn, dbname=database, connect_timeout=CONNECT_TIMEOUT, application_name="dbshield agent"
                        ),
                        autocommit=True,
                    )
                found.append(stack.enter_context(conn))
            yield found


def administrator(
    section: EnvironmentConfig, dsn: str | None, password_env: str, password_file: Path | None
) -> Administrator | None:
    """Who is named on the command line, else in the configuration, if anybody is."""
    if password_env and password_file is not None:
        raise ConfigError("--password-env and --password-file are both given", hint="Keep one.")
    if dsn is None:
        if password_env or password_file is not None:
            raise ConfigError("a password was given without --dsn", hint="Give the administrator's connection string as well.")
        if not section.administrator:
            return None
        target = conninfo.with_password(section.administrator, section.administrator_password())
        return Administrator(dsn=target, databases=section.databases)
    try:
        written = conninfo.password(dsn)
    except ValueError as error:
        raise ConfigError(f"--dsn {error}") from None
    if written is not None:
        raise ConfigError(
            "--dsn holds a password, which everybody on this machine can read in the list of processes",
            hint="Use --password-env VARIABLE, --password-file FILE, PGPASSWORD or a .pgpass file.",
        )
    password = read_secret("--password", file=password_file, variable=password_env)
    return Administrator(dsn=conninfo.with_password(dsn, password), databases=section.databases)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAgent:
    """What an agent is created with, besides its role."""

    name: str
    environment: str
    access: AccessLevel
    now: datetime
    by: str
    ttl: timedelta | None
    owner: str | None
    schemas: tuple[str, ...]


def create(agents: Agents, settings: Config, admin: Administrator, new: NewAgent) -> tuple[IssuedToken, roles.Made]:
    """The agent with its role, or neither."""
    agents.require_new(name=new.name, environment=new.environment, now=new.now)
    section = settings.environments[new.environment]
    spec = roles.RoleSpec(
        agent_id=uuid4(),
        agent=new.name,
        environment=new.environment,
        access=new.access,
        schemas=new.schemas or section.role_schemas,
        limits=_limits(section, new.name),
        today=new.now.date().isoformat(),
    )
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    issued: IssuedToken | None = None
    try:
        with told(), admin.connections() as connections, roles.create(connections, spec, password) as made:
            issued = agents.create(
                name=new.name,
                environment=new.environment,
                access=new.access,
                now=new.now,
                by=new.by,
                ttl=new.ttl,
                role=made.role,
                role_password=password,
                owner=new.owner,
                agent_id=spec.agent_id,
            )
    except BaseException:
        if issued is not None:
            agents.remove(name=new.name, environment=new.environment, now=new.now, by=new.by)
        raise
    return issued, made


def rotate(agents: Agents, settings: Config, admin: Administrator, agent: Agent, *, now: datetime, by: str) -> roles.Made:
    """A new password for the agent's role, and its rights and settings as they belong."""
    if not agent.role:
        raise Refused(
            f"{agent.name} has no role of its own: it logs in with the environment's",
            hint="Remove it and create it again with an administrator's connection, or change the password in dbshield.toml.",
        )
    section = settings.environments[agent.environment]
    spec = roles.RoleSpec(
        agent_id=agent.id,
        agent=agent.name,
        environment=agent.environment,
        access=agent.access,
        limits=_limits(section, agent.name),
        today=now.date().isoformat(),
        name=agent.role,
    )
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    before: list[bytes | None] = []
    try:
        with told(), admin.connections() as connections, roles.renew(connections, spec, password) as made:
            before.append(agents.change_role_password(agent, password, now=now, by=by))
    except BaseException:
        if before:
            agents.restore_role_password(agent, before[0], now=now, by=by)
        raise
    return made


def remove(agents: Agents, admin: Administrator, agent: Agent, *, now: datetime, by: str, heir: str | None) -> tuple[int, bool]:
    """Ends the agent and drops its role if dbshield made it; how many tokens were revoked, and whether a role was dropped."""
    with (
        told(),
        admin.connections() as connections,
        roles_remove.remove(connections, agent.role, agent.id, heir=heir) as removed,
    ):
        revoked = agents.remove(name=agent.name, environment=agent.environment, now=now, by=by)
    return revoked, removed.dropped


def as_json(made: roles.Made) -> dict[str, Any]:
    """What machines are told of a role."""
    return {
        "role": made.role,
        "open": [{"what": left.what, "why": left.why, "leaves": left.leaves} for left in made.open],
        "closed": list(made.closed),
    }


def show(made: roles.Made) -> None:
    """The same for people: what was closed, and line by line what could not be."""
    for routine in made.closed:
        say(f"  closed: EXECUTE on {routine} was everybody's, and nobody used it")
    for left in made.open:
        _show_open(left)


def _show_open(left: Open) -> None:
    say(f"  open: {left.what} ({left.why})")
    say(f"    {left.leaves}")


def _limits(section: EnvironmentConfig, agent: str) -> roles.Limits:
    own = section.agents[agent].max_rows if agent in section.agents else None
    return roles.Limits(
        connections=section.role_connections,
        statement=section.role_statement_timeout,
        lock=section.role_lock_timeout,
        idle_in_transaction=section.role_idle_in_transaction_timeout,
        temp_file_mb=section.role_temp_file_mb,
        max_rows=own if own is not None else section.max_rows,
    )
