"""`dbshield agent`: who may log in, and with which rights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbshield.cli import agent_roles
from dbshield.cli.agent_roles import Administrator, DsnOption, PasswordEnvOption, PasswordFileOption
from dbshield.cli.common import ConfigOption, JsonOption, find_environment
from dbshield.cli.environment import (
    LastingOption,
    ReasonOption,
    UntilOption,
    freeze_end,
    freeze_fields,
    until_when,
)
from dbshield.cli.options import (
    AgentArgument,
    AnyEnvironmentOption,
    EnvironmentOption,
    TtlOption,
    agents_in,
    now,
    open_agents,
    open_database,
    person,
    read_settings,
)
from dbshield.cli.output import answer, date, remark, say, table, timestamp
from dbshield.config import Config
from dbshield.config.secret import read_secret
from dbshield.control.agents import IssuedToken
from dbshield.control.dsn import agent_dsn
from dbshield.control.freezes import Freezes
from dbshield.control.people import check_person
from dbshield.control.tokens import parse_duration
from dbshield.errors import ConfigError
from dbshield.guard.roles import Made
from dbshield.model import AccessLevel

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Create, list, freeze, rotate and remove agents."
)


@app.command()
def create(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    access: Annotated[
        AccessLevel, typer.Option("--access", "-a", help="read: queries; write: rows; migrate: additive schema changes.")
    ],
    role: Annotated[
        str | None, typer.Option("--role", help="A role that is there already; else one is made, or upstream's is used.")
    ] = None,
    role_password_file: Annotated[
        Path | None, typer.Option("--role-password-file", metavar="FILE", help="The role's password.")
    ] = None,
    role_password_env: Annotated[str, typer.Option("--role-password-env", metavar="VARIABLE", help="The role's password.")] = "",
    dsn: DsnOption = None,
    password_env: PasswordEnvOption = "",
    password_file: PasswordFileOption = None,
    schemas: Annotated[
        str, typer.Option("--schemas", metavar="A,B", help="Give its role rights on these schemas; else as role_schemas says.")
    ] = "",
    ttl: TtlOption = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="PERSON", help="Who answers for it.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Create an agent and show its connection string, this once.

    With an administrator's connection (--dsn, or administrator in dbshield.toml) it gets a role of least privilege of its own,
    and what could not be closed is listed. Without one it logs in with --role, or with the role in upstream.

    \b
    Examples:
      dbshield agent create claude --environment staging --access write
      dbshield agent create claude -e staging -a write --dsn postgresql://postgres@db.example.com/shop --password-env ADMIN
      dbshield agent create claude -e production -a read --role claude_ro --role-password-env PGPASS --ttl 7d --json
    """
    _check_password_given(role, role_password_file, role_password_env)
    settings = read_settings(config)
    lifetime = parse_duration(ttl) if ttl is not None else None
    admin = _maker_of_roles(settings, environment, role, dsn, password_env=password_env, password_file=password_file)
    wanted = tuple(dict.fromkeys(part.strip() for part in schemas.split(",") if part.strip()))
    new = agent_roles.NewAgent(
        name=name,
        environment=environment,
        access=access,
        now=now(),
        by=person(),
        ttl=lifetime,
        owner=check_person(owner) if owner is not None else None,
        schemas=wanted,
    )
    made = None
    if admin is not None:
        with open_agents(settings) as agents:
            issued, made = agent_roles.create(agents, settings, admin, new)
    else:
        password = read_secret("--role-password", file=role_password_file, variable=role_password_env)
        issued = _with_role_named(settings, new, role, password)
    show_token(settings, issued, f"Agent {name} may {WORDS[access]} in {environment}", json=json, made=made)


def _check_password_given(role: str | None, file: Path | None, variable: str) -> None:
    """A role's password is given once, and for a role."""
    if role is None and (file is not None or variable):
        raise ConfigError("a role's password was given without --role", hint="Name the role as well.")
    if file is not None and variable:
        raise ConfigError("--role-password-file and --role-password-env are both given", hint="Keep one.")


