"""`dbshield executor`: the daemon that runs what humans approved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer

from dbshield.backup.newest import newest_drill, newest_snapshot
from dbshield.config import Config, load_config
from dbshield.control.connection import control_dsn
from dbshield.control.executor import Executor
from dbshield.control.logs import configure_logging
from dbshield.errors import ConfigError, DbshieldError
from dbshield.proxy.signals import hear
from dbshield.proxy.supervisor import end_with_parent
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
    stop = _stopped_by_signals()
    with control_dsn(settings) as dsn:
        serve(settings, dsn, stop, once=once)


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
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = _child(settings, dsn)
        finally:
            # Whatever happens, nothing of what the parent does next is done here as well.
            os._exit(code)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _child(settings: Config, dsn: str) -> int:
    end_with_parent()
    log = structlog.get_logger("dbshield.executor")
    try:
        serve(settings, dsn, _stopped_by_signals())
    except DbshieldError as error:
        log.error("the executor cannot go on", why=error.message, hint=error.hint)
        return 2
    except Exception:
        log.exception("bug in the executor")
        return 2
    return 0


def _stopped_by_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT. The first of them lets an execution finish."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hear()
    return stop
