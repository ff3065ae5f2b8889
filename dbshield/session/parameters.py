"""Which settings a client may bring with its start-up packet, and what of them the server is sent.

An allow-list: a name that is not on it is refused, because a setting can change how the server reads the text that was judged,
whom it takes the session for, or what it does before the first statement. `options` is taken apart as the server does it and
judged name by name; it is never passed on. Nothing here executes anything (CVE-2025-12819 was a pooler that did, under the
client's search_path).

Source: pg_split_opts in PostgreSQL's postinit.c, ParseLongOption in guc.c, clean_encoding_name in encnames.c. Which drivers
bring what: libpq and psycopg (DateStyle, TimeZone, geqo, client_encoding from the environment; options), asyncpg
(client_encoding as `'utf-8'`, quotes and all), pgjdbc, R2DBC, sqlx and lib/pq (DateStyle, TimeZone, extra_float_digits),
Npgsql (search_path, TimeZone), node-postgres (the timeouts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dbshield.errors import Refused
from dbshield.wire.startup import PROTOCOL_OPTION_PREFIX

UNDEFINED_OBJECT: Final = "42704"
INSUFFICIENT_PRIVILEGE: Final = "42501"
INVALID_VALUE: Final = "22023"

MAX_APPLICATION_NAME: Final = 63
"""Bytes that the server keeps of application_name: NAMEDATALEN - 1."""

_SHOWN: Final = 63
"""Characters of a client's own words in our messages: no name of PostgreSQL is longer."""

FORCED: Final[Mapping[str, str]] = MappingProxyType({"client_encoding": "UTF8", "standard_conforming_strings": "on"})
"""Sent always: the server must read the same text as dbshield's readers did."""


def _anything(value: str) -> bool:
    return True


def _is_utf8(value: str) -> bool:
    """PostgreSQL ignores case and all punctuation in the name of an encoding."""
    return "".join(c for c in value.lower() if c.isascii() and c.isalnum()) in {"utf8", "unicode"}


def _is_on(value: str) -> bool:
    return value.strip().lower() in {"on", "true", "t", "yes", "y", "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting that a client may bring, spelled as PostgreSQL spells it, and why it may."""

    name: str
    reason: str
    accepts: Callable[[str], bool] = _anything
    must_be: str = ""


_FORM: Final = "changes only how values are written and read"
_TIME: Final = "bounds the session's own time; the roles of the server are the real limit"
_PLAN: Final = "changes only how a statement is planned, never what it does"
_RIGHTS: Final = "every statement of a transaction is judged and needs its grants all the same"

ALLOWED: Final[tuple[Setting, ...]] = (
    Setting(name="client_encoding", reason="is UTF8 in any case", accepts=_is_utf8, must_be="UTF8"),
    Setting(name="standard_conforming_strings", reason="is on in any case", accepts=_is_on, must_be="on"),
    Setting(name="application_name", reason="is a label; dbshield puts the agent's name in front"),
    Setting(name="DateStyle", reason=_FORM),
    Setting(name="IntervalStyle", reason=_FORM),
    Setting(name="TimeZone", reason=_FORM),
    Setting(name="extra_float_digits", reason=_FORM),
    Setting(name="bytea_output", reason=_FORM),
    Setting(name="client_min_messages", reason="changes only which notices are sent"),
    Setting(name="default_text_search_config", reason="changes only how text is searched"),
    Setting(name="search_path", reason="names without a schema are looked up by the server; grants decide what they reach"),
    Setting(name="statement_timeout", reason=_TIME),
    Setting(name="lock_timeout", reason=_TIME),
    Setting(name="transaction_timeout", reason=_TIME),
    Setting(name="idle_in_transaction_session_timeout", reason=_TIME),
    Setting(name="idle_session_timeout", reason=_TIME),
    Setting(name="client_connection_check_interval", reason=_TIME),
    Setting(name="default_transaction_isolation", reason=_RIGHTS),
    Setting(name="default_transaction_read_only", reason=_RIGHTS),
    Setting(name="default_transaction_deferrable", reason=_RIGHTS),
    Setting(name="geqo", reason=_PLAN),
    Setting(name="jit", reason=_PLAN),
    Setting(name="work_mem", reason=_PLAN),
    Setting(name="plan_cache_mode", reason=_PLAN),
    Setting(name="random_page_cost", reason=_PLAN),
    Setting(name="max_parallel_workers_per_gather", reason=_PLAN),
    *(Setting(name=f"enable_{way}", reason=_PLAN) for way in ("hashagg", "material", "sort")),
    *(Setting(name=f"enable_{way}join", reason=_PLAN) for way in ("hash", "merge")),
    *(Setting(name=f"enable_{way}scan", reason=_PLAN) for way in ("bitmap", "index", "indexonly", "seq")),
    Setting(name="enable_nestloop", reason=_PLAN),
)

FORBIDDEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "replication": "a replication connection copies and streams whole databases without SQL that could be judged",
        "role": "it would act as another role",
        "session_authorization": "it would act as another role",
        "session_replication_role": "it silences triggers, those of the guard too",
        "event_triggers": "it silences the guard's event triggers",
        "row_security": "it changes which rows are seen",
        "local_preload_libraries": "it loads code into the server",
        "session_preload_libraries": "it loads code into the server",
        "dynamic_library_path": "it decides which code the server loads",
        "synchronous_commit": "commits that were reported could be lost",
        "allow_system_table_mods": "it opens the catalogue for writing",
        "zero_damaged_pages": "it destroys damaged pages",
        "ignore_checksum_failure": "it hides damaged pages",
        "backslash_quote": "it changes how a text is read",
        "transform_null_equals": "it changes how a text is read",
        "check_function_bodies": "it lets functions in that were not checked",
    }
)
"""Settings that PostgreSQL knows and an agent never brings, and why; better answered than with `not on the list`."""

