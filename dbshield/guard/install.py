"""Installs the guard in a database and removes it, each in one transaction.

Without a superuser's rights everything is installed that the role may, and what it may not comes back line by line with what
that leaves open. A transaction that fails leaves the database as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from dbshield.errors import ConfigError, Refused
from dbshield.guard.identity import mark
from dbshield.guard.steps import AGENTS, EVENT_TRIGGERS, EVERY_SCHEMA, OLDEST, OWNER, SCHEMA, VERSION, Step, shipped

LOCK_TIMEOUT: Final = "10s"
"""How long a table may keep the guard waiting: whoever comes behind a waiting lock waits as well."""

PINNED: Final = "set local search_path = pg_catalog, pg_temp"
"""So that no name means something else to the administrator: a function of a better fit, in a schema that comes first, would run
with the administrator's rights."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is installed: for which environment, over which schemas ('*': all but the system's), and where agents log in from
    (networks, or 'socket'; none: from everywhere)."""

    environment: str
    schemas: Sequence[str] = (EVERY_SCHEMA,)
    addresses: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """What could not be installed, and what that leaves open."""

    what: str
    why: str
    leaves: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What `install` did: the tables that were put under guard now, and what could not be installed."""

    database: str
    previous: int | None
    guarded: int
    open: tuple[Open, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What decides which steps there are."""

    major: int
    superuser: bool
    database: str


def server_of(conn: Connection) -> Server:
    """ConfigError where the server is too old."""
    major = conn.info.server_version // 10_000
    if major < OLDEST:
        raise ConfigError(f"the server is PostgreSQL {major}", hint=f"The guard needs PostgreSQL {OLDEST} or later.")
    superuser = _one(conn, "select rolsuper from pg_catalog.pg_roles where rolname = current_user")
    return Server(major=major, superuser=bool(superuser), database=conn.info.dbname)


def script(server: Server, options: Options) -> Iterator[tuple[Step | None, str]]:
    """What is run, in order: the steps, and with no step what sets them up for this database.

    The event triggers of an installed guard go first and come back last: they would judge what is half changed.
    """
    if server.superuser:
        yield None, "\n".join(f"drop event trigger if exists {name};" for name in EVENT_TRIGGERS)
    for step, text in shipped():
        if step.since <= server.major:
            if step.superuser and step.file == "90_owner.sql":
                yield None, _settings(options)
            yield step, text
    if not server.superuser:
        yield None, _settings(options)


def dry_run(conn: Connection, options: Options) -> str:
    """The SQL that `install` would run here."""
    pieces = [f"-- {step.file}\n{text.strip()}\n" if step else f"{text}\n" for step, text in script(server_of(conn), options)]
    tables = "select dbshield.guard_table(relation) from dbshield.unguarded() as relation;\n"
    return "\n".join(["begin;", f"set local lock_timeout = '{LOCK_TIMEOUT}';", f"{PINNED};", *pieces, tables, "commit;"]) + "\n"


def install(conn: Connection, options: Options) -> Installed:
    """Install or upgrade. `conn` is in autocommit mode; this is one transaction.

    Raises:
        Refused: a newer dbshield has installed here, or the role may not even make the schema.
        psycopg.Error: anything else that the server did not do; nothing has changed then.
    """
    server = server_of(conn)
    left: list[Open] = []
    with conn.transaction():
        conn.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        conn.execute(PINNED)
        previous = installed_version(conn)
        if previous is not None and previous > VERSION:
            raise Refused(
                f"version {previous} of the guard is installed in {server.database}, this dbshield has version {VERSION}",
                hint="Use the dbshield that installed it, or a newer one.",
            )
        for step, text in script(server, options):
            missing = _run(conn, server, step, text)
            left += [missing] if missing else []
        guarded = 0
        for (relation,) in conn.execute("select dbshield.unguarded()::text").fetchall():
            try:
                with conn.transaction():
                    conn.execute("select dbshield.guard_table(%s::pg_catalog.regclass)", [relation])
                guarded += 1
            except errors.InsufficientPrivilege as error:
                left.append(
                    Open(what=f"guard {relation}", why=_reason(error), leaves="rows of it are bounded by privileges alone")
                )
    return Installed(database=server.database, previous=previous, guarded=guarded, open=tuple(left))


def uninstall(conn: Connection) -> tuple[str, ...]:
    """Remove everything; what had to stay, a sentence each. `conn` is in autocommit mode; this is one transaction.

    The roles belong to the whole cluster, so they stay while another database has a guard.
    """
    stays: list[str] = []
    with conn.transaction():
        conn.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        conn.execute(PINNED)
        # First what would judge the rest.
        for (name,) in conn.execute(
            "select evtname from pg_catalog.pg_event_trigger as t join pg_catalog.pg_proc as p on p.oid = t.evtfoid"
            " where p.pronamespace = pg_catalog.to_regnamespace(%s)",
            [SCHEMA],
        ).fetchall():
            conn.execute(sql.SQL("drop event trigger {}").format(sql.Identifier(name)))
        for schema, table, name in conn.execute(
            "select n.nspname, c.relname, t.tgname from pg_catalog.pg_trigger as t"
            " join pg_catalog.pg_proc as p on p.oid = t.tgfoid join pg_catalog.pg_class as c on c.oid = t.tgrelid"
            " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
            " where p.pronamespace = pg_catalog.to_regnamespace(%s)",
            [SCHEMA],
        ).fetchall():
            conn.execute(sql.SQL("drop trigger {} on {}").format(sql.Identifier(name), sql.Identifier(schema, table)))
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(SCHEMA)))
        for role in (OWNER, AGENTS):
            if _one(conn, "select pg_catalog.to_regrole(%s) is null", role):
                continue
            try:
                with conn.transaction():
                    conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
            except (errors.DependentObjectsStillExist, errors.InsufficientPrivilege) as error:
                stays.append(f"the role {role} stays: {_reason(error)}")
                break
    return tuple(stays)


def installed_version(conn: Connection) -> int | None:
    """The version that is installed in this database."""
    if _one(conn, "select pg_catalog.to_regclass('dbshield.installation') is null"):
        return None
    found = _one(conn, "select version from dbshield.installation")
    return None if found is None else int(str(found))


def set_limit(conn: Connection, role: str, max_rows: int | None) -> None:
    """How many rows an agent's role may update and delete in one transaction; None: the default."""
    with conn.transaction():
        conn.execute("delete from dbshield.limits where role_name = %s", [role])
        if max_rows is not None:
            conn.execute("insert into dbshield.limits values (%s, %s)", [role, max_rows])


def _run(conn: Connection, server: Server, step: Step | None, text: str) -> Open | None:
    """Run one step; what it leaves open where the role may not. Raises Refused where nothing could stand without it."""
    try:
        with conn.transaction():
            conn.execute(text.encode())
    except errors.InsufficientPrivilege as error:
        if server.superuser:
            raise
        if step is None or step.needed:
            raise Refused(
                f"the role {conn.info.user} may not install the guard in {conn.info.dbname}: {_reason(error)}",
                hint="Connect as a superuser, or at least as a role with CREATE on the database that owns the tables.",
            ) from error
        return Open(what=step.title, why=_reason(error), leaves=step.without)
    return None


def _settings(options: Options) -> str:
    """The SQL that says what is guarded here."""
    return (
        sql.SQL(
            "delete from dbshield.protected;\ninsert into dbshield.protected values {schemas};\n"
            "delete from dbshield.addresses;\n{addresses}"
            "insert into dbshield.installation (version, environment, system_identifier)\n"
            "select {version}, {environment}, system_identifier from pg_catalog.pg_control_system()\n"
            "on conflict (one) do update set version = excluded.version, environment = excluded.environment,\n"
            "    system_identifier = excluded.system_identifier, installed_by = session_user, installed_at = pg_catalog.now();\n"
            # What the proxy asks as an agent's role, which reads nothing else here.
            "comment on schema dbshield is {comment};"
        )
        .format(
            schemas=sql.SQL(", ").join(sql.SQL("({})").format(schema) for schema in options.schemas),
            addresses=sql.SQL("").join(
                sql.SQL("insert into dbshield.addresses values ({});\n").format(address) for address in options.addresses
            ),
            version=VERSION,
            environment=options.environment,
            comment=mark(options.environment),
        )
        .as_string()
    )


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)


def _one(conn: Connection, query: str, *values: object) -> object:
    row = conn.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None