def _maker_of_roles(
    settings: Config, environment: str, role: str | None, dsn: str | None, *, password_env: str, password_file: Path | None
) -> Administrator | None:
    """The administrator who makes the agent's role; None where it logs in with one that is there already."""
    admin = agent_roles.administrator(find_environment(settings, environment), dsn, password_env, password_file)
    if role is not None and dsn is not None:
        raise ConfigError("--role and --dsn are both given", hint="--role names a role that is there; --dsn makes one.")
    return admin if role is None else None


def _with_role_named(settings: Config, new: agent_roles.NewAgent, role: str | None, password: str | None) -> IssuedToken:
    """An agent that logs in with a role that is there already."""
    if new.schemas:
        raise ConfigError("--schemas was given, and no role is made", hint="Name an administrator by --dsn, without --role.")
    with open_agents(settings) as agents:
        return agents.create(
            name=new.name,
            environment=new.environment,
            access=new.access,
            now=new.now,
            by=new.by,
            ttl=new.ttl,
            role=role,
            role_password=password,
            owner=new.owner,
        )


@app.command("list")
def list_(environment: AnyEnvironmentOption = None, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the agents.

    \b
    Example:
      dbshield agent list --environment staging
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        listed = agents_in(database, settings).list_agents(now=now(), environment=environment)
        frozen = Freezes(database, settings.environments).agents_in_force(now())
    if json:
        answer(
            [
                {
                    "agent": agent.name,
                    "environment": agent.environment,
                    "access": agent.access,
                    "role": agent.role or None,
                    "live_tokens": agent.live_tokens,
                    "owner": agent.owner,
                    "freezes": [freeze_fields(one) for one in frozen.get(f"{agent.name}.{agent.environment}", ())],
                    "created_at": agent.created_at,
                }
                for agent in listed
            ]
        )
        return
    rows = [
        (
            *(agent.name, agent.environment, agent.access, agent.role or "-", agent.live_tokens, agent.created_at),
            "; ".join(f"{until_when(one.until)}: {one.reason}" for one in frozen.get(f"{agent.name}.{agent.environment}", ()))
            or "-",
        )
        for agent in listed
    ]
    table(
        ("agent", "environment", "access", "role", "tokens", "created", "frozen"),
        rows,
        empty="There are no agents; `dbshield agent create` makes one.",
    )


@app.command()
def freeze(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    reason: ReasonOption,
    until: UntilOption = None,
    lasting: LastingOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Freeze one agent: it may read, and writes nothing. Every proxy knows within a second, also for its open sessions.

    Without --until or --for it lasts until `dbshield agent thaw`. An agent that is refused again and again is frozen by itself
    (freeze_after_refusals in dbshield.toml).

    \b
    Example:
      dbshield agent freeze claude --environment production --reason "drops what it did not make"
    """
    settings = read_settings(config)
    moment = now()
    end = freeze_end(until, lasting, moment)
    with open_database(settings) as database:
        made = Freezes(database, settings.environments).freeze(
            environment, reason=reason, by=person(), now=moment, until=end, agent=name
        )
    if json:
        answer({"agent": name, "environment": environment, **freeze_fields(made)})
    else:
        say(f"{name} in {environment} is frozen {until_when(made.until)}: {made.reason}")


@app.command()
def thaw(name: AgentArgument, environment: EnvironmentOption, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Lift every freeze of an agent, and count its refusals anew. Exit code 1 where nobody froze it.

    \b
    Example:
      dbshield agent thaw claude --environment production
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        lifted = Freezes(database, settings.environments).thaw(environment, by=person(), now=now(), agent=name)
        whole = environment in Freezes(database, settings.environments).in_force(now())
    if json:
        answer({"agent": name, "environment": environment, "lifted": lifted, "environment_frozen": whole})
        return
    say(f"{name} in {environment} is thawed: {lifted} freeze{' is' if lifted == 1 else 's are'} lifted.")
    if whole:
        remark(f"All of {environment} is still frozen; `dbshield environment thaw {environment}` lifts that.")


@app.command()
def remove(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    dsn: DsnOption = None,
    password_env: PasswordEnvOption = "",
    password_file: PasswordFileOption = None,
    heir: Annotated[str | None, typer.Option("--heir", metavar="ROLE", help="Who shall own what its role owns.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove an agent, revoke its tokens, and drop the role that dbshield made for it, as an administrator.

    \b
    Examples:
      dbshield agent remove claude --environment staging
      dbshield agent remove claude -e staging --dsn postgresql://postgres@db.example.com/shop --heir shop_owner
    """
    settings = read_settings(config)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody is here to be asked", hint="Say --yes.")
        typer.confirm(f"Remove {name} from {environment}, and revoke its tokens?", abort=True, err=True)
    admin = agent_roles.administrator(find_environment(settings, environment), dsn, password_env, password_file)
    if heir is not None and admin is None:
        raise ConfigError("--heir was given without an administrator", hint="Give --dsn as well.")
    with open_agents(settings) as agents:
        agent = agents.find(name=name, environment=environment, now=now())
        if admin is not None and agent.role:
            revoked, dropped = agent_roles.remove(agents, admin, agent, now=now(), by=person(), heir=heir)
        else:
            revoked, dropped = agents.remove(name=name, environment=environment, now=now(), by=person()), False
    if json:
        answer(
            {
                "agent": name,
                "environment": environment,
                "revoked_tokens": revoked,
                "dropped_role": agent.role if dropped else None,
            }
        )
        return
    say(f"Agent {name} is gone from {environment}, and {revoked} token{'' if revoked == 1 else 's'} with it.")
    if dropped:
        say(f"Its role {agent.role} is dropped.")
    elif agent.role:
        remark(f"The role {agent.role} stays on the server: dbshield did not make it, or no administrator was named.")


@app.command()
def rotate(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    dsn: DsnOption = None,
    password_env: PasswordEnvOption = "",
    password_file: PasswordFileOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give an agent's role a new password, and put its rights and settings back as they belong.

    Nobody notices: sessions go on, the agent's token stays, and a login in that moment waits. It also gives the role its rights
    on schemas and tables that are new, and says again what is open. Only roles that dbshield made are touched.

    \b
    Example:
      dbshield agent rotate claude --environment staging --dsn postgresql://postgres@db.example.com/shop --password-env ADMIN
    """
    settings = read_settings(config)
    admin = agent_roles.administrator(find_environment(settings, environment), dsn, password_env, password_file)
    if admin is None:
        raise ConfigError(
            "no administrator is named, and nobody else may change a role's password",
            hint="Give --dsn, or set administrator of the environment in dbshield.toml.",
        )
    with open_agents(settings) as agents:
        agent = agents.find(name=name, environment=environment, now=now())
        made = agent_roles.rotate(agents, settings, admin, agent, now=now(), by=person())
    if json:
        answer({"agent": name, "environment": environment, **agent_roles.as_json(made)})
        return
    say(f"The role {made.role} of {name} has a new password, which the proxies know already.")
    agent_roles.show(made)


WORDS = {
    AccessLevel.READ: "read",
    AccessLevel.WRITE: "read and write rows",
    AccessLevel.MIGRATE: "read and write rows and add to the schema",
}


def show_token(settings: Config, issued: IssuedToken, sentence: str, *, json: bool, made: Made | None = None) -> None:
    """The only moment at which a token is seen; `made` is the role that was made for the agent."""
    dsn = agent_dsn(issued, settings.environments[issued.environment], settings.proxy)
    if json:
        token = {"agent": issued.agent, "dsn": dsn, "token_id": issued.token.id, "expires_at": timestamp(issued.expires_at)}
        answer(token | (agent_roles.as_json(made) if made is not None else {}))
        return
    say(f"{sentence} until {date(issued.expires_at)}. Its connection string, shown this once:\n\n  {dsn}\n")
    say(f"The token's id is {issued.token.id}; `dbshield token revoke {issued.token.id}` ends it.")
    if made is not None:
        say(f"It has the role {made.role} on the server, with a password that only the proxy knows.")
        agent_roles.show(made)
