"""Settings by name, each with a reason: those that an agent may change for its own session, and those better answered than
with `not on the list`. Data only; `settings.py` says how they are used.

Source: the chapter "Server Configuration" of the PostgreSQL manual, and `postgres --describe-config` of PostgreSQL 15 and 18: a
test asks both for every setting that a plain role may change, and demands that each stands in one of these tables.
"""

from __future__ import annotations

HARMLESS: dict[str, str] = {
    "application_name": "a label",
    "array_nulls": "input of arrays",
    "backend_flush_after": "the session's own writing",
    "bytea_output": "output format",
    "check_function_bodies": "only postpones an error",
    "client_connection_check_interval": "the session's own connection",
    "client_min_messages": "which notices the client sees",
    "commit_siblings": "waits, and loses nothing",
    "constraint_exclusion": "planner",
    "cursor_tuple_fraction": "planner",
    "datestyle": "input and output format",
    "deadlock_timeout": "the session's own waiting",
    "default_statistics_target": "planner",
    "default_table_access_method": "new tables only",
    "default_tablespace": "new tables only",
    "default_text_search_config": "input of text search",
    "default_toast_compression": "new values only",
    "default_transaction_deferrable": "the agent's missing grants are the defence, not this",
    "default_transaction_isolation": "the agent's own transactions",
    "default_transaction_read_only": "the agent's missing grants are the defence, not this",
    "default_with_oids": "pg_dump before 12 turns it off; newer servers know no other value",
    "effective_cache_size": "planner",
    "effective_io_concurrency": "planner",
    "escape_string_warning": "a notice",
    "exit_on_error": "ends the session's own connection",
    "extra_float_digits": "output format",
    "from_collapse_limit": "planner",
    "gin_fuzzy_search_limit": "planner",
    "gin_pending_list_limit": "planner",
    "hash_mem_multiplier": "the session's own memory",
    "icu_validation_level": "a notice",
    "idle_in_transaction_session_timeout": "the session's own time",
    "idle_session_timeout": "the session's own time",
    "intervalstyle": "output format",
    "io_combine_limit": "the session's own reading",
    "join_collapse_limit": "planner",
    "lc_monetary": "output format",
    "lc_numeric": "output format",
    "lc_time": "output format",
    "lock_timeout": "the session's own waiting",
    "logical_decoding_work_mem": "the session's own memory",
    "maintenance_io_concurrency": "planner",
    "maintenance_work_mem": "the session's own memory",
    "max_parallel_maintenance_workers": "planner",
    "max_parallel_workers": "planner",
    "max_parallel_workers_per_gather": "planner",
    "md5_password_warnings": "a notice",
    "parallel_leader_participation": "planner",
    "plan_cache_mode": "planner",
    "quote_all_identifiers": "output format",
    "recursive_worktable_factor": "planner",
    "restrict_nonsystem_relation_kind": "only refuses more",
    "row_security": "off makes a query fail where rows would be hidden, it shows none",
    "seed": "the session's own random numbers",
    "statement_timeout": "the session's own time",
    "stats_fetch_consistency": "how the session itself reads statistics",
    "synchronize_seqscans": "planner",
    "tcp_keepalives_count": "the session's own connection",
    "tcp_keepalives_idle": "the session's own connection",
    "tcp_keepalives_interval": "the session's own connection",
    "tcp_user_timeout": "the session's own connection",
    "temp_buffers": "the session's own memory",
    "temp_tablespaces": "where the session's own temporary files stand",
    "timezone": "input and output format",
    "transaction_deferrable": "the agent's own transaction",
    "transaction_isolation": "the agent's own transaction",
    "transaction_read_only": "the agent's missing grants are the defence, not this",
    "transaction_timeout": "the session's own time",
    "wal_skip_threshold": "how a commit reaches the disk, not whether",
    "work_mem": "the session's own memory",
    "xmlbinary": "output format",
    "xmloption": "input of XML",
}

HARMLESS_BEGINNINGS: dict[str, str] = {
    "enable_": "planner",
    "jit": "planner",
    "geqo": "planner",
    "cpu_": "planner",
    "parallel_": "planner",
    "min_parallel_": "planner",
    "debug_parallel_query": "planner",
    "force_parallel_mode": "planner",
    "seq_page_cost": "planner",
    "random_page_cost": "planner",
    "debug_print_": "the client's own notices",
    "debug_pretty_print": "the client's own notices",
    "vacuum_": "the session's own VACUUM and ANALYZE",
}

