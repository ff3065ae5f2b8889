"""Tries a credential that was found, to say what it may do. Only where a person asked for it, only reading, and never sending a
password that the server could read (libpq's `require_auth`)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from dbshield.scan.found import Found

CONNECT_SECONDS = 5
STATEMENT_TIMEOUT = "10s"

_RIGHTS = """
    select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
           exists (select from pg_database d where pg_has_role(r.oid, d.datdba, 'member')),
           (select count(*) from pg_class c where c.relkind in ('r', 'p') and c.oid >= 16384
              and pg_has_role(r.oid, c.relowner, 'member')),
           (select count(*) from pg_class c where c.relkind in ('r', 'p') and c.oid >= 16384
              and has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate')),
           (select count(*) from pg_class c where c.relkind in ('r', 'p') and c.oid >= 16384
              and has_any_column_privilege(r.oid, c.oid, 'select'))
    from pg_roles r where rolname = current_user
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of it: who one is there, with which rights, and in which cluster; or only why it did not work."""

    connected: bool
    role: str = ""
    rights: tuple[str, ...] = ()
    system_identifier: int | None = None
    failure: str = ""


def attempt(found: Found) -> Attempt | None:
    """Logs in at the places that the credential names, until one lets it in. None where it names no place."""
    target = found.target
    if target is None or not any(host != "*" for host in target.hosts):
        return None
    last = Attempt(connected=False)
    for host, port in target.addresses:
        if host == "*":
            continue
        parts = {"host": host, "port": port, "dbname": target.database or None, "user": target.user or None}
        last = _attempt(
            make_conninfo(
                **{key: str(value) for key, value in parts.items() if value is not None},
                password=found.secret,
                connect_timeout=CONNECT_SECONDS,
                application_name="dbshield scan",
                require_auth="scram-sha-256,md5,none",
                passfile="/dev/null",
            )
        )
        if last.connected:
            break
    return last


def identifier(dsn: str) -> int | None:
    """The system identifier of an environment's cluster; None where it cannot be asked."""
    try:
        with psycopg.connect(make_conninfo(dsn, connect_timeout=CONNECT_SECONDS), autocommit=True) as connection:
            return _identifier(connection)
    except psycopg.Error:
        return None


@cache
def resolve(host: str) -> frozenset[str]:
    """The addresses that the host's name stands for now."""
    try:
        return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return frozenset()


def _attempt(dsn: str) -> Attempt:
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select set_config('default_transaction_read_only', 'on', false)")
            connection.execute("select set_config('statement_timeout', %s, false)", [STATEMENT_TIMEOUT])
            row = connection.execute(_RIGHTS).fetchone()
            return Attempt(
                connected=True,
                role=connection.info.user,
                rights=_words(row) if row is not None else ("unknown",),
                system_identifier=_identifier(connection),
            )
    except psycopg.Error as error:
        return Attempt(connected=False, failure=type(error).__name__ if error.sqlstate is None else f"refused ({error.sqlstate})")


def _identifier(connection: psycopg.Connection[tuple[Any, ...]]) -> int | None:
    try:
        row = connection.execute("select system_identifier from pg_control_system()").fetchone()
    except psycopg.Error:
        return None
    return int(row[0]) if row is not None else None


def _words(row: tuple[Any, ...]) -> tuple[str, ...]:
    """The rights in words, the worst first."""
    *flags, owned, written, read = row
    names = ("superuser", "may make roles", "may make databases", "replication", "past row security", "owns a database")
    words = [name for name, flag in zip(names, flags, strict=True) if flag]
    words += [f"{verb} {count} tables" for verb, count in (("owns", owned), ("writes", written), ("reads", read)) if count]
    return tuple(words) or ("no rights on tables",)
