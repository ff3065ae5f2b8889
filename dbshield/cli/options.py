"""Options that many commands share, and what stands behind them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dbshield.cluster.trial import with_running_trial
from dbshield.config import Config, load_config
from dbshield.control.agents import Agents
from dbshield.control.connection import control_dsn
from dbshield.control.logs import configure_logging
from dbshield.control.vault import Vault
from dbshield.store.database import Database

EnvironmentOption = Annotated[
    str, typer.Option("--environment", "-e", metavar="NAME", help="The protected database, as in dbshield.toml.")
]
AnyEnvironmentOption = Annotated[str | None, typer.Option("--environment", "-e", metavar="NAME", help="This environment alone.")]
TtlOption = Annotated[str | None, typer.Option("--ttl", metavar="30d", help="How long the token lives: m, h, d or w.")]
AgentArgument = Annotated[str, typer.Argument(metavar="NAME", help="The agent.")]


def read_settings(path: Path | None) -> Config:
    """The configuration, and the log set up as it says; a command that answers stays silent below a warning. Beside `dbshield up`
    on a trial it has the trial's environment too."""
    config = with_running_trial(load_config(path))
    level = config.log.level
    configure_logging(level="warning" if level in {"debug", "info"} else level, format=config.log.format)
    return config


@contextmanager
def open_database(config: Config) -> Iterator[Database]:
    """The control database, which has to be the one that this dbshield knows."""
    with control_dsn(config) as dsn:
        database = Database(dsn)
        try:
            database.require_current()
            yield database
        finally:
            database.close()


@contextmanager
def open_agents(config: Config) -> Iterator[Agents]:
    """The agents in the control database."""
    with open_database(config) as database:
        yield agents_in(database, config)


def agents_in(database: Database, config: Config) -> Agents:
    return Agents(database, config.environments, lambda: Vault.load(config.secret_key))


def now() -> datetime:
    return datetime.now(UTC)


def person() -> str:
    """Who is at the keyboard, as the operating system knows them."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
