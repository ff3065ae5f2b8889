"""Functions that are judged by name, each with the reason. Built-in functions that PostgreSQL marks volatile pass only if they
stand in VOLATILE_ALLOWED; whatever its volatility, a name in DENIED never passes. `*` at the end stands for any rest."""

from __future__ import annotations

from dbshield.model import AccessLevel

READ, WRITE, MIGRATE = AccessLevel.READ, AccessLevel.WRITE, AccessLevel.MIGRATE

VOLATILE_ALLOWED: dict[str, tuple[AccessLevel, str]] = {
    "clock_timestamp": (READ, "tells the time"),
    "timeofday": (READ, "tells the time"),
    "random": (READ, "makes a number"),
    "random_normal": (READ, "makes a number"),
    "setseed": (READ, "seeds the session's own random numbers"),
    "array_shuffle": (READ, "makes an array"),
    "array_sample": (READ, "makes an array"),
    "gen_random_uuid": (READ, "makes a key"),
    "uuidv4": (READ, "makes a key"),
    "uuidv7": (READ, "makes a key"),
    "currval": (READ, "reads the session's own last number"),
    "lastval": (READ, "reads the session's own last number"),
    "nextval": (WRITE, "takes the next number, as every insert does"),
    "pg_get_sequence_data": (READ, "reads a sequence"),
    "pg_sequence_last_value": (READ, "reads a sequence"),
    "current_query": (READ, "reads the session's own text"),
    "pg_sleep": (READ, "waits in the session's own connection; statement_timeout bounds it"),
    "pg_sleep_for": (READ, "waits in the session's own connection; statement_timeout bounds it"),
    "pg_sleep_until": (READ, "waits in the session's own connection; statement_timeout bounds it"),
    "pg_notify": (READ, "sends a notification, as NOTIFY does"),
    "pg_notification_queue_usage": (READ, "reads a measure"),
    "pg_advisory_unlock": (READ, "frees the session's own lock"),
    "pg_advisory_unlock_all": (READ, "frees the session's own locks"),
    "pg_advisory_unlock_shared": (READ, "frees the session's own lock"),
    "pg_advisory_xact_lock": (READ, "waits for a lock that the transaction's end frees"),
    "pg_advisory_xact_lock_shared": (READ, "waits for a lock that the transaction's end frees"),
    "pg_try_advisory_lock": (READ, "takes a lock only when it is free; the session's end frees it"),
    "pg_try_advisory_lock_shared": (READ, "takes a lock only when it is free; the session's end frees it"),
    "pg_try_advisory_xact_lock": (READ, "takes a lock only when it is free"),
    "pg_try_advisory_xact_lock_shared": (READ, "takes a lock only when it is free"),
    "pg_advisory_lock": (READ, "waits for a lock that the session's end frees; below migrate DS504 holds it"),
    "pg_advisory_lock_shared": (READ, "waits for a lock that the session's end frees; below migrate DS504 holds it"),
    "pg_blocking_pids": (READ, "tells who waits for whom"),
    "pg_safe_snapshot_blocking_pids": (READ, "tells who waits for whom"),
    "pg_isolation_test_session_is_blocked": (READ, "tells who waits for whom"),
    "pg_lock_status": (READ, "reads pg_locks"),
    "pg_prepared_xact": (READ, "reads pg_prepared_xacts"),
    "pg_database_size": (READ, "measures"),
    "pg_indexes_size": (READ, "measures"),
    "pg_relation_size": (READ, "measures"),
    "pg_table_size": (READ, "measures"),
    "pg_tablespace_size": (READ, "measures"),
    "pg_total_relation_size": (READ, "measures"),
    "pg_collation_actual_version": (READ, "tells a version"),
    "pg_database_collation_actual_version": (READ, "tells a version"),
    "pg_partition_ancestors": (READ, "reads the catalogue"),
    "pg_partition_tree": (READ, "reads the catalogue"),
    "pg_is_in_recovery": (READ, "tells the server's state"),
    "pg_is_wal_replay_paused": (READ, "tells the server's state"),
    "pg_get_wal_replay_pause_state": (READ, "tells the server's state"),
    "pg_last_wal_receive_lsn": (READ, "tells the server's state"),
    "pg_last_wal_replay_lsn": (READ, "tells the server's state"),
    "pg_last_xact_replay_timestamp": (READ, "tells the server's state"),
    "pg_last_committed_xact": (READ, "tells the server's state"),
    "pg_current_wal_flush_lsn": (READ, "tells the server's state"),
    "pg_current_wal_insert_lsn": (READ, "tells the server's state"),
    "pg_current_wal_lsn": (READ, "tells the server's state"),
    "pg_jit_available": (READ, "tells the server's state"),
    "pg_get_wait_events": (READ, "reads a list of names"),
    "pg_xact_commit_timestamp": (READ, "tells when a transaction ended"),
    "pg_xact_commit_timestamp_origin": (READ, "tells when a transaction ended"),
    "pg_xact_status": (READ, "tells how a transaction ended"),
    "txid_status": (READ, "tells how a transaction ended"),
    "pg_stat_clear_snapshot": (READ, "forgets the session's own snapshot of statistics"),
    "pg_stat_have_stats": (READ, "reads statistics"),
    "pg_stat_get_*": (READ, "reads statistics"),
    "pg_export_snapshot": (READ, "lets another session read what this one reads"),
    "lo_close": (READ, "closes the session's own descriptor"),
    "lo_get": (READ, "reads a large object"),
    "lo_lseek": (READ, "moves the session's own position"),
    "lo_lseek64": (READ, "moves the session's own position"),
    "lo_tell": (READ, "tells the session's own position"),
    "lo_tell64": (READ, "tells the session's own position"),
    "loread": (READ, "reads a large object"),
}