REFUSED: dict[str, str] = {
    "allow_system_table_mods": "it opens the catalogue for writing",
    "backslash_quote": "it changes how a text is read",
    "createrole_self_grant": "it decides which rights come with a new role",
    "debug_logical_replication_streaming": "replication is not the agent's",
    "dynamic_library_path": "it decides which code the server loads",
    "event_triggers": "it silences the triggers that watch DROP and ALTER",
    "file_copy_method": "databases are not copied by agents",
    "ignore_checksum_failure": "it hides damaged pages",
    "lc_messages": "it changes the server's own log",
    "lo_compat_privileges": "it switches off the rights on large objects",
    "local_preload_libraries": "it loads code into the server",
    "log_parameter_max_length_on_error": "it decides what the server's log keeps of parameters",
    "password_encryption": "passwords are not made by agents",
    "scram_iterations": "passwords are not made by agents",
    "session_preload_libraries": "it loads code into the server",
    "session_replication_role": "it silences triggers and foreign keys",
    "synchronous_commit": "commits that were reported could be lost",
    "timezone_abbreviations": "it names a file of the server",
    "trace_notify": "it fills the server's log",
    "trace_sort": "it fills the server's log",
    "track_activities": "it hides what the session does",
    "track_counts": "it hides how many rows were changed",
    "transform_null_equals": "it changes how a condition is read",
    "wal_sender_timeout": "replication is not the agent's",
    "zero_damaged_pages": "it destroys damaged pages",
}
"""Never, and why."""

EXTENSIONS_HARMLESS: dict[str, str] = {
    "diskann.query_rescore": "how exactly vectors are searched",
    "diskann.query_search_list_size": "how exactly vectors are searched",
    "hnsw.ef_search": "how exactly vectors are searched",
    "hnsw.iterative_scan": "how exactly vectors are searched",
    "hnsw.max_scan_tuples": "how exactly vectors are searched",
    "hnsw.scan_mem_multiplier": "the session's own memory",
    "ivfflat.iterative_scan": "how exactly vectors are searched",
    "ivfflat.max_probes": "how exactly vectors are searched",
    "ivfflat.probes": "how exactly vectors are searched",
    "pg_bigm.similarity_limit": "when two texts are alike",
    "pg_hint_plan.enable_hint": "planner",
    "pg_trgm.similarity_threshold": "when two texts are alike",
    "pg_trgm.strict_word_similarity_threshold": "when two texts are alike",
    "pg_trgm.word_similarity_threshold": "when two texts are alike",
    "vchordrq.epsilon": "how exactly vectors are searched",
    "vchordrq.probes": "how exactly vectors are searched",
}
"""Settings of extensions that agents need and that change nothing but a search."""

_PREFIXES = """
age alloydb anon apg_plan_mgmt auth_delay auto_explain aws_lambda aws_s3 azure azure_ai azure_storage
babelfishpg_tds babelfishpg_tsql basebackup_to_shell basic_archive bdr bm25 citus cloudsql columnar credcheck cron
dblink diskann duckdb edb edbspl extwlist file_fdw google_columnar_engine google_ml_integration hnsw http hypopg
isn ivfflat ivm lantern login_hook neon oracle_fdw orafce orioledb paradedb passwordcheck passwordcracklib pg_background
pg_bigm pg_cron pg_duckdb pg_failover_slots pg_graphql pg_hint_plan pg_ivm pg_lake pg_mooncake pg_net pg_overexplain
pg_partman_bgw pg_permissions pg_plan_advice pg_prewarm pg_qualstats pg_readonly pg_repack pg_search pg_show_plans
pg_similarity pg_squeeze pg_stat_kcache pg_stat_monitor pg_stat_statements pg_store_plans pg_strom pg_tde pg_textsearch
pg_tle pg_trgm pg_wait_sampling pgactive pgaudit pgauditlogtofile pgcrypto pgfdw pglogical pgml pgmq pgnodemx pgpool pgq
pgroonga pgrouting pgsodium pgtle pgtt pgvectorscale plcoffee plcontainer pldbgapi plgo pljava pllua plls plperl plperlu
plpgsql plpgsql_check plpython plpython2u plpython3u plpythonu plprofiler plproxy plr plrust plsh pltcl pltclu plv8
postgis postgres_fdw powa provsql pxf rds rdsadmin repmgr rum safeupdate sepgsql set_user shared_ispell spock
sqlite_fdw squeeze sslinfo statsinfo supabase_vault supautils tds_fdw timescaledb topn tsm unaccent vault vchord
vchordrq vectorize vectors wal2json worker_spi wrappers yb zhparser
"""

EXTENSION_PREFIXES = frozenset(_PREFIXES.split())
"""What stands before the dot in the settings of known extensions, procedural languages and hosted servers. An application that
has taken one of these words for its own settings takes another; what the server itself knows comes to these (settings.py)."""