_BY_NAME: Final[Mapping[str, Setting]] = MappingProxyType({setting.name.lower(): setting for setting in ALLOWED})

_ASIDE: Final = frozenset({"user", "database", "options"})
"""Parameters of the packet that are no settings."""

_LEAVE_OUT: Final = "Leave it out of the connection string, the driver's options and the environment (PGOPTIONS)."


def startup_settings(parameters: Iterable[tuple[str, str]], *, agent: str) -> dict[str, str]:
    """The settings to send to the server, under PostgreSQL's own spelling; the forced ones are always among them.

    `parameters` are those of the start-up packet, in order. Of doubles the last one counts, and a parameter of its own counts
    more than one in `options`, as in PostgreSQL; every one of them is judged. Raises Refused: 42704 for a name that is not on
    the list, 42501 for one that is forbidden, 22023 for a value.
    """
    pairs = tuple(parameters)
    settings: dict[str, str] = {}
    for name, value in pairs:
        if name == "options":
            for inner, inner_value in split_options(value):
                settings[_judge(inner, inner_value)] = inner_value
    for name, value in pairs:
        if name not in _ASIDE and not name.startswith(PROTOCOL_OPTION_PREFIX):
            settings[_judge(name, value)] = value
    settings["application_name"] = marked(settings.get("application_name", ""), agent=agent)
    return {**settings, **FORCED}


def _judge(name: str, value: str) -> str:
    """PostgreSQL's spelling of `name`, if it may be brought with this value."""
    # PostgreSQL folds the names of settings, ASCII only.
    folded = name.lower() if name.isascii() else name
    if (why := FORBIDDEN.get(folded)) is not None:
        raise Refused(
            f'startup parameter "{printable(name)}" is refused: {why}', sqlstate=INSUFFICIENT_PRIVILEGE, hint=_LEAVE_OUT
        )
    setting = _BY_NAME.get(folded)
    if setting is None:
        raise Refused(
            f'startup parameter "{printable(name)}" is not on the list of those that may be brought',
            sqlstate=UNDEFINED_OBJECT,
            hint=_LEAVE_OUT,
        )
    if not setting.accepts(value):
        raise Refused(
            f'startup parameter "{setting.name}" must be {setting.must_be}, not "{printable(value)}"',
            sqlstate=INVALID_VALUE,
            hint=f"Set {setting.name} to {setting.must_be} (for client_encoding also PGCLIENTENCODING=UTF8), or leave it out.",
        )
    return setting.name


def split_options(options: str) -> list[tuple[str, str]]:
    """The settings in `options`, given as `-c name=value`, `-cname=value` or `--name=value`. Raises Refused for all else."""
    words = iter(_split_words(options))
    pairs = []
    for word in words:
        if word == "-c":
            text = next(words, "")
        elif word.startswith(("--", "-c")):
            text = word[2:]
        else:
            raise _bad_option(word)
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise _bad_option(f"{word} {text}" if word == "-c" else word)
        pairs.append((name.replace("-", "_"), value))
    return pairs


def _bad_option(word: str) -> Refused:
    return Refused(
        f'"{printable(word)}" in the startup parameter "options" is refused',
        sqlstate=INSUFFICIENT_PRIVILEGE,
        hint="Only -c name=value and --name=value may stand in options (PGOPTIONS).",
    )


def _split_words(options: str) -> list[str]:
    """At white space, which a backslash keeps; the white space of C's isspace()."""
    words: list[str] = []
    word: list[str] | None = None
    letters = iter(options)
    for letter in letters:
        if letter in " \t\n\v\f\r":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        # A backslash at the very end stands for nothing.
        word.append(next(letters, "") if letter == "\\" else letter)
    if word is not None:
        words.append("".join(word))
    return words


def marked(application_name: str, *, agent: str) -> str:
    """`dbshield:claude psql`: so that pg_stat_activity and the server's log say which agent it is. Printable ASCII."""
    text = f"dbshield:{agent} {application_name}".strip(" ")
    # The server does the same to what it cannot print, and cuts without a word.
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_APPLICATION_NAME]


def printable(text: str) -> str:
    """A client's own words, short and harmless enough for a message and a log."""
    safe = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
    return safe if len(text) <= _SHOWN else safe + "…"