VOLATILE_HELD: dict[str, str] = {
    "pg_get_aios": "tells how the server's own memory is laid out",
    "pg_get_backend_memory_contexts": "tells how the server's own memory is laid out",
    "pg_get_loaded_modules": "tells how the server's own memory is laid out",
    "pg_get_shmem_allocations*": "tells how the server's own memory is laid out",
    "pg_get_wal_resource_managers": "tells how the server's own memory is laid out",
    "pg_control_checkpoint": "reads the server's control file",
    "pg_control_init": "reads the server's control file",
    "pg_control_recovery": "reads the server's control file",
    "pg_control_system": "reads the server's control file",
    "pg_available_wal_summaries": "reads the write-ahead log's summaries",
    "pg_get_wal_summarizer_state": "reads the write-ahead log's summaries",
    "pg_wal_summary_contents": "reads the write-ahead log's summaries",
    "pg_get_multixact_members": "reads transactions of others",
    "pg_show_replication_origin_status": "reads what replication has reached",
    "pg_stat_force_next_flush": "flushes statistics at once",
    "brin_desummarize_range": "rewrites an index's own pages",
    "brin_summarize_new_values": "rewrites an index's own pages",
    "brin_summarize_range": "rewrites an index's own pages",
    "gin_clean_pending_list": "rewrites an index's own pages",
    "currtid2": "follows a row's versions past its table's policies",
    "amvalidate": "checks an index method's definition",
    "RI_FKey_*": "is a trigger, not to be called",
    "suppress_redundant_updates_trigger": "is a trigger, not to be called",
    "tsvector_update_trigger": "is a trigger, not to be called",
    "tsvector_update_trigger_column": "is a trigger, not to be called",
    "unique_key_recheck": "is a trigger, not to be called",
    "brinhandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "bthandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "ginhandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "gisthandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "hashhandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "heap_tableam_handler": "is an index method's, a table method's or a sampling method's, not to be called",
    "spghandler": "is an index method's, a table method's or a sampling method's, not to be called",
    "bernoulli": "is an index method's, a table method's or a sampling method's, not to be called",
    "system": "is an index method's, a table method's or a sampling method's, not to be called",
    "plpgsql_call_handler": "is a language's, not to be called",
    "plpgsql_inline_handler": "is a language's, not to be called",
    "plpgsql_validator": "is a language's, not to be called",
    "dsnowball_init": "is a text search template's, not to be called",
    "dsnowball_lexize": "is a text search template's, not to be called",
}
"""Volatile built-in functions that nobody needs who works on data: held, whoever calls. One that stands in no list is held as
well; this one exists so that a test can tell a decision from an oversight."""

EXTENSIONS_ALLOWED: dict[str, str] = {
    "gen_random_bytes": "pgcrypto makes bytes",
    "gen_salt": "pgcrypto makes a salt",
    "gen_random_uuid": "pgcrypto makes a key",
    "uuid_generate_v1": "uuid-ossp makes a key",
    "uuid_generate_v1mc": "uuid-ossp makes a key",
    "uuid_generate_v4": "uuid-ossp makes a key",
}
"""Volatile functions of well-known extensions. They pass only where they are written in C, which needs a superuser."""

