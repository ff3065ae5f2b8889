"""`dbshield scheduler`: the daemon that makes backups, drills and the like when they are due."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dbshield.cli.beside import beside, told_by_signals
from dbshield.config import Config, load_config
from dbshield.control.connection import control_dsn
from dbshield.control.logs import configure_logging
from dbshield.errors import ConfigError
from dbshield.schedule.jobs import jobs_of
from dbshield.schedule.scheduler import Scheduler
from dbshield.store.database import Database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
AGAIN = 5.0
"""Seconds after a bug until the next attempt: a schedule that stands still is seen too late. Its jobs were ended."""


def scheduler(config: ConfigOption = None) -> None:
    """Run what [schedule] says: snapshots, drills, prune, guard-verify. Any number may run; one of them leads.

    Each job is a process of its own. SIGTERM ends the jobs as well, SIGHUP reads the configuration again.

    Example: dbshield scheduler --config /etc/dbshield/dbshield.toml
    """
    settings = load_config(config)
    configure_logging(level=settings.log.level, format=settings.log.format)
    if not jobs_of(settings):
        raise ConfigError(
            "nothing is scheduled",
            hint='Say when in [schedule], as in snapshot = "0 2 * * *"; a plan of backups is [backup.NAME].',
        )
    with control_dsn(settings) as dsn:
        told = told_by_signals()
        serve(config, dsn, told.stop, told.reload)


def serve(config: Path | None, dsn: str, stop: threading.Event, reload: threading.Event) -> None:
    """Works until `stop` is set. StoreError where the tables are another version's."""
    database = Database(dsn)
    try:
        database.require_current()
    finally:
        database.close()
    options = ("--config", str(config.absolute())) if config is not None else ()
    Scheduler(dsn, lambda: load_config(config), options).run(stop, reload)


@contextlib.contextmanager
def scheduler_beside(settings: Config, config: Path | None, dsn: str) -> Iterator[None]:
    """A scheduler in a process of its own while the block runs, where anything is scheduled. It ends with this process."""
    if not jobs_of(settings):
        yield
        return
    with beside("scheduler", lambda told: serve(config, dsn, told.stop, told.reload), again=AGAIN):
        yield
