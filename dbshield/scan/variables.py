"""Credentials whose parts stand in lines of their own: .env, service files, compose and Kubernetes texts, Terraform, JSON, INI.

Lines are read as name and value, and values whose names belong together (`STAGING_DB_HOST`, `STAGING_DB_PASSWORD`) become one
credential. A part that comes a second time, a section or an object begins the next one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from dbshield.scan.connections import find_connections, target, url_place
from dbshield.scan.found import Found, Power, literal
from dbshield.scan.lines import settings

CODE = frozenset({".py", ".js", ".ts", ".tsx", ".jsx", ".mjs", ".go", ".rb", ".java", ".kt", ".scala", ".rs", ".c", ".h", ".cpp"})
CODE_TOO = frozenset({".cs", ".php", ".swift", ".ex", ".exs", ".lua", ".pl", ".r", ".sql", ".md", ".rst"})
"""Where only what stands in quotes is a value; anything else is an expression or prose."""

_NAME = re.compile(
    r"(.*?)_?(?:(hostname|hostaddr|host|server|address|endpoint)|(port)|(username|user|login)|(password|passwd|pwd|pass)"
    r"|(dbname|database|db|name))"
)
_FAMILY = re.compile(
    r"(?:^|_)(?:pg|postgres|postgresql|psql|db|database|sql|rds|timescale|supabase|neon|cockroach|crunchy)(?:_|$)"
)
_STRANGERS = re.compile(r"mysql|maria|mongo|redis|rabbit|smtp|mail|ldap|kafka|elastic|mssql|oracle|proxy_pass|registry|ssh|ftp")
_NOTHING = frozenset({"", "none", "null", "nil", "true", "false", "~", "string", "str", "undefined"})
_SECRET = re.compile(r"""(?:^|[{,\s-])["']?kind["']?\s*:\s*["']?Secret\b""")
_SOFTWARE = re.compile(r"adapter|engine|driver|dialect|client|provider|type|connection", re.IGNORECASE)
_POSTGRES = re.compile(r"postgres|pgsql|npgsql", re.IGNORECASE)
_URL_NAME = re.compile(r"(.*?)_?(?:url|uri)")
_ONE_FAMILY = frozenset({"pg", "postgres", "postgresql", "db", "database", "psql"})


@dataclass(slots=True)
class _Group:
    parts: dict[str, str] = field(default_factory=dict)
    line: int = 0
    postgres: bool = False
    """Whether something in it says that it is PostgreSQL's."""


def find_variables(lines: list[str], name: str) -> Iterator[Found]:
    """The credentials of a file; `name` is the file's, and says what kind of text it is."""
    path = PurePath(name.lower())
    quoted_only = path.suffix in CODE | CODE_TOO
    service_file = path.name.endswith("pg_service.conf")
    kubernetes = any(_SECRET.search(line) for line in lines)
    groups: dict[str, _Group] = {}
    section = service_file
    if kubernetes:
        yield from _folded(lines)
    for setting in settings(lines, quoted_only=quoted_only):
        value = setting.value
        if setting.begins:
            yield from _all(groups, service=service_file)
            section = service_file or _is_family(setting.name)
            continue
        if kubernetes and (decoded := _decoded(value)):
            value = decoded
            inside = list(_inside(decoded, setting.name, setting.line))
            yield from inside
            if inside:
                continue
        if _SOFTWARE.fullmatch(setting.name) and _POSTGRES.search(value):
            groups.setdefault("", _Group()).postgres = True
        part = _part(setting.name)
        if part is None:
            if (place := url_place(value)) is not None and (named := _URL_NAME.fullmatch(_word(setting.name))):
                prefix = named[1].rstrip("_")
                # jdbcUrl stands beside username and password; jdbc.url beside jdbc.password.
                for belongs in {"db" if prefix in _ONE_FAMILY else prefix, prefix.removesuffix("jdbc").rstrip("_")}:
                    group = groups.setdefault(belongs, _Group())
                    group.postgres = True
                    group.parts |= {key: text for key, text in place.items() if text}
            continue
        if value.lower() in _NOTHING:
            continue
        prefix, role = part
        group = groups.setdefault(prefix, _Group())
        if role in group.parts and not (group.postgres and "password" not in group.parts):
            yield from _one(prefix, group, service=service_file)
            groups[prefix] = group = _Group()
        group.parts[role] = value
        group.postgres = group.postgres or section
        if role == "password":
            group.line = setting.line
    yield from _all(groups, service=service_file)


def _inside(text: str, name: str, line: int) -> Iterator[Found]:
    """What stands in a text that a manifest holds in base64; `name` is that of the text, as a file's."""
    for one in text.splitlines():
        yield from find_connections(one, line, pgpass="pgpass" in name.lower())
    if "\n" in text:
        yield from (replace(found, line=line) for found in find_variables(text.splitlines(), name))


def _folded(lines: list[str]) -> Iterator[Found]:
    """Values that stand below their names."""
    for number, line in enumerate(lines, 1):
        if len(line.split()) == 1 and ":" not in line and (decoded := _decoded(line.strip())):
            yield from _inside(decoded, "", number)


def _word(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(".", "_")


def _is_family(name: str) -> bool:
    word = _word(name)
    return bool(_FAMILY.search(word)) and not _STRANGERS.search(word)


def _part(key: str) -> tuple[str, str] | None:
    """What the name belongs to, and which part of a credential it names."""
    word = _word(key)
    match = _NAME.fullmatch(word)
    if match is None or _STRANGERS.search(word):
        return None
    role = ("host", "port", "user", "password", "database")[next(i for i, group in enumerate(match.groups()[1:]) if group)]
    prefix = match[1].rstrip("_")
    if match[6] == "name" and not _FAMILY.search(prefix):
        return None
    return ("db" if prefix in _ONE_FAMILY else prefix), role


def _all(groups: dict[str, _Group], *, service: bool) -> Iterator[Found]:
    for prefix, group in groups.items():
        yield from _one(prefix, group, service=service)
    groups.clear()


def _one(prefix: str, group: _Group, *, service: bool) -> Iterator[Found]:
    parts = group.parts
    secret = literal(parts.get("password", ""))
    if not secret:
        return
    yield Found(
        line=group.line,
        what="service file" if service else "variables",
        power=Power.DATABASE,
        secret=secret,
        target=target(parts.get("host", ""), parts.get("port", ""), parts.get("database", ""), parts.get("user", "")),
        certain=service or group.postgres or bool(_FAMILY.search(prefix)) or parts.get("port") == "5432",
    )


def _decoded(value: str) -> str:
    """What stands in base64 in a Kubernetes Secret; empty where it is no text."""
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    text = text.removesuffix("\n")
    return text if all(line.isprintable() for line in text.split("\n")) else ""
