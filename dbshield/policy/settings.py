"""Settings that an agent may change for its own session, each with the reason, and the few whose value is looked at.

Anything that is not here is refused: a setting can silence triggers, change how the server reads a text, or make it run a file.
"""

from __future__ import annotations

from collections.abc import Callable

HARMLESS: dict[str, str] = {
    "application_name": "a label",
    "array_nulls": "input of arrays",
    "bytea_output": "output format",
    "check_function_bodies": "only postpones an error",
    "client_connection_check_interval": "the session's own connection",
    "client_min_messages": "which notices the client sees",
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
    "effective_cache_size": "planner",
    "effective_io_concurrency": "planner",
    "escape_string_warning": "a notice",
    "extra_float_digits": "output format",
    "from_collapse_limit": "planner",
    "gin_fuzzy_search_limit": "planner",
    "hash_mem_multiplier": "the session's own memory",
    "idle_in_transaction_session_timeout": "the session's own time",
    "idle_session_timeout": "the session's own time",
    "intervalstyle": "output format",
    "join_collapse_limit": "planner",
    "lc_monetary": "output format",
    "lc_numeric": "output format",
    "lc_time": "output format",
    "lock_timeout": "the session's own waiting",
    "maintenance_work_mem": "the session's own memory",
    "max_parallel_maintenance_workers": "planner",
    "max_parallel_workers": "planner",
    "max_parallel_workers_per_gather": "planner",
    "parallel_leader_participation": "planner",
    "plan_cache_mode": "planner",
    "quote_all_identifiers": "output format",
    "recursive_worktable_factor": "planner",
    "restrict_nonsystem_relation_kind": "only refuses more",
    "row_security": "off makes a query fail where rows would be hidden, it shows none",
    "seed": "the session's own random numbers",
    "statement_timeout": "the session's own time",
    "synchronize_seqscans": "planner",
    "tcp_keepalives_count": "the session's own connection",
    "tcp_keepalives_idle": "the session's own connection",
    "tcp_keepalives_interval": "the session's own connection",
    "temp_buffers": "the session's own memory",
    "timezone": "input and output format",
    "transaction_deferrable": "the agent's own transaction",
    "transaction_isolation": "the agent's own transaction",
    "transaction_read_only": "the agent's missing grants are the defence, not this",
    "transaction_timeout": "the session's own time",
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
}

FOREIGN_PREFIXES = frozenset(
    {
        "auth_delay",
        "auto_explain",
        "basebackup_to_shell",
        "basic_archive",
        "citus",
        "cron",
        "dblink",
        "dbshield",
        "file_fdw",
        "pg_prewarm",
        "pg_stat_statements",
        "pg_trgm",
        "pgaudit",
        "plperl",
        "plpgsql",
        "plpython",
        "pljava",
        "pllua",
        "plr",
        "plrust",
        "pltcl",
        "plv8",
        "postgres_fdw",
        "sepgsql",
        "supautils",
        "timescaledb",
    }
)
"""Settings before whose dot one of these stands belong to an extension or the shield; others with a dot are an application's."""


OWN_SCHEMA = "dbshield"
"""The schema of the guard, which is only reached by its name, so that rules about it see it."""


def utf8(value: str) -> bool:
    return value.lower().replace("-", "").replace("_", "").strip("' ") in {"utf8", "unicode"}


def on(value: str) -> bool:
    return value.lower() in {"on", "true", "1", "yes", "default"}


def safe_search_path(value: str) -> bool:
    """pg_catalog first or unnamed, pg_temp last or unnamed: otherwise somebody else's function or table comes first."""
    if "?" in value.split("\n"):
        return False
    # The server folds what stands without quotes, in the text of set_config too; a quoted name in capitals is nobody's loss.
    parts = [part.strip().strip('"').lower() for piece in value.split("\n") for part in piece.split(",")]
    if OWN_SCHEMA in parts or parts == ["pg_temp"]:
        return False
    return "pg_catalog" not in parts[1:] and "pg_temp" not in parts[:-1]


KNOWN_TEXTS: dict[bytes, str] = {
    b"SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings "
    b"WHERE name = 'restrict_nonsystem_relation_kind'": "pg_dump since 17 sends it; its condition names the setting",
}
"""Whole texts of well-known clients that set a setting in a roundabout way, each with the reason that it is harmless."""

LOOKED_AT: dict[str, tuple[Callable[[str], bool], str]] = {
    "client_encoding": (utf8, "the server and the shield must read the same bytes; only UTF8 passes"),
    "standard_conforming_strings": (on, "the server and the shield must read the same strings; only on passes"),
    "search_path": (safe_search_path, "pg_catalog comes first and pg_temp last, or neither is named, and never dbshield"),
}
"""Settings whose value decides."""


def refusal(name: str, value: str) -> str | None:
    """Why `name` may not be set to `value` (several are one a line, `?` where it is no constant); None when it may."""
    if name in LOOKED_AT:
        fits, reason = LOOKED_AT[name]
        return None if fits(value) else reason
    if name in HARMLESS or name.startswith(tuple(HARMLESS_BEGINNINGS)):
        return None
    prefix, dot, _ = name.partition(".")
    if dot and prefix not in FOREIGN_PREFIXES:
        return None
    return "it is not on the list of settings that an agent may change"
