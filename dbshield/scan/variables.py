"""Credentials whose parts stand in lines of their own: .env, service files, compose and Kubernetes texts, Terraform, JSON, INI.

Lines are read as name and value, and values whose names belong together (`STAGING_DB_HOST`, `STAGING_DB_PASSWORD`) become one
credential. A part that comes a second time, a section or an object begins the next one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from dbshield.scan.connections import find_connections, target
from dbshield.scan.found import Found, Power, literal

CODE = frozenset({".py", ".js", ".ts", ".tsx", ".jsx", ".mjs", ".go", ".rb", ".java", ".kt", ".scala", ".rs", ".c", ".h", ".cpp"})
CODE_TOO = frozenset({".cs", ".php", ".swift", ".ex", ".exs", ".lua", ".pl", ".r", ".sql", ".md", ".rst"})
"""Where only what stands in quotes is a value; anything else is an expression or prose."""

_LINE = re.compile(
    r"""^\s*(?:-\s+)?(?:export\s+|set\s+|ENV\s+|ARG\s+)?["']?([A-Za-z_][\w.-]{0,80})["']?\s*(?::=|=>|=|:\s|:$|:(?=["']))\s*(.*)$"""
)
_INLINE = re.compile(r"""\b([A-Z][A-Z0-9_]{1,80})=("[^"]*"|'[^']*'|[^\s"']+)""")
_HEADER = re.compile(r"^\s*(?:\[[^\]]+\]|---|[\w-]+\s+\"[^\"]*\".*\{)\s*$")
_VARIABLE = re.compile(r'^\s*variable\s+"([\w-]+)"\s*\{')
_NAME = re.compile(
    r"(.*?)_?(?:(hostname|hostaddr|host|server|address|endpoint)|(port)|(username|user|login)|(password|passwd|pwd|pass)"
    r"|(dbname|database|db|name))"
)
_FAMILY = re.compile(
    r"(?:^|_)(?:pg|postgres|postgresql|psql|db|database|sql|rds|timescale|supabase|neon|cockroach|crunchy)(?:_|$)"
)
_STRANGERS = re.compile(r"mysql|maria|mongo|redis|rabbit|smtp|mail|ldap|kafka|elastic|mssql|oracle|proxy_pass|registry|ssh|ftp")
_NOTHING = frozenset({"", "none", "null", "nil", "true", "false", "~", "string", "str", "undefined"})
_ONE_FAMILY = frozenset({"pg", "postgres", "postgresql", "db", "database", "psql"})


@dataclass(slots=True)
class _Group:
    parts: dict[str, str] = field(default_factory=dict)
    line: int = 0


def find_variables(lines: list[str], name: str) -> Iterator[Found]:
    """The credentials of a file; `name` is the file's, and says what kind of text it is."""
    path = PurePath(name.lower())
    quoted_only = path.suffix in CODE | CODE_TOO
    service_file = path.name.endswith("pg_service.conf")
    kubernetes = any(re.match(r"""\s*["']?kind["']?:\s*["']?Secret\b""", line) for line in lines)
    groups: dict[str, _Group] = {}
    for number, key, value, begins in _values(lines, quoted_only=quoted_only):
        if begins:
            yield from _all(groups, certain=service_file)
            continue
        if kubernetes and (decoded := _decoded(value)):
            value = decoded  # noqa: PLW2901  (from here on it is what the manifest means)
            yield from find_connections(value, number)
        part = _part(key)
        if part is None or value.lower() in _NOTHING:
            continue
        prefix, role = part
        group = groups.setdefault(prefix, _Group())
        if role in group.parts:
            yield from _one(prefix, group, certain=service_file)
            groups[prefix] = group = _Group()
        group.parts[role] = value
        if role == "password":
            group.line = number
    yield from _all(groups, certain=service_file)


def _values(lines: list[str], *, quoted_only: bool) -> Iterator[tuple[int, str, str, bool]]:
    """(line, name, value, whether something new begins) for what the lines set."""
    named = ""
    for number, text in enumerate(lines, 1):
        if variable := _VARIABLE.match(text):
            named = variable[1]
            continue
        if _HEADER.match(text):
            yield number, "", "", True
            continue
        match = _LINE.match(text)
        if match is None:
            for inline in _INLINE.finditer(text):
                yield number, inline[1], inline[2].strip("\"'"), False
            continue
        key, value = match[1], _value(match[2], quoted_only=quoted_only)
        if key.isupper() and match[2][:1] not in {"'", '"'}:
            # A shell's variable ends at a blank, and a command may follow.
            value = value.partition(" ")[0]
        if match[2].strip() in {"", "{", "[", "|", ">"}:
            yield number, "", "", not text[:1].isspace() or match[2].strip() == "{"
        elif key == "name" and quoted_only is False:
            # In Kubernetes a variable's name and its value are two lines.
            named = value
            yield number, key, value, False
        elif key in {"value", "default"} and named:
            yield number, named, value, False
            named = ""
        else:
            yield number, key, value, False
            # Several on one line, as `A=1 B=2`.
            for inline in _INLINE.finditer(match[2]):
                yield number, inline[1], inline[2].strip("\"'"), False


def _value(text: str, *, quoted_only: bool) -> str:
    text = text.strip()
    quoted = re.match(r"""(?:[rbu])?("((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""", text)
    if quoted is not None:
        return quoted[2] if quoted[2] is not None else quoted[3]
    if quoted_only or "(" in text:
        return ""
    return re.sub(r"\s+[#;].*$", "", text).rstrip(",").strip()


def _part(key: str) -> tuple[str, str] | None:
    """What the name belongs to, and which part of a credential it names."""
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(".", "_")
    match = _NAME.fullmatch(word)
    if match is None or _STRANGERS.search(word):
        return None
    role = ("host", "port", "user", "password", "database")[next(i for i, group in enumerate(match.groups()[1:]) if group)]
    prefix = match[1].rstrip("_")
    if match[6] == "name" and not _FAMILY.search(prefix):
        return None
    return ("db" if prefix in _ONE_FAMILY else prefix), role


def _all(groups: dict[str, _Group], *, certain: bool) -> Iterator[Found]:
    for prefix, group in groups.items():
        yield from _one(prefix, group, certain=certain)
    groups.clear()


def _one(prefix: str, group: _Group, *, certain: bool) -> Iterator[Found]:
    parts = group.parts
    secret = literal(parts.get("password", ""))
    if not secret:
        return
    yield Found(
        line=group.line,
        what="service file" if certain else "variables",
        power=Power.DATABASE,
        secret=secret,
        target=target(parts.get("host", ""), parts.get("port", ""), parts.get("database", ""), parts.get("user", "")),
        certain=certain or bool(_FAMILY.search(prefix)) or parts.get("port") == "5432",
    )


def _decoded(value: str) -> str:
    """What stands in base64 in a Kubernetes Secret; empty where it is no text."""
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    text = text.removesuffix("\n")
    return text if text.isprintable() else ""
