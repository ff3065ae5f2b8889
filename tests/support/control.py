"""Control databases for tests: empty or migrated, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbshield.config import EnvironmentConfig
from dbshield.control.agents import Agents, register_environments
from dbshield.control.directory import APPLICATION_NAME as DIRECTORY
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from dbshield.store.schema import CHANNEL
from support import servers
from support.servers import Server
from support.waiting import until

TABLES, MAINTENANCE = "control_tmpl", "postgres"
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
STAGING = EnvironmentConfig(upstream="postgresql://app@db.example.com/shop?sslmode=verify-full")
PRODUCTION = EnvironmentConfig(upstream="host=/run/postgresql user=shield dbname=live", token_ttl_days=7, token_ttl_max_days=14)
ENVIRONMENTS = {"staging": STAGING, "production": PRODUCTION}


def make_tables(dsn: str) -> None:
    """Let the database of this DSN be a control database with all tables and nothing in them, whatever it was before.

    The migrations run once a server, and the others are clones; on a cluster that a test has for itself they run in the only
    database that is there.
    """
    name = str(conninfo_to_dict(dsn)["dbname"])
    if name == MAINTENANCE:
        _migrate(dsn)
        return
    with psycopg.connect(make_conninfo(dsn, dbname=MAINTENANCE), autocommit=True) as admin:
        with servers.locked():
            if admin.execute("select from pg_database where datname = %s and datistemplate", [TABLES]).fetchone() is None:
                admin.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(TABLES)))
                admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(TABLES)))
                _migrate(make_conninfo(dsn, dbname=TABLES))
                admin.execute(sql.SQL("alter database {} is_template true").format(sql.Identifier(TABLES)))
        admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(TABLES)))


def _migrate(dsn: str) -> None:
    database = Database(dsn)
    try:
        database.migrate()
    finally:
        database.close()


@contextmanager
def empty_database(server: Server) -> Iterator[str]:
    """The DSN of a database of its own, gone afterwards."""
    name = f"control_{uuid4().hex}"
    with server.connect() as admin:
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    try:
        yield server.dsn(name)
    finally:
        server.drop(name)


@contextmanager
def tables_database(server: Server) -> Iterator[str]:
    """The DSN of a control database of its own with all tables and nothing in them, gone afterwards."""
    name = f"control_{uuid4().hex}"
    try:
        make_tables(server.dsn(name))
        yield server.dsn(name)
    finally:
        server.drop(name)


LISTENING = """
    select state = 'idle' and wait_event = 'ClientRead' and query_start > %s and query ~ 'from dbshield.agents'
    from pg_stat_activity where datname = current_database() and application_name = %s
"""
"""Idle is what a server says before it sends the answer; it waits for the next query after."""


def all_heard(control: str, *, workers: int = 1) -> None:
    """Wait until each proxy has loaded what was committed in its control database up to now; `workers` listen there at the least.

    A proxy hears of a change within a tenth of a second. Between two commands that somebody types more time goes by; between two
    of a test's, which start no process that has to import anything, it does not.
    """
    with psycopg.connect(control, autocommit=True) as connection:
        [now] = connection.execute("select clock_timestamp()").fetchone() or (None,)

        def loaded() -> bool:
            heard = [answer for (answer,) in connection.execute(LISTENING, [now, DIRECTORY]).fetchall()]
            if not all(heard):
                connection.execute(sql.SQL("notify {}").format(sql.Identifier(CHANNEL)))
            # One that has lost its connection for a moment hears when it is back.
            return all(heard) and len(heard) >= workers

        assert until(loaded), "a proxy does not hear of changes"


@contextmanager
def control_database(dsn: str) -> Iterator[Database]:
    """A control database with the environments of this module, in a database that has nothing else."""
    make_tables(dsn)
    with registered(dsn) as database:
        yield database


@contextmanager
def registered(dsn: str) -> Iterator[Database]:
    """The environments of this module in a control database that has all tables."""
    database = Database(dsn)
    try:
        register_environments(database, list(ENVIRONMENTS))
        yield database
    finally:
        database.close()


@contextmanager
def away(dsn: str) -> Iterator[None]:
    """While this database lets nobody in; whoever was in it is thrown out first."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(make_conninfo(dsn, dbname=MAINTENANCE), autocommit=True) as admin:
        admin.execute(sql.SQL("alter database {} with allow_connections false").format(sql.Identifier(name)))
        try:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            yield
        finally:
            admin.execute(sql.SQL("alter database {} with allow_connections true").format(sql.Identifier(name)))


def agents_of(database: Database, folder: Path) -> tuple[Agents, Vault]:
    """The agents' registry and the vault that it seals with."""
    path = folder / "secret.key"
    vault = Vault.load(path) if path.exists() else Vault.create(path)
    return Agents(database, ENVIRONMENTS, lambda: vault), vault
