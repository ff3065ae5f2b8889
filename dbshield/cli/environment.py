"""`dbshield environment`: the protected databases, the clusters that they are, and the freezes that a human puts on them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.guard import DsnOption, PasswordOption, connections, told
from dbshield.cli.options import agents_in, now, open_database, person, read_settings
from dbshield.cli.output import answer, date, say, table
from dbshield.config import EnvironmentConfig
from dbshield.control.freezes import Freezes
from dbshield.control.pins import Pin, Pins
from dbshield.control.tokens import parse_duration
from dbshield.errors import ConfigError, Refused
from dbshield.guard.identity import IDENTITY_QUERY, Identity, read_identity
from dbshield.store.frozen import Freeze

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List, pin, freeze and thaw protected databases."
)

EnvironmentArgument = Annotated[str, typer.Argument(metavar="NAME", help="The environment, as in dbshield.toml.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; agents and colleagues read it.")]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="When it ends by itself, as in 2026-05-01T18:00+02:00.")
]
LastingOption = Annotated[str | None, typer.Option("--for", metavar="2h", help="When, as a length of time: m, h, d or w.")]


@app.callback()
def group() -> None:
    """List, pin, freeze and thaw protected databases."""


@app.command("list")
def list_(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the environments of dbshield.toml, how many agents each has, and whether it is frozen.

    \b
    Example:
      dbshield environment list --json
    """
    settings = read_settings(config)
    moment = now()
    with open_database(settings) as database:
        counted = Counter(agent.environment for agent in agents_in(database, settings).list_agents(now=moment))
        freezes = Freezes(database, settings.environments).in_force(moment)
        pins = Pins(database, settings.environments).all()
    found = [
        _entry(name, environment, counted[name], freezes.get(name, ()), pins.get(name), frozen=environment.is_frozen(moment))
        for name, environment in settings.environments.items()
    ]
    if json:
        answer(found)
        return
    rows = [
        (
            entry["environment"],
            f"{entry['host']}:{entry['port']}",
            entry["sslmode"],
            ", ".join(entry["databases"]),
            entry["agents"],
            "; ".join(_frozen(settings.environments[entry["environment"]], entry)) or "-",
        )
        for entry in found
    ]
    table(
        ("environment", "server", "sslmode", "databases", "agents", "frozen"),
        rows,
        empty="There are none; add [environments.NAME] to dbshield.toml.",
    )


