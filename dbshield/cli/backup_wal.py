"""`dbshield backup wal`: keeps the WAL between snapshots, so that any moment can be restored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dbshield.backup import destination
from dbshield.backup.binaries import programs
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.keys import SigningKey
from dbshield.backup.moment import lsn_text
from dbshield.backup.repository import open_store
from dbshield.backup.run import key_file, plan_named
from dbshield.backup.source import Source, told
from dbshield.backup.wal import Piece
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_ship import Plan, Shipper
from dbshield.backup.wal_store import WalStore
from dbshield.cli.backup_keys import PlanOption
from dbshield.cli.beside import told_by_signals
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import open_database, read_settings
from dbshield.cli.output import answer, say
from dbshield.config import BackupConfig, Config
from dbshield.control import audit_store
from dbshield.control.logs import configure_logging
from dbshield.errors import BackupError, ConfigError
from dbshield.store.database import Database

SPOOL = "wal"
"""Below the state folder: WAL that is not archived yet, in a folder for each plan."""


def wal(
    plan: PlanOption = None,
    *,
    until_shipped: Annotated[
        bool, typer.Option("--until-shipped", help="End as soon as everything that is committed now is in the archive.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Archive the WAL of a physical plan, until SIGTERM: with a snapshot, any moment since can then be restored.

    A replication slot makes the server keep what is not archived yet; drop it when the plan is given up. What fails is tried
    again, told in the audit, and alerted. Exit code 0: told to end, or all is shipped; 2: it cannot go on.

    \b
    Examples:
      dbshield backup wal --plan nightly
      dbshield backup wal --plan nightly --until-shipped
    """
    settings = read_settings(config)
    name, chosen = plan_named(settings, plan)
    if chosen.engine != "physical":
        raise ConfigError(
            f"the plan {name} is {chosen.engine}, and WAL continues physical snapshots alone", hint='Set engine = "physical".'
        )
    configure_logging(level=settings.log.level, format=settings.log.format)
    heard = told_by_signals()
    with open_database(settings) as database:
        shipper = Shipper(_plan(settings, name, chosen, database))
        with _ended_by(heard.reload, heard.stop):
            shipper.run(heard.stop, once=until_shipped)
    newest = shipper.newest
    if json:
        answer(_tree(newest, name, chosen) if newest is not None else {"plan": name, "archived_until": None})
    elif until_shipped and newest is not None:
        say(f"{name}: any moment until {newest.marked_at} ({lsn_text(newest.mark)}) is in the archive at {chosen.destination}")


@contextmanager
def _ended_by(reload: threading.Event, stop: threading.Event) -> Iterator[None]:
    """SIGHUP is for daemons that read their configuration again; this one is started anew by whoever runs it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            if reload.is_set():
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="watch-reload", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _plan(settings: Config, name: str, chosen: BackupConfig, database: Database) -> Plan:
    """What the archive needs, looked at as for a snapshot. Raises Refused, BackupError, ConfigError."""
    environment = chosen.environment or name
    catalogue = Catalogue(database)
    key = SigningKey.load(key_file(settings))
    trusted = catalogue.trusted()
    if key.name not in trusted:
        raise BackupError(
            f"the control database does not know the signing key {key.name}", hint="`dbshield backup key` makes it known."
        )
    source = Source.of(chosen, settings.environments[environment])
    if not source.databases:
        raise ConfigError(f"no database of {environment} is named", hint="Name one in databases.")
    with source.connect(source.databases[0]) as connection, told("the facts about the server"):
        destination.check(chosen, settings.state, source.server(), connection)
        version = connection.info.server_version
    pinned = catalogue.pinned(environment)
    store = WalStore(database)

    def note(piece: Piece) -> None:
        store.note(piece, destination=chosen.destination)

    def tell(kind: str, why: str) -> None:
        audit_store.record(database, kind=kind, environment=environment, plan=name, error=why)

    return Plan(
        archive=Archive(open_store(chosen), environment, name),
        source=source,
        programs=programs(version // 10000, chosen.binaries),
        spool=spool_folder(settings, name, chosen),
        recipients=chosen.encrypt_to,
        level=chosen.compression_level,
        max_seconds=chosen.wal_max_seconds,
        key=key,
        trusted=trusted,
        pinned=str(pinned) if pinned is not None else None,
        told=tell,
        noted=note,
    )


def spool_folder(settings: Config, name: str, chosen: BackupConfig) -> Path:
    return chosen.wal_spool or settings.state / SPOOL / name


def _tree(newest: Piece, name: str, chosen: BackupConfig) -> dict[str, object]:
    return {
        "plan": name,
        "environment": newest.environment,
        "destination": chosen.destination,
        "timeline": newest.timeline,
        "segment": newest.name,
        "archived_until": newest.marked_at or None,
        "lsn": lsn_text(newest.mark) if newest.marked_at else None,
    }
