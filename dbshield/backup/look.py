"""Facts about a server and its databases that a restore is compared with, or needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbshield.backup.manifest import Server
from dbshield.backup.source import Connection
from dbshield.errors import BackupError

SERVER = """
    select current_setting('server_version_num')::int, s.system_identifier::text, c.timeline_id,
        (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end)::text
    from pg_control_system() s, pg_control_checkpoint() c
"""
NEEDED = (
    "block_size",
    "data_checksums",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "segment_size",
    "server_version_num",
    "shared_preload_libraries",
    "track_commit_timestamp",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
)
"""Settings that a restored server must have alike, or at least as high (PostgreSQL manual, "Hot Standby", administrator's
overview; initdb's options)."""
SETTINGS = "select name, setting from pg_settings where name = any(%s) order by name"
ROLES = """
    select rolname::text, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
        rolconnlimit, rolconfig
    from pg_roles where rolname !~ '^pg_' order by 1
"""
ROLE_KEYS = (
    "superuser",
    "inherit",
    "createrole",
    "createdb",
    "login",
    "replication",
    "bypassrls",
    "connection_limit",
    "settings",
)
MEMBERS = """
    select r.rolname::text, m.rolname::text from pg_auth_members a
    join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member order by 1, 2
"""
DATABASE = """
    select d.oid::bigint, d.datname::text, r.rolname::text, pg_encoding_to_char(d.encoding)::text, d.datcollate, d.datctype
    from pg_database d join pg_roles r on r.oid = d.datdba where d.datname = current_database()
"""
PROPERTIES = """
    select array(select unnest(coalesce(d.datacl, acldefault('d', d.datdba)))::text order by 1), d.datconnlimit,
        coalesce((select json_object_agg(coalesce(r.rolname, ''), s.setconfig) from pg_db_role_setting s
            left join pg_roles r on r.oid = s.setrole where s.setdatabase = d.oid), '{}'),
        coalesce(j ->> 'datlocprovider', 'c'), coalesce(j ->> 'datlocale', j ->> 'daticulocale', '')
    from pg_database d cross join to_jsonb(d) j where d.datname = current_database()
"""
"""The provider of the locale is a column since 15, its own name of the locale since 17, as ICU's before."""
EXTENSIONS = "select extname::text, extversion from pg_extension order by 1"


def server(connection: Connection) -> Server:
    """The server as it is now; the LSN is one that everything committed so far is before."""
    row = connection.execute(SERVER).fetchone()
    if row is None:
        raise BackupError("the server does not tell what it is", hint="Connect to PostgreSQL itself.")
    version, system, timeline, lsn = row
    return Server(version=version, system=system, timeline=timeline, lsn=lsn)


def settings(connection: Connection) -> Mapping[str, str]:
    return dict(connection.execute(SETTINGS, [list(NEEDED)]).fetchall())


def roles(connection: Connection) -> Mapping[str, Mapping[str, Any]]:
    """Roles by name, without passwords and without those that PostgreSQL itself makes."""
    return {name: dict(zip(ROLE_KEYS, rest, strict=True)) for name, *rest in connection.execute(ROLES)}


def members(connection: Connection) -> tuple[tuple[str, str], ...]:
    return tuple((role, member) for role, member in connection.execute(MEMBERS))


def database(connection: Connection) -> Mapping[str, Any]:
    """What `DatabaseRecord` says of the database itself."""
    oid, name, owner, encoding, collation, character_type = connection.execute(DATABASE).fetchone() or (0, "", "", "", "", "")
    rights, limit, settings, *locale = connection.execute(PROPERTIES).fetchone() or ([], -1, {}, "", "")
    return {
        "name": name,
        "folder": str(oid),
        "owner": owner,
        "encoding": encoding,
        "collation": collation,
        "character_type": character_type,
        "extensions": dict(connection.execute(EXTENSIONS).fetchall()),
        "properties": {"rights": rights, "connection_limit": limit, "settings": settings, "locale": " ".join(locale).strip()},
    }