DENIED: dict[str, str] = {
    "query_to_xml*": "runs the text that it is given",
    "cursor_to_xml*": "runs a cursor past the shield",
    "table_to_xml*": "reads any table that it is given by name",
    "schema_to_xml*": "reads every table of a schema",
    "database_to_xml*": "reads every table",
    "ts_stat": "runs the text that it is given",
    "ts_rewrite": "runs the text that it is given",
    "lo_creat": "makes a large object",
    "lo_create": "makes a large object",
    "lo_export": "writes a file on the server",
    "lo_from_bytea": "makes a large object",
    "lo_import": "reads a file on the server",
    "lo_put": "overwrites a large object",
    "lo_truncate": "cuts a large object",
    "lo_truncate64": "cuts a large object",
    "lo_unlink": "deletes a large object",
    "lowrite": "overwrites a large object",
    "pg_read_file*": "reads a file on the server",
    "pg_read_binary_file": "reads a file on the server",
    "pg_stat_file": "reads a file's facts on the server",
    "pg_ls_*": "lists files on the server",
    "pg_file_*": "changes files on the server",
    "pg_logdir_ls": "lists files on the server",
    "pg_current_logfile": "tells a file on the server",
    "pg_hba_file_rules": "reads who may log in",
    "pg_ident_file_mappings": "reads who may log in",
    "pg_show_all_file_settings": "reads the server's configuration files",
    "pg_terminate_backend": "ends another session",
    "pg_cancel_backend": "cancels another session's statement",
    "pg_reload_conf": "reloads the server's configuration",
    "pg_rotate_logfile*": "rotates the server's log",
    "pg_promote": "promotes a standby",
    "pg_switch_wal": "switches the write-ahead log",
    "pg_backup_*": "starts or stops a backup",
    "pg_start_backup": "starts a backup",
    "pg_stop_backup": "stops a backup",
    "pg_create_restore_point": "marks the write-ahead log",
    "pg_create_*": "makes a replication slot",
    "pg_copy_*": "makes a replication slot",
    "pg_drop_replication_slot": "drops a replication slot",
    "pg_logical_*": "reads or writes the replication stream",
    "pg_replication_*": "changes replication",
    "pg_sync_replication_slots": "changes replication",
    "pg_wal_replay_*": "stops or starts replay",
    "pg_log_*": "writes to the server's log",
    "pg_import_system_collations": "changes the catalogue",
    "pg_extension_config_dump": "changes the catalogue",
    "pg_nextoid": "changes the catalogue",
    "pg_stop_making_pinned_objects": "changes the catalogue",
    "pg_clear_*": "changes the planner's statistics",
    "pg_restore_*": "changes the planner's statistics",
    "pg_stat_reset*": "forgets statistics that others rely on",
    "binary_upgrade_*": "changes the catalogue",
    "dblink*": "runs the text that it is given on another connection",
    "crosstab*": "runs the text that it is given",
    "connectby": "runs a text made of what it is given",
    "xpath_table": "runs a text made of what it is given",
    "database_to_*": "reads every table",
    "setval": "sets a sequence back or ahead",
}
"""Never through the shield, by any road."""

HELD_LOCKS = frozenset({"pg_advisory_lock", "pg_advisory_lock_shared"})
"""What waits without a bound and keeps what it got until the session ends (DS504)."""

OTHER_SESSIONS = frozenset({"pg_terminate_backend", "pg_cancel_backend"})
"""Of DENIED, those about sessions of others; DS505 speaks about them."""

HELD = frozenset({"setval"})
"""Of DENIED, those that a human may let through."""


def listed(name: str, table: dict[str, str]) -> str | None:
    """The reason that `table` gives for the function `name`, by its whole name or by a beginning."""
    reason = table.get(name)
    if reason is not None:
        return reason
    for key, value in _beginnings(table):
        if name.startswith(key):
            return value
    return None


def allowed_volatile(name: str) -> AccessLevel | None:
    """The least access level that may call the volatile built-in `name`; None where nobody may."""
    entry = VOLATILE_ALLOWED.get(name)
    if entry is None and name.startswith("pg_stat_get_"):
        entry = VOLATILE_ALLOWED["pg_stat_get_*"]
    return entry[0] if entry else None


def _beginnings(table: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if table is DENIED:
        return _DENIED_BEGINNINGS
    return tuple((key[:-1], value) for key, value in table.items() if key.endswith("*"))


_DENIED_BEGINNINGS = tuple((key[:-1], value) for key, value in DENIED.items() if key.endswith("*"))
