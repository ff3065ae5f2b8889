"""Which settings an agent may change for its own session, and to what.

Anything that is not on a list is refused: a setting can silence triggers, change how the server reads a text, or make it run a
file. Settings with a dot in their name are an application's (`app.user_id`) or an extension's (`plv8.start_proc`); why the first
pass and how they are told apart stands in docs/explanation/session-control.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from dbshield.policy.setting_lists import EXTENSION_PREFIXES, EXTENSIONS_HARMLESS, HARMLESS, HARMLESS_BEGINNINGS, REFUSED

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
    if OWN_SCHEMA in parts or parts == ["pg_temp"] or any(part.startswith("pg_temp_") for part in parts):
        return False
    return "pg_catalog" not in parts[1:] and "pg_temp" not in parts[:-1]


KNOWN_TEXTS: dict[bytes, str] = {
    b"SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings "
    b"WHERE name = 'restrict_nonsystem_relation_kind'": "pg_dump since 17 sends it; its condition names the setting",
}
"""Whole texts of well-known clients that set a setting in a roundabout way, each with the reason that it is harmless."""

LOOKED_AT: dict[str, tuple[Callable[[str], bool], str]] = {
    "client_encoding": (utf8, "the server and dbshield must read the same bytes; only UTF8 passes"),
    "standard_conforming_strings": (on, "the server and dbshield must read the same strings; only on passes"),
    "search_path": (safe_search_path, "pg_catalog comes first and pg_temp last, or neither is named, and never dbshield"),
}
"""Settings whose value decides."""


TAKEN_QUERY = """\
select '0', '', taken.word, '', '', '', '', '', '', null from (
    select pg_catalog.lower(pg_catalog.split_part(s.name, '.', 1)) as word from pg_catalog.pg_settings s
    where pg_catalog.strpos(s.name, '.') operator(pg_catalog.>) 0
    union
    select pg_catalog.lower(e.extname::pg_catalog.text) from pg_catalog.pg_extension e
    where exists (
        select 1 from pg_catalog.pg_depend d
        join pg_catalog.pg_proc p on p.oid operator(pg_catalog.=) d.objid and p.probin is not null
        where d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
            and d.refobjid operator(pg_catalog.=) e.oid
            and d.classid operator(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass)
    union
    select pg_catalog.lower(pg_catalog.regexp_replace(p.probin, '^.*/|-[0-9.]+$', '', 'g')) from pg_catalog.pg_proc p
    where p.probin is not null
) taken"""
"""The words before a dot that a server has given away, asked on a fresh connection: those of the settings that it knows, of the
extensions with native code, and of the libraries that it may load. What an application has set is not among them. The columns
are those of the query for functions, which it is sent with."""

GUARDED = frozenset({"session_replication_role", "event_triggers"})
"""Settings that silence what guards the data inside the database; those of dbshield itself are as good (DS405)."""

NOT_LISTED = "it is not on the list of settings that an agent may change"
OWN = "it belongs to dbshield"
OF_EXTENSION = "it belongs to an extension, which may do anything with it"

_APPLICATION = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)+")
"""What PostgreSQL takes for the name of an application's setting (valid_custom_variable_name in guc.c), ASCII only."""


def of_guard(name: str) -> bool:
    """Whether a setting decides if a guard inside the database speaks."""
    return name in GUARDED or name.startswith(f"{OWN_SCHEMA}.")


def refusal(name: str, value: str, reserved: Collection[str] = ()) -> str | None:
    """Why `name` may not be set to `value` (several are one a line, `?` where it is no constant); None when it may.

    `reserved` are the words before a dot that the server's own extensions and libraries have taken, besides the known ones.
    """
    if name in LOOKED_AT:
        fits, reason = LOOKED_AT[name]
        return None if fits(value) else reason
    if name in HARMLESS or name in EXTENSIONS_HARMLESS:
        return None
    if "." not in name and name.startswith(tuple(HARMLESS_BEGINNINGS)):
        return None
    if _APPLICATION.fullmatch(name) is None:
        return REFUSED.get(name, NOT_LISTED)
    prefix = name.partition(".")[0]
    if prefix == OWN_SCHEMA:
        return OWN
    # No application begins its own settings with pg_, and extensions often do.
    return OF_EXTENSION if prefix in EXTENSION_PREFIXES or prefix in reserved or prefix.startswith("pg_") else None
