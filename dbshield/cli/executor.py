"""`dbshield executor`: the daemon that runs what humans approved."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dbshield.backup.newest import newest_drill, newest_snapshot
from dbshield.backup.wal_store import covering
from dbshield.cli.beside import beside, told_by_signals
from dbshield.config import Config, load_config
from dbshield.control.connection import control_dsn
from dbshield.control.executor import Executor
from dbshield.control.logs import configure_logging
from dbshield.errors import ConfigError
from dbshield.store.database import Database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
OnceOption = Annotated[bool, typer.Option("--once", help="Run what is approved now, make missing previews, and end.")]

UNDO_FOLDER = "undo"
"""Below the state folder: where undo points are kept."""


def executor(once: OnceOption = False, config: ConfigOption = None) -> None:
    """Run the executor: it previews held statements, runs approved ones, and takes an undo point before each.

    Any number may run; each statement is run by one of them, once. SIGTERM lets an execution that has begun finish.

    Example: dbshield executor --config /etc/dbshield/dbshield.toml
    """
    settings = load_config(config)
    configure_logging(level=settings.log.level, format=settings.log.format)
    if not any(environment.executor for environment in settings.environments.values()):
        raise ConfigError(
            "no environment names an executor, so there is nothing that could be run",
            hint='Set executor = "postgresql://ROLE@HOST:PORT/DATABASE" in [environments.NAME].',
        )
    told = told_by_signals()
    with control_dsn(settings) as dsn:
        serve(settings, dsn, told.stop, once=once)


def serve(settings: Config, dsn: str, stop: threading.Event, *, once: bool = False) -> None:
    """Works until `stop` is set; with `once`, until nothing is left to do. StoreError where the tables are another version's."""
    database = Database(dsn)
    try:
        database.require_current()
        worker = Executor(
            database,
            dsn,
            settings.environments,
            settings.state / UNDO_FOLDER,
            snapshot=partial(newest_snapshot, database),
            drill=partial(newest_drill, database),
            archived=partial(covering, database, settings.backup),
        )
        if not once:
            worker.run(stop)
            return
        with worker.alive():
            worker.preview()
            worker.work(stop)
    finally:
        database.close()


@contextlib.contextmanager
def executor_beside(settings: Config, dsn: str) -> Iterator[None]:
    """An executor in a process of its own while the block runs, where an environment names one. It ends with this process."""
    if not any(environment.executor for environment in settings.environments.values()):
        yield
        return
    with beside("executor", lambda told: serve(settings, dsn, told.stop)):
        yield
