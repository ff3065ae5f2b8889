"""`dbshield scheduler`: the daemon that makes backups, drills and the like when they are due."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from dbshield.cli.beside import beside, told_by_signals
from dbshield.config import Config, find_config, load_config
from dbshield.control.connection import control_dsn
from dbshield.control.logs import configure_logging
from dbshield.control.picture import picture_of
from dbshield.control.served import PURPOSE, SCHEDULER, Place, Served
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, StoreError
from dbshield.schedule.jobs import jobs_of
from dbshield.schedule.scheduler import Scheduler
from dbshield.store.database import Database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
AGAIN = 5.0
"""Seconds after a bug until the next attempt: a schedule that stands still is seen too late. Its jobs were ended."""

log: Any = structlog.get_logger("dbshield.scheduler")


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
    Scheduler(dsn, lambda: _told(config, dsn), options).run(stop, reload)


def _told(config: Path | None, dsn: str) -> Config:
    """The configuration, after it was told in the audit what changed in it since it was read last."""
    settings = load_config(config)
    try:
        key = Vault.load(settings.secret_key).derive(PURPOSE)
    except StoreError:
        # A machine that only makes backups has none. What texts say is not compared then.
        key = None
    served = Served(Database(dsn), Place.here(find_config(config), settings.state), SCHEDULER)
    try:
        served.look(picture_of(settings, key), datetime.now(UTC))
    except StoreError as error:
        # Nothing is kept either, so the next time tells it.
        log.warning("the served configuration is not kept", why=error.message)
    finally:
        served.close()
    return settings


@contextlib.contextmanager
def scheduler_beside(settings: Config, config: Path | None, dsn: str) -> Iterator[int | None]:
    """A scheduler in a process of its own while the block runs, where anything is scheduled: its number. It ends with this
    process."""
    if not jobs_of(settings):
        yield None
        return
    with beside("scheduler", lambda told: serve(config, dsn, told.stop, told.reload), again=AGAIN) as process:
        yield process