@app.command()
def freeze(
    name: EnvironmentArgument,
    *,
    reason: ReasonOption,
    until: UntilOption = None,
    lasting: LastingOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Freeze an environment: its agents may read, and write nothing. Every proxy knows within a second, also for open sessions.

    Without --until or --for it lasts until `dbshield environment thaw`. A freeze that is in force is not shortened by another.

    \b
    Examples:
      dbshield environment freeze production --reason "release 4.2" --for 2h
      dbshield environment freeze production --reason "incident 17"
    """
    settings = read_settings(config)
    moment = now()
    end = freeze_end(until, lasting, moment)
    with open_database(settings) as database:
        made = Freezes(database, settings.environments).freeze(name, reason=reason, by=person(), now=moment, until=end)
    if json:
        answer({"environment": name, **freeze_fields(made)})
    else:
        say(f"{name} is frozen {until_when(made.until)}: {made.reason}")


@app.command()
def thaw(name: EnvironmentArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Lift every freeze of an environment. Exit code 1 where nobody froze it.

    \b
    Example:
      dbshield environment thaw production
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        lifted = Freezes(database, settings.environments).thaw(name, by=person(), now=now())
    if json:
        answer({"environment": name, "lifted": lifted})
    else:
        say(f"{name} is thawed: {lifted} freeze{' is' if lifted == 1 else 's are'} lifted.")


@app.command()
def pin(
    name: EnvironmentArgument,
    *,
    dsn: DsnOption = None,
    password_env: PasswordOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say that the server at the environment's address now is the one that is meant. Proxies refuse every other one.

    An environment is pinned to the first cluster that is seen at its address. This is for when it was exchanged on purpose:
    restored, upgraded, moved. A promoted standby is the same cluster and needs nothing.

    \b
    Example:
      dbshield environment pin staging
    """
    settings = read_settings(config)
    found = _identity(config, name, dsn, password_env)
    with open_database(settings) as database:
        pins = Pins(database, settings.environments)
        pinned = pins.all()
        before = pinned.get(name)
        same = before is not None and before.system_identifier == found.system_identifier
        others = [other for other, held in pinned.items() if other != name and held.system_identifier == found.system_identifier]
        if not json:
            _show_pin(name, before, found, others)
        if not same:
            if (before is not None or others) and not yes:
                _ask(name)
            pins.pin(name, system_identifier=found.system_identifier, by=person(), now=now())
    if json:
        answer(
            {
                "environment": name,
                "system_identifier": str(found.system_identifier),
                "before": str(before.system_identifier) if before is not None else None,
                "guard": found.environment or None,
                "shared_with": others,
                "changed": not same,
            }
        )
    elif not same:
        say(f"{name} is pinned to {found.system_identifier}.")


def _identity(config: Path | None, name: str, dsn: str | None, password_env: str) -> Identity:
    """Which cluster is at the environment's address. Raises Refused where a guard there is another environment's."""
    found: Identity | None = None
    for conn in connections(config, name, dsn, password_env):
        with told(), conn:
            identity = read_identity(conn.execute(IDENTITY_QUERY).fetchall())
            database = conn.info.dbname
        if identity.environment not in {"", name}:
            raise Refused(
                f"the guard in {database} was installed for {identity.environment}",
                hint=f"Correct upstream of [environments.{name}]; if it is a copy: dbshield guard install --environment {name}",
            )
        if found is not None and found.system_identifier != identity.system_identifier:
            raise Refused("the databases of this environment are in different clusters", hint="Look at what is at the address.")
        found = identity
    assert found is not None, "an environment has a database"
    return found


def _show_pin(name: str, before: Pin | None, found: Identity, others: Sequence[str]) -> None:
    if before is None:
        say(f"{name} was not pinned before.")
    else:
        since = f" since {date(before.pinned_at)}, by {before.pinned_by}" if before.pinned_at is not None else ""
        say(f"{name} is pinned to the cluster {before.system_identifier}{since}.")
    guard = f", and its guard says {found.environment}" if found.environment else ""
    say(f"At its address is the cluster {found.system_identifier}{guard}.")
    if others:
        say(f"That cluster is {' and '.join(others)} too.")


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to be asked", hint="Look at both identifiers, and say --yes.")
    typer.confirm(f"Let the agents of {name} into this cluster from now on?", abort=True, err=True)


def _frozen(environment: EnvironmentConfig, entry: dict[str, Any]) -> Iterator[str]:
    if entry["frozen_in_configuration"]:
        until = environment.frozen_until
        yield f"in dbshield.toml until {date(until)}" if until is not None else "in dbshield.toml"
    for freeze in entry["freezes"]:
        yield f"{until_when(freeze['until'])}: {freeze['reason']}"


def _entry(
    name: str, environment: EnvironmentConfig, agents: int, freezes: Sequence[Freeze], pin: Pin | None, *, frozen: bool
) -> dict[str, Any]:
    """`frozen` is whether the configuration freezes it."""
    return {
        "environment": name,
        "host": environment.server.host,
        "port": environment.server.port,
        "sslmode": environment.server.sslmode,
        "databases": environment.databases,
        "max_rows": environment.max_rows,
        "agents": agents,
        # In words: JSON's readers elsewhere cut a number of 64 bits.
        "system_identifier": str(pin.system_identifier) if pin is not None else None,
        "frozen": frozen or bool(freezes),
        "frozen_in_configuration": frozen,
        "freezes": [freeze_fields(freeze) for freeze in freezes],
    }


def freeze_fields(freeze: Freeze) -> dict[str, Any]:
    return {
        "reason": freeze.reason,
        "frozen_by": freeze.frozen_by,
        "frozen_at": freeze.frozen_at,
        "until": freeze.until,
    }


def until_when(end: datetime | None) -> str:
    return f"until {date(end)}" if end is not None else "until somebody thaws it"


def freeze_end(until: str | None, lasting: str | None, moment: datetime) -> datetime | None:
    """When a freeze ends. A time without a zone is meant on the clock of this machine."""
    if until is not None and lasting is not None:
        raise ConfigError("--until and --for are both given", hint="Keep one.")
    if lasting is not None:
        return moment + parse_duration(lasting)
    if until is None:
        return None
    try:
        return datetime.fromisoformat(until).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f'"{until}" is no time', hint="Write it as in 2026-05-01T18:00+02:00, or use --for 2h.") from None
