"""The protected server as backups see it: how to connect, and how PostgreSQL's programs do. No password is in an argument."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbshield.config import BackupConfig, EnvironmentConfig, conninfo
from dbshield.config.secret import read_secret
from dbshield.errors import BackupError
from dbshield.model import Upstream

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT = 15
"""Seconds, as the proxy's login_timeout."""
KEEPALIVE = 60
"""Seconds after which TCP asks whether a silent peer is there; firewalls forget connections that are silent for longer."""
APPLICATION_NAME = "dbshield backup"
ENCODING = "UTF8"
"""Of the connection. By default it is the database's own, and names of one in SQL_ASCII come as bytes, of EUC_TW not at all."""
VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "options": "PGOPTIONS",
}
"""libpq's environment variables (PostgreSQL manual, "Environment Variables")."""
KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
"""What programs get of our own environment: nothing of libpq's that happens to be set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A server and the databases in it that are meant. `base` is libpq's connection string, password included."""

    base: str = field(repr=False)
    databases: tuple[str, ...]

    @classmethod
    def of(cls, plan: BackupConfig, environment: EnvironmentConfig) -> Source:
        """What a plan backs up: by its own role, or by the environment's. Raises ConfigError where a password is not there."""
        if plan.source:
            stored = read_secret("[backup] password", file=plan.password_file, variable=plan.password_env)
            base = conninfo.with_password(plan.source, stored)
        else:
            base = conninfo.with_password(environment.upstream, environment.password())
        return cls(base=base, databases=plan.databases or environment.databases)

    def server(self) -> Upstream:
        """The server, without a password."""
        return conninfo.to_upstream(self.base)

    def dsn(self, database: str) -> str:
        return make_conninfo(self.base, dbname=database)

    @contextmanager
    def connect(self, database: str) -> Iterator[Connection]:
        """A connection with autocommit. It searches pg_catalog alone, so that no function of somebody else's is called.

        Raises BackupError where the server does not answer.
        """
        try:
            connection: Connection = psycopg.connect(
                self.dsn(database),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                application_name=APPLICATION_NAME,
                client_encoding=ENCODING,
            )
            connection.execute("select pg_catalog.set_config('search_path', '', false)")
        except psycopg.Error as error:
            raise BackupError(
                f"the database {database} cannot be reached: {_first_line(error)}",
                hint="See that it runs, and that source and its password are right.",
            ) from error
        with connection:
            yield connection

    @contextmanager
    def replication(self) -> Iterator[Connection]:
        """A connection that takes replication commands. Raises BackupError where the server lets this role make none."""
        try:
            connection: Connection = psycopg.connect(
                self.base,
                autocommit=True,
                replication="true",
                connect_timeout=CONNECT_TIMEOUT,
                application_name=APPLICATION_NAME,
                client_encoding=ENCODING,
                keepalives_idle=KEEPALIVE,
            )
        except psycopg.Error as error:
            raise BackupError(
                f"the server makes no replication connection: {_first_line(error)}",
                hint="The role needs REPLICATION, and pg_hba.conf a line for it whose database is `replication`.",
            ) from error
        with connection:
            yield connection

    def variables(self, database: str) -> Mapping[str, str]:
        """The environment of PostgreSQL's programs. Only this user and root can read it."""
        given = conninfo_to_dict(self.dsn(database))
        named = {VARIABLES[key]: str(value) for key, value in given.items() if key in VARIABLES and value is not None}
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return kept | named | {"PGAPPNAME": APPLICATION_NAME, "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT), "LC_ALL": "C"}


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the server says, as an error that a person can act on."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise BackupError(
            f"{what}: {_first_line(error)}",
            hint="A backup reads everything: give its role pg_read_all_data and BYPASSRLS, or use a superuser.",
        ) from error
    except psycopg.Error as error:
        raise BackupError(f"{what}: {_first_line(error)}", hint="Look at the server's log.") from error
    except UnicodeDecodeError as error:
        # A database in SQL_ASCII takes any bytes for a name.
        raise BackupError(f"{what}: {error.object!r} in it is no name in {ENCODING}", hint="Rename what is called so.") from error


def named(name: str) -> str:
    """A name of a database that libpq takes for nothing else."""
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def _first_line(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
