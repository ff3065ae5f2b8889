"""`dbshield agent`: who may log in, and with which rights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbshield.cli.judging import ConfigOption, JsonOption
from dbshield.cli.options import (
    AgentArgument,
    AnyEnvironmentOption,
    EnvironmentOption,
    TtlOption,
    now,
    open_agents,
    person,
    read_settings,
)
from dbshield.cli.output import answer, date, say, table, timestamp
from dbshield.config import Config
from dbshield.config.secret import read_secret
from dbshield.control.agents import IssuedToken
from dbshield.control.dsn import agent_dsn
from dbshield.control.people import check_person
from dbshield.control.tokens import parse_duration
from dbshield.errors import ConfigError
from dbshield.model import AccessLevel

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Create, list and remove agents.")


@app.command()
def create(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    access: Annotated[
        AccessLevel, typer.Option("--access", "-a", help="read: queries; write: rows; migrate: additive schema changes.")
    ],
    role: Annotated[
        str | None, typer.Option("--role", help="Its own role on the server; without one, the role in upstream.")
    ] = None,
    role_password_file: Annotated[
        Path | None, typer.Option("--role-password-file", metavar="FILE", help="The role's password.")
    ] = None,
    role_password_env: Annotated[str, typer.Option("--role-password-env", metavar="VARIABLE", help="The role's password.")] = "",
    ttl: TtlOption = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="PERSON", help="Who answers for it.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Create an agent and show its connection string, this once.

    \b
    Examples:
      dbshield agent create claude --environment staging --access write
      dbshield agent create claude -e production -a read --role claude_ro --role-password-env PGPASS --ttl 7d --json
    """
    if role is None and (role_password_file is not None or role_password_env):
        raise ConfigError("a role's password was given without --role", hint="Name the role as well.")
    if role_password_file is not None and role_password_env:
        raise ConfigError("--role-password-file and --role-password-env are both given", hint="Keep one.")
    settings = read_settings(config)
    lifetime = parse_duration(ttl) if ttl is not None else None
    password = read_secret("--role-password", file=role_password_file, variable=role_password_env)
    with open_agents(settings) as agents:
        issued = agents.create(
            name=name,
            environment=environment,
            access=access,
            now=now(),
            by=person(),
            ttl=lifetime,
            role=role,
            role_password=password,
            owner=check_person(owner) if owner is not None else None,
        )
    show_token(settings, issued, f"Agent {name} may {WORDS[access]} in {environment}", json=json)


@app.command("list")
def list_(environment: AnyEnvironmentOption = None, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the agents.

    \b
    Example:
      dbshield agent list --environment staging
    """
    with open_agents(read_settings(config)) as agents:
        listed = agents.list_agents(now=now(), environment=environment)
    if json:
        answer(
            [
                {
                    "agent": agent.name,
                    "environment": agent.environment,
                    "access": agent.access,
                    "role": agent.role or None,
                    "live_tokens": agent.live_tokens,
                    "created_at": agent.created_at,
                }
                for agent in listed
            ]
        )
        return
    rows = [
        (agent.name, agent.environment, agent.access, agent.role or "-", agent.live_tokens, agent.created_at) for agent in listed
    ]
    table(
        ("agent", "environment", "access", "role", "tokens", "created"),
        rows,
        empty="There are no agents; `dbshield agent create` makes one.",
    )


@app.command()
def remove(
    name: AgentArgument,
    environment: EnvironmentOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove an agent and revoke its tokens.

    \b
    Example:
      dbshield agent remove claude --environment staging
    """
    settings = read_settings(config)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody is here to be asked", hint="Say --yes.")
        typer.confirm(f"Remove {name} from {environment}, and revoke its tokens?", abort=True, err=True)
    with open_agents(settings) as agents:
        revoked = agents.remove(name=name, environment=environment, now=now())
    if json:
        answer({"agent": name, "environment": environment, "revoked_tokens": revoked})
    else:
        say(f"Agent {name} is gone from {environment}, and {revoked} token{'' if revoked == 1 else 's'} with it.")


WORDS = {
    AccessLevel.READ: "read",
    AccessLevel.WRITE: "read and write rows",
    AccessLevel.MIGRATE: "read and write rows and add to the schema",
}


def show_token(settings: Config, issued: IssuedToken, sentence: str, *, json: bool) -> None:
    """The only moment at which a token is seen."""
    dsn = agent_dsn(issued, settings.environments[issued.environment], settings.proxy)
    if json:
        answer({"agent": issued.agent, "dsn": dsn, "token_id": issued.token.id, "expires_at": timestamp(issued.expires_at)})
        return
    say(f"{sentence} until {date(issued.expires_at)}. Its connection string, shown this once:\n\n  {dsn}\n")
    say(f"The token's id is {issued.token.id}; `dbshield token revoke {issued.token.id}` ends it.")
