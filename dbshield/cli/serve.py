"""`dbshield up` and `dbshield proxy`: what runs in the foreground until a signal ends it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from dbshield.app import Proxy
from dbshield.cli.alert import watch_beside
from dbshield.cli.beside import passing_on
from dbshield.cli.console import console_beside
from dbshield.cli.executor import executor_beside
from dbshield.cli.monitor import monitor_beside
from dbshield.cli.scheduler import scheduler_beside
from dbshield.cluster.trial import ENVIRONMENT, trial_environment
from dbshield.config import Config, find_config, load_config
from dbshield.control.agents import Agents
from dbshield.control.connection import control_dsn
from dbshield.control.dsn import agent_dsn
from dbshield.control.logs import configure_logging
from dbshield.control.setup import make_key, make_state, make_tables
from dbshield.control.vault import Vault
from dbshield.model import AccessLevel
from dbshield.proxy.signals import unwind_on_sigterm
from dbshield.store.database import Database

TRIAL_AGENT = "agent"
TRIAL_TTL = datetime.timedelta(days=1)
"""The trial's token is made anew at each start, so it need not live longer."""

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that share the port; proxy.workers otherwise.", min=1, max=256, show_default=False),
]


def proxy(config: ConfigOption = None, workers: WorkersOption = None) -> None:
    """Run the proxy: where agents connect. SIGTERM lets running statements finish, SIGHUP reads the configuration again.

    Example: dbshield proxy --config /etc/dbshield/dbshield.toml --workers 4
    """
    unwind_on_sigterm()
    settings = _load(config, workers)
    _start_logging(settings)
    with control_dsn(settings) as dsn, watch_beside(settings, dsn), monitor_beside(settings, dsn) as boards:
        raise typer.Exit(Proxy(settings, lambda: _load(config, workers), dsn, boards, file=find_config(config)).run())


def up(config: ConfigOption = None, workers: WorkersOption = None) -> None:
    """Run everything on this machine: the control database, the proxy and, where no environment is configured, a database to try.

    Makes what is missing: state folder, keys, tables.

    Example: dbshield up
    """
    unwind_on_sigterm()
    settings = _load(config, workers)
    _start_logging(settings)
    make_state(settings)
    make_key(settings.secret_key)
    with _environments(settings) as complete, control_dsn(complete) as dsn:
        make_tables(complete, dsn)
        _greet(complete, dsn)
        load = _reload(config, workers, complete)
        with (
            executor_beside(complete, dsn),
            watch_beside(complete, dsn),
            scheduler_beside(settings, config, dsn) as scheduler,
            console_beside(complete, load, dsn) as console,
            monitor_beside(complete, dsn) as boards,
        ):
            raise typer.Exit(Proxy(complete, passing_on(load, [console, scheduler]), dsn, boards, file=find_config(config)).run())


def _load(config: Path | None, workers: int | None) -> Config:
    """The configuration, with what the command line says on top."""
    settings = load_config(config)
    if workers is None:
        return settings
    return settings.model_copy(update={"proxy": settings.proxy.model_copy(update={"workers": workers})})


def _start_logging(settings: Config) -> None:
    configure_logging(level=settings.log.level, format=settings.log.format)
    log = structlog.get_logger("dbshield.config")
    for remark in settings.remarks():
        log.warning(remark)


@contextlib.contextmanager
def _environments(settings: Config) -> Iterator[Config]:
    if settings.environments:
        yield settings
        return
    with trial_environment(settings) as complete:
        yield complete


def _reload(config: Path | None, workers: int | None, running: Config) -> Callable[[], Config]:
    """Reads the file again; the trial database, which stands in no file, stays."""

    def load() -> Config:
        loaded = _load(config, workers)
        trial = {name: value for name, value in running.environments.items() if name == ENVIRONMENT}
        return loaded.model_copy(update={"environments": {**trial, **loaded.environments}})

    return load


def _greet(settings: Config, dsn: str) -> None:
    """Tell a newcomer what to do next. On a trial: the very string to paste."""
    console = Console(highlight=False)
    if ENVIRONMENT not in settings.environments:
        console.print(
            f"dbshield protects {', '.join(settings.environments)}. Give an agent its connection string with", soft_wrap=True
        )
        console.print(
            f"  dbshield agent create NAME --environment {next(iter(settings.environments))} --access write", soft_wrap=True
        )
        return
    database = Database(dsn)
    try:
        agents = Agents(database, settings.environments, lambda: Vault.load(settings.secret_key))
        now = datetime.datetime.now(datetime.UTC)
        if any(agent.name == TRIAL_AGENT for agent in agents.list_agents(now=now, environment=ENVIRONMENT)):
            issued = agents.issue_token(name=TRIAL_AGENT, environment=ENVIRONMENT, now=now, by="dbshield up", ttl=TRIAL_TTL)
        else:
            issued = agents.create(
                name=TRIAL_AGENT,
                environment=ENVIRONMENT,
                access=AccessLevel.WRITE,
                now=now,
                by="dbshield up",
                ttl=TRIAL_TTL,
            )
    finally:
        database.close()
    string = agent_dsn(issued, settings.environments[ENVIRONMENT], settings.proxy)
    console.print("No environment is configured, so here is a database to try, with a table of 1,000 orders. Paste this:\n")
    console.print(f'  psql "{string}"\n', soft_wrap=True)
    console.print("Then try:  select count(*) from orders;   delete from orders;   drop table orders;\n")
