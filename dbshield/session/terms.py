"""What a session has set that decides what a text means: asked of the server before a human is asked, and kept with the question.

An approved statement runs on another connection. There an unqualified name, a date or a number would mean what that connection's
settings make of it. Settings come from many places (the startup packet, SET, set_config in anybody's function, the role's and the
database's own), so the session does not keep books on them: the server knows, and is asked while it is idle.

The schemas are those of the effective search_path, so `$user`, schemas that are not there and those that the role may not use
are resolved as they were for the agent. Temporary objects come before all of them and exist nowhere else; a session that has any
cannot have a statement run elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dbshield.policy.setting_lists import EXTENSIONS_HARMLESS
from dbshield.wire.backend import DataRow
from dbshield.wire.frontend import Bind, Close, Execute, Parse, Sync, Target

SEARCH_PATH: Final = "search_path"

MEANING: Final = (
    "array_nulls",
    "bytea_output",
    "check_function_bodies",
    "datestyle",
    "default_table_access_method",
    "default_tablespace",
    "default_text_search_config",
    "default_toast_compression",
    "extra_float_digits",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "quote_all_identifiers",
    "timezone",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
    *sorted(EXTENSIONS_HARMLESS),
)
"""Settings besides search_path that a text, or a value in it, is read or written by, and those that new objects take on."""

CARRIED: Final = frozenset({SEARCH_PATH, *MEANING})
"""What a question may carry, and an executor takes on."""

_TEMPORARY: Final = "(temporary)"
_IDLE_TIMEOUT: Final = "(idle_session_timeout)"

QUERY: Final = f"""\
select '{SEARCH_PATH}', pg_catalog.array_to_string(array(
    select pg_catalog.quote_ident(s) from pg_catalog.unnest(pg_catalog.current_schemas(false)) s
    where not pg_catalog.starts_with(s::pg_catalog.text, 'pg_temp_')), ', ')
union all
select n, pg_catalog.current_setting(n, true) from pg_catalog.unnest('{{{",".join(MEANING)}}}'::pg_catalog.text[]) n
where pg_catalog.current_setting(n, true) operator(pg_catalog.<>) '' or pg_catalog.strpos(n, '.') operator(pg_catalog.=) 0
union all
select '{_TEMPORARY}', '' where exists (
    select from pg_catalog.pg_class c where c.relnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema()
    union all
    select from pg_catalog.pg_type t where t.typnamespace operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
union all
select '{_IDLE_TIMEOUT}', s.setting from pg_catalog.pg_settings s where s.name operator(pg_catalog.=) 'idle_session_timeout'
"""  # noqa: S608  (constants of ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the server told: `settings` by name, whether there are temporary objects, and after how many seconds the server ends
    the session when it is idle (0: never)."""

    settings: Mapping[str, str] = field(default_factory=dict)
    temporary: bool = False
    idle_timeout: float = 0.0


def question(name: bytes) -> bytes:
    """The query as it goes to the server. In the extended protocol, under a name of its own: a simple Query would take away the
    client's unnamed statement."""
    ask = (
        Parse(name=name, query=QUERY.encode()),
        Bind(portal=name, statement=name),
        Execute(portal=name),
        Close(target=Target.STATEMENT, name=name),
        Sync(),
    )
    return b"".join(message.encode() for message in ask)


def read(rows: list[bytes]) -> Terms | None:
    """What the payloads of the DataRows say; None where they are not the answer to this question."""
    found: dict[str, str] = {}
    for row in rows:
        values = DataRow.decode(row).values
        if len(values) != 2 or None in values:
            continue  # a setting that this server does not have
        name, value = (str(each, "utf-8") for each in values if each is not None)
        found[name] = value
    temporary, timeout = found.pop(_TEMPORARY, None), found.pop(_IDLE_TIMEOUT, None)
    if timeout is None or not timeout.isdecimal() or SEARCH_PATH not in found or not found.keys() <= CARRIED:
        return None
    return Terms(settings=found, temporary=temporary is not None, idle_timeout=int(timeout) / 1000)
