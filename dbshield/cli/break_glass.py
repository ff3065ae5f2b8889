"""`dbshield break-glass`: a person goes around the shield in an emergency, for a while, and everybody hears of it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from psycopg.conninfo import make_conninfo

from dbshield.cli import agent_roles
from dbshield.cli.codes import CodeEnvOption, CodeStdinOption, read_code
from dbshield.cli.common import ConfigOption, JsonOption, find_environment
from dbshield.cli.guard import told
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, date, remark, say, table, timestamp, visible
from dbshield.config import Config
from dbshield.control.emergency import FAILED, Emergencies, Emergency
from dbshield.control.people import People
from dbshield.control.tokens import parse_duration
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, StoreError
from dbshield.guard import emergency as role
from dbshield.store.database import Database

PASSWORD_BYTES = 32
"""Of randomness: beyond guessing from the verifier that the server keeps."""
DEFAULT = "15m"


def break_glass(
    *,
    environment: AnyEnvironmentOption = None,
    name: Annotated[str | None, typer.Option("--person", metavar="NAME", help="Who you are, as in `user list`.")] = None,
    reason: Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; everybody reads it.")] = "",
    lasting: Annotated[str, typer.Option("--for", metavar="15m", help="How long: m or h.")] = DEFAULT,
    listed: Annotated[bool, typer.Option("--list", help="List emergencies, and those that live.")] = False,
    end: Annotated[str | None, typer.Option("--end", metavar="ID", help="End one before its time.")] = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Go around the shield: a role of its own on the protected server, with the rights of emergency_role, for a while.

    It takes the second factor of a person, is written into the audit before anything else, and told to every channel at once.
    When its time is over its sessions are ended and the role is dropped, by `dbshield up`, `dbshield proxy` or
    `dbshield alerts run`, whichever has this environment's administrator in its configuration.

    \b
    Examples:
      dbshield break-glass -e production --person ann --reason "orders are locked, incident 17" --for 15m
      dbshield break-glass --list
      dbshield break-glass --end brk-k3x7w2mq
    """
    if sum((listed, end is not None, name is not None)) != 1:
        raise ConfigError("say one of --person, --list and --end", hint="`dbshield break-glass --help` has an example of each.")
    settings = read_settings(config)
    with open_database(settings) as database:
        if listed:
            _list(Emergencies(database, settings.environments), json=json)
        elif end is not None:
            _end(database, settings, end, json=json)
        else:
            if environment is None:
                raise ConfigError("--environment is missing", hint="Say where the emergency is.")
            find_environment(settings, environment)
            _check(settings, environment)
            assert name is not None
            code = read_code(name, stdin=code_stdin, variable=code_env)
            people = People(database, Vault.load(settings.secret_key))
            emergency = Emergencies(database, settings.environments).begin(
                people,
                environment,
                person=name,
                code=code,
                reason=reason,
                lasting=parse_duration(lasting),
                now=now(),
                by=person(),
            )
            _show(settings, emergency, make_role(database, settings, emergency), json=json)


def end_due(database: Database, settings: Config) -> list[Emergency]:
    """Removes the roles of emergencies that are over, where an administrator is configured; those that were tried."""
    return Emergencies(database, settings.environments).remove_due(lambda one: _remove(settings, one), datetime.now(UTC))


def _check(settings: Config, environment: str) -> None:
    section = settings.environments[environment]
    if not section.emergency_role:
        raise ConfigError(
            f"nobody goes around the shield in {environment}: it names no emergency_role",
            hint=f"Set emergency_role and administrator in [environments.{environment}], in quiet times.",
        )
    if not section.administrator:
        raise ConfigError(
            f"{environment} names no administrator here, so the role could neither be made nor removed",
            hint=f"Set administrator in [environments.{environment}].",
        )


def make_role(database: Database, settings: Config, emergency: Emergency) -> str:
    """Makes the role; its password. What could not be made is ended at once."""
    emergencies = Emergencies(database, settings.environments)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    spec = role.EmergencyRole(
        name=emergency.role,
        acts_as=emergency.acts_as,
        until=emergency.expires_at,
        comment=f"dbshield break-glass {emergency.id} of {emergency.person}, until {timestamp(emergency.expires_at)}",
    )
    try:
        with told(), _administrator(settings, emergency.environment).connections() as connections:
            role.make(connections[0], spec, password)
    except BaseException:
        emergencies.end(emergency.id, by=FAILED, now=now())
        raise
    emergencies.made(emergency, now())
    return password


def _remove(settings: Config, emergency: Emergency) -> int:
    with _administrator(settings, emergency.environment).connections() as connections:
        return role.remove(connections, emergency.role, emergency.acts_as)


def _administrator(settings: Config, environment: str) -> agent_roles.Administrator:
    found = agent_roles.administrator(settings.environments[environment], None, "", None)
    assert found is not None, "whoever asks has seen that there is one"
    return found


def _show(settings: Config, emergency: Emergency, password: str, *, json: bool) -> None:
    section = settings.environments[emergency.environment]
    server = section.server
    dsn = make_conninfo(
        "",
        host=server.host,
        port=server.port,
        sslmode=server.sslmode,
        **({"sslrootcert": server.sslrootcert} if server.sslrootcert else {}),
        dbname=section.databases[0],
        user=emergency.role,
        password=password,
    )
    if json:
        answer({**_fields(emergency), "dsn": dsn})
        return
    say(
        f"{emergency.id}: until {date(emergency.expires_at)} you are {emergency.acts_as} in {emergency.environment}, by this, "
        "shown this once:"
    )
    say(f"\n  {dsn}\n")
    say(f"Nothing stands between you and the data. When you are done: dbshield break-glass --end {emergency.id}")
    if not settings.alerts:
        remark("remark: no channel of alerts is configured here, so nobody is told; it is in the audit.")


def _list(emergencies: Emergencies, *, json: bool) -> None:
    found, moment = emergencies.list_(), now()
    if json:
        answer([{**_fields(one), "state": one.state(moment)} for one in found])
        return
    table(
        ("id", "state", "environment", "person", "began", "until", "ended by", "reason"),
        [
            (
                *(one.id, one.state(moment), one.environment, one.person, one.created_at, one.ended_at or one.expires_at),
                *(one.ended_by or "-", one.reason + (f" (not removed: {one.error})" if one.error else "")),
            )
            for one in found
        ],
        empty="There was none.",
    )


def _end(database: Database, settings: Config, emergency_id: str, *, json: bool) -> None:
    emergencies = Emergencies(database, settings.environments)
    ended = emergencies.end(emergency_id, by=person(), now=now())
    tried = {one.id: one for one in end_due(database, settings)}
    # A watch may have been quicker: it looks several times a second.
    found = tried.get(ended.id) or emergencies.settled(ended.id)
    if found.removed_at is None:
        raise StoreError(
            f"the role {found.role} is still there: {found.error or 'no administrator of its environment is configured here'}",
            hint="It is tried again by itself where the administrator is configured.",
        )
    if json:
        answer({**_fields(found), "state": found.state(now())})
    else:
        say(visible(f"{found.id} is over: its sessions are ended, and the role {found.role} is gone."))


def _fields(emergency: Emergency) -> dict[str, Any]:
    return {
        "emergency": emergency.id,
        "environment": emergency.environment,
        "person": emergency.person,
        "reason": emergency.reason,
        "role": emergency.role,
        "acts_as": emergency.acts_as,
        "created_at": emergency.created_at,
        "expires_at": emergency.expires_at,
        "ended_at": emergency.ended_at,
        "ended_by": emergency.ended_by,
        "removed_at": emergency.removed_at,
        "error": emergency.error,
    }
