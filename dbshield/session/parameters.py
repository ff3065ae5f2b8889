"""Which settings a client may bring with its start-up packet, and what of them the server is sent.

What may be brought is what may be SET (`policy/settings.py`): one allow-list, with a reason for each entry, because a setting
can change how the server reads the text that was judged, whom it takes the session for, or what it does before the first
statement. `options` is taken apart as the server does it and judged name by name; it is never passed on. Nothing here executes
anything (CVE-2025-12819 was a pooler that did, under the client's search_path).

Source: pg_split_opts in PostgreSQL's postinit.c, ParseLongOption in guc.c, SplitIdentifierString in varlena.c. Which drivers
bring what: libpq and psycopg (DateStyle, TimeZone, geqo, client_encoding from the environment; options), asyncpg
(client_encoding as `'utf-8'`, quotes and all), pgjdbc, R2DBC, sqlx and lib/pq (DateStyle, TimeZone, extra_float_digits),
Npgsql (search_path, TimeZone), node-postgres (the timeouts).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from dbshield.errors import Refused
from dbshield.policy import settings
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

FORBIDDEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "replication": "a replication connection copies and streams whole databases without SQL that could be judged",
        "role": "it would act as another role",
        "session_authorization": "it would act as another role",
        "session_replication_role": "it silences triggers, those of the guard too",
        "event_triggers": "it silences the guard's event triggers",
        "local_preload_libraries": "it loads code into the server",
        "session_preload_libraries": "it loads code into the server",
        "dynamic_library_path": "it decides which code the server loads",
        "synchronous_commit": "commits that were reported could be lost",
        "allow_system_table_mods": "it opens the catalogue for writing",
        "zero_damaged_pages": "it destroys damaged pages",
        "ignore_checksum_failure": "it hides damaged pages",
        "backslash_quote": "it changes how a text is read",
        "transform_null_equals": "it changes how a text is read",
    }
)
"""Settings that PostgreSQL knows and an agent never brings, and why; better answered than with `not on the list`."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_$.]*")
"""Folded names; valid_custom_variable_name in PostgreSQL's guc.c, ASCII only."""

_TOKEN: Final = re.compile(r"dbs_[\w.-]+")

_ASIDE: Final = frozenset({"user", "database", "options"})
"""Parameters of the packet that are no settings."""

UNSAID_ENCODING: Final = "sql_ascii"
"""What libpq names as client_encoding where the locale is C: bytes of no encoding in particular. It is taken at start-up as
if nothing had been said, so that psql works under LC_ALL=C; the server is told UTF8 all the same, and the client that it is."""

_WHERE_ELSE: Final[Mapping[str, str]] = MappingProxyType(
    {"client_encoding": "; psql takes it from PGCLIENTENCODING or the locale"}
)

_LEAVE_OUT: Final = "Leave it out of the connection string, the driver's options and the environment (PGOPTIONS)."


def startup_settings(parameters: Iterable[tuple[str, str]], *, agent: str) -> dict[str, str]:
    """The settings to send to the server, names in lower case; the forced ones are always among them.

    `parameters` are those of the start-up packet, in order. Of doubles the last one counts, and a parameter of its own counts
    more than one in `options`, as in PostgreSQL; every one of them is judged. Raises Refused: 42704 for a name that is not on
    the list, 42501 for one that is forbidden, 22023 for a value.
    """
    pairs = tuple(parameters)
    chosen: dict[str, str] = {}
    for name, value in pairs:
        if name == "options":
            for inner, inner_value in split_options(value):
                chosen[_judge(inner, inner_value)] = inner_value
    for name, value in pairs:
        if name not in _ASIDE and not name.startswith(PROTOCOL_OPTION_PREFIX):
            chosen[_judge(name, value)] = value
    chosen["application_name"] = marked(chosen.get("application_name", ""), agent=agent)
    return {**chosen, **FORCED}


def _judge(name: str, value: str) -> str:
    """The folded `name`, if it may be brought with this value."""
    # PostgreSQL folds the names of settings, ASCII only.
    folded = name.lower() if name.isascii() else name
    if (why := FORBIDDEN.get(folded)) is not None:
        message = f'startup parameter "{printable(name)}" is refused: {why}'
        raise Refused(message, sqlstate=INSUFFICIENT_PRIVILEGE, hint=_LEAVE_OUT)
    if _NAME.fullmatch(folded) is None:
        message = f'startup parameter "{printable(name)}" is refused: it is no name of a setting'
        raise Refused(message, sqlstate=UNDEFINED_OBJECT, hint=_LEAVE_OUT)
    if folded == "client_encoding" and value.lower() == UNSAID_ENCODING:
        return folded
    # A search_path that comes as one text is folded by the server, outside of quotes; folding all of it finds no less.
    why = settings.refusal(folded, value.lower() if folded == "search_path" else value)
    if why is None:
        return folded
    if folded not in settings.LOOKED_AT:
        message = f'startup parameter "{printable(name)}" is refused: {why}'
        raise Refused(message, sqlstate=UNDEFINED_OBJECT, hint=_LEAVE_OUT)
    raise Refused(
        f'startup parameter {folded} is refused with value "{printable(value)}": {why}',
        sqlstate=INVALID_VALUE,
        hint=f"Set {folded} to {FORCED[folded]}, or leave it out{_WHERE_ELSE.get(folded, '')}."
        if folded in FORCED
        else _LEAVE_OUT,
    )


def check_taken(names: Iterable[str], taken: Collection[str]) -> None:
    """Raises Refused for a setting whose word before the dot is one that the server's own extensions have taken, which is known
    only when the server has told it; no statement has run by then."""
    for name in names:
        prefix, dot, _ = name.partition(".")
        if dot and prefix in taken and (why := settings.refusal(name, "", taken)) is not None:
            message = f'startup parameter "{printable(name)}" is refused: {why}'
            raise Refused(message, sqlstate=UNDEFINED_OBJECT, hint=_LEAVE_OUT)


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
    """A client's own words, short and harmless enough for a message and a log: a token that somebody put in the wrong place
    is not among them."""
    text = _TOKEN.sub("dbs_…", text)
    safe = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
    return safe if len(text) <= _SHOWN else safe + "…"
