"""`dbshield console`: the web page, alone or beside `dbshield up`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer

from dbshield.cli.beside import Told, beside, told_by_signals
from dbshield.config import Config, load_config
from dbshield.console.certificate import check_certificate
from dbshield.control.connection import control_dsn
from dbshield.control.logs import configure_logging
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError
from dbshield.store.database import Database

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]

AGAIN: Final = 5.0
"""Seconds after a bug until the next attempt."""
BACKLOG: Final = 128


def console(config: ConfigOption = None) -> None:
    """Run the console: what happens, held statements, agents, the audit, backups, the policy. People sign in with a password.

    SIGHUP reads the configuration and the certificate again.

    Example: dbshield console --config /etc/dbshield/dbshield.toml
    """
    settings = load_config(config)
    configure_logging(level=settings.log.level, format=settings.log.format)
    told = told_by_signals()
    with control_dsn(settings) as dsn, bound(settings) as sock:
        serve(settings, lambda: load_config(config), dsn, sock, told)


def bound(settings: Config) -> socket.socket:
    """The socket that the console listens on. ConfigError where it cannot be had, or not with its certificate."""
    where = settings.console.where
    if where is None:
        raise ConfigError("[console] listen is empty", hint="Say where people open it, as in 127.0.0.1:7433.")
    check_certificate(settings.console)
    with contextlib.ExitStack() as undone:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
            sock = undone.enter_context(socket.socket(family, kind, proto))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"[console] listen: cannot listen on {where}: {error.strerror or error}",
                hint="Stop what listens there, or choose another address.",
            ) from error
        undone.pop_all()
    return sock


def serve(settings: Config, load: Callable[[], Config], dsn: str, sock: socket.socket, told: Told) -> None:
    """Answers until it is told to stop; `load` reads the configuration again. StoreError where the tables are another
    version's."""
    # Half a second of imports that `dbshield proxy` does not need.
    from dbshield.console.frame import Parts  # noqa: PLC0415
    from dbshield.console.server import run  # noqa: PLC0415

    database = Database(dsn)
    try:
        database.require_current()
        parts = Parts(config=settings, database=database, dsn=dsn, vault=Vault.load(settings.secret_key))
        log: Any = structlog.get_logger("dbshield.console")
        address = settings.console.address or next(iter(settings.console.origins.values()))
        log.info("listening", part="console", address=address)
        run(parts, sock, told.stop, told.reload, load)
    finally:
        database.close()


@contextlib.contextmanager
def console_beside(settings: Config, load: Callable[[], Config], dsn: str) -> Iterator[int | None]:
    """A console in a process of its own while the block runs, unless none is wanted: its number. It ends with this process;
    `load` reads the configuration again when SIGHUP comes to it."""
    if not settings.console.listen:
        yield None
        return
    try:
        sock = bound(settings)
    except ConfigError as error:
        if "listen" in settings.console.model_fields_set:
            raise
        # Nobody asked for a console there: what protects the databases does not wait for it.
        log: Any = structlog.get_logger("dbshield.console")
        log.warning("the console does not run", why=error.message, hint="Say another [console] listen, or an empty one.")
        yield None
        return
    with sock, beside("console", lambda told: serve(settings, load, dsn, sock, told), again=AGAIN) as process:
        # Where the console's own process is gone nobody shall wait for an answer.
        sock.close()
        yield process
