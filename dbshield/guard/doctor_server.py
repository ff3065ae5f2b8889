"""Checks of the server itself: settings that make data unsafe, or blind what guards it."""

from __future__ import annotations

from dbshield.guard.doctor import Check, Severity

UNSAFE_SETTINGS = Check(
    name="server.unsafe-settings",
    severity=Severity.CRITICAL,
    what="settings with which a crash loses data",
    why="After a crash or power cut the cluster may be beyond repair.",
    query="""
        select format('%%s = %%s', name, setting), format('alter system set %%s = on', name)
        from pg_settings where name in ('fsync', 'full_page_writes') and setting = 'off' order by 1
    """,
)

TRACK_COUNTS = Check(
    name="server.track-counts",
    severity=Severity.CRITICAL,
    what="track_counts is off",
    why="The server then counts no rows, so the row limit of the proxy and of the guard sees nothing.",
    query="""
        select 'track_counts = off', 'alter system set track_counts = on'
        where exists (select from pg_settings where name = 'track_counts' and reset_val = 'off')
    """,
)

SILENCED = Check(
    name="server.silencing-settings",
    severity=Severity.CRITICAL,
    what="roles or databases whose sessions begin with defences switched off",
    why="session_replication_role = replica and event_triggers = off silence triggers, track_counts = off blinds the row limit.",
    query="""
        select format('%%s%%s%%s', coalesce(rolname, 'everybody'), coalesce(' in ' || datname, ''), ': ' || set),
               format('alter %%s%%s reset %%s', case when rolname is null and datname is not null
                          then format('database %%I', datname) else 'role ' || coalesce(format('%%I', rolname), 'all') end,
                      case when rolname is not null and datname is not null then format(' in database %%I', datname) else '' end,
                      split_part(set, '=', 1))
        from pg_db_role_setting
        left join pg_roles on pg_roles.oid = setrole
        left join pg_database on pg_database.oid = setdatabase, unnest(setconfig) as set
        where set ~ '^(session_replication_role=(replica|local)|event_triggers=|track_counts=)' order by 1
    """,
)

SILENCED_EVERYWHERE = Check(
    name="server.event-triggers",
    severity=Severity.CRITICAL,
    what="the server runs no event triggers",
    why="The guard's event triggers do not fire.",
    since=17,
    query="""
        select 'event_triggers = off', 'alter system set event_triggers = on'
        where exists (select from pg_settings where name = 'event_triggers' and reset_val = 'off')
    """,
)

CHECKSUMS = Check(
    name="server.checksums",
    severity=Severity.WARNING,
    what="data checksums are off",
    why="A page that the disk has changed is read as if it were right, and backups keep it.",
    query="""
        select 'data_checksums = off', 'stop the server, then: pg_checksums --enable -D DATA_FOLDER'
        where current_setting('data_checksums') = 'off'
    """,
)

ARCHIVING = Check(
    name="server.archiving",
    severity=Severity.WARNING,
    what="the WAL is not archived",
    why="Nothing can be brought back to the moment before a mistake, only to the last backup.",
    query="""
        select format('archive_mode = off, wal_level = %%s', current_setting('wal_level')),
               'alter system set archive_mode = on, with an archive_command and wal_level = replica; then restart'
        where current_setting('archive_mode') = 'off'
    """,
)

NO_TLS = Check(
    name="server.tls",
    severity=Severity.WARNING,
    what="the server offers no TLS and listens beyond its own machine",
    why="Whoever sits between reads along, and may answer instead of the server.",
    query="""
        select format('ssl = off, listen_addresses = %%s', current_setting('listen_addresses')),
               'alter system set ssl = on, with ssl_cert_file and ssl_key_file; then select pg_reload_conf()'
        where current_setting('ssl') = 'off'
          and exists (select from unnest(string_to_array(replace(current_setting('listen_addresses'), ' ', ''), ',')) as address
                      where address not in ('', 'localhost', '127.0.0.1', '::1'))
    """,
)

PLAIN_CONNECTION = Check(
    name="server.plain-connection",
    severity=Severity.CRITICAL,
    what="the connection to the server is not encrypted",
    why="It comes from another machine, and the proxy's connections take the same way.",
    query="""
        select format('from %%s', client_addr), 'sslmode=verify-full in upstream of [environments.NAME]'
        from pg_stat_ssl join pg_stat_activity using (pid)
        where pid = pg_backend_pid() and not ssl and client_addr is not null and client_addr <> inet_server_addr()
          and not client_addr <<= '127.0.0.0/8' and client_addr <> '::1'
    """,
)

PASSWORD_ENCRYPTION = Check(
    name="server.password-encryption",
    severity=Severity.WARNING,
    what="new passwords are stored as MD5",
    why="Whoever reads such a hash logs in with it as it is.",
    query="""
        select 'password_encryption = md5', $$alter system set password_encryption = 'scram-sha-256'$$
        where current_setting('password_encryption') = 'md5'
    """,
)

CHECKS = (
    UNSAFE_SETTINGS,
    TRACK_COUNTS,
    SILENCED,
    SILENCED_EVERYWHERE,
    PLAIN_CONNECTION,
    CHECKSUMS,
    ARCHIVING,
    NO_TLS,
    PASSWORD_ENCRYPTION,
)
