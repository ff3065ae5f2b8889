"""Connection strings in a line of text: URLs, key=value texts and their kin of other drivers, lines of .pgpass, roles' passwords.

Sources: PostgreSQL manual, "Connection Strings" and "The Password File"; the JDBC driver's and Npgsql's manuals. Read without
libpq: a text in a workspace is often not quite what libpq accepts, and is one nonetheless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qsl, unquote

from dbshield.scan.found import Found, Power, Target, literal

_URL = re.compile(
    r"""(?:jdbc:)?\b(?:postgres|postgresql|postgis|timescaledb|cockroachdb|cockroach|pgsql|psql|pg|ecto|alloydb|redshift)
        (?:\+\w+)?://[^\s"'`<>\\]+ | \bjdbc:postgresql:[\w.-]*\?[^\s"'`<>\\]+""",
    re.IGNORECASE | re.VERBOSE,
)
_PLACE = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?")
_PLACE_NAMED = re.compile(r"([^:]*):(?:port|\$\w+|\$?\{\w+\}|<\w+>|%\w+%)()", re.IGNORECASE)
"""A host and the name of its port, as a manual or a template has it: HOST:PORT, db:${DB_PORT}."""
_GOES_ON = re.compile(r"(?:(?!://)\S){1,200}?@|\s(?:(?!://)[^@]){0,60}@[\w.-]+(?::\d+)?/")
"""Behind a URL: a further @ of it, as behind a quote or a blank that stands in a password as it is."""
_QUERY = re.compile(r"\?[A-Za-z_]+=")
_PAIR = re.compile(
    r"""\b(hostaddr|hostname|host|server|port|dbname|database|db|user\s?name|user\s?id|uid|user|password|passwd|pwd)
        \s*=\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|((?:[^\s'",;()]|,(?=[\w.-]+(?:[,\s]|$)))+))""",
    re.VERBOSE | re.IGNORECASE,
)
_PGPASS = re.compile(r"^((?:[^:\\\s]|\\.)+):(\d{1,5}|\*):((?:[^:\\\s]|\\.)+):((?:[^:\\\s]|\\.)+):((?:[^:\\]|\\.)+)(:.*)?$")
_ROLE = re.compile(
    r"""\b(?:create|alter)\s+(?:role|user)\s+("(?:[^"]|"")+"|\w+)[^;']{0,200}?
        \bpassword\s+(?:e?'((?:[^']|'')+)'|\$(\w*)\$(.{1,200}?)\$\3\$)""",
    re.IGNORECASE | re.VERBOSE,
)
_MAPPING = re.compile(r"""\boptions\s*\(([^;)]{0,300})\bpassword\s+'((?:[^']|'')+)'""", re.IGNORECASE)
_MAPPED_USER = re.compile(r"""\buser\s+'((?:[^']|'')+)'""", re.IGNORECASE)
_ESCAPED = re.compile(r"""\\(?:(["/])|u00([2-7][0-9a-fA-F]))""")
_SIGNS = re.compile(rf":(?://|\\/)|pass|pwd|(?m:{_PGPASS.pattern})", re.IGNORECASE)
"""What stands in every text that any of the others match."""
_WORDS = {
    "hostaddr": "host",
    "hostname": "host",
    "server": "host",
    "database": "dbname",
    "db": "dbname",
    "username": "user",
    "userid": "user",
    "uid": "user",
    "passwd": "password",
    "pwd": "password",
}


def may_have_connections(block: str) -> bool:
    """Whether lines of the block are worth looking at one by one."""
    return _SIGNS.search(block) is not None


def find_connections(text: str, line: int, *, pgpass: bool = False) -> Iterator[Found]:
    """What connects in one line; `pgpass` where the file's name says that its lines are those of a password file."""
    for match in _URL.finditer(text):
        found = _url(match[0], line)
        if found is not None:
            yield found if _is_whole(text, match) else replace(found, target=Target())
    keys = _keys(_URL.sub(" ", text))
    if keys.get("password"):
        # A URL beside them, as in an element of XML.
        for match in _URL.finditer(text):
            if (place := url_place(match[0])) is not None:
                keys = {"host": place["host"], "port": place["port"], "dbname": place["database"], **keys}
                keys = {key: value for key, value in keys.items() if value}
    if keys.get("password") and len(keys) > 1 and not {"host", "user", "dbname"}.isdisjoint(keys):
        yield Found(
            line=line,
            what="connection string",
            power=Power.DATABASE,
            secret=keys["password"],
            target=target(keys.get("host", ""), keys.get("port", ""), keys.get("dbname", ""), keys.get("user", "")),
            certain=bool({"dbname", "port"} & set(keys)) or {"host", "user"} <= set(keys),
        )
    yield from _pgpass(text, line, certain=pgpass)
    for match in _ROLE.finditer(text):
        if secret := literal(match[4] or match[2].replace("''", "'")):
            role = match[1].strip('"').replace('""', '"')
            yield Found(line=line, what="password in SQL", power=Power.DATABASE, secret=secret, target=Target(user=role))
    for match in _MAPPING.finditer(text):
        if secret := literal(match[2].replace("''", "'")):
            user = _MAPPED_USER.search(text)
            role = user[1].replace("''", "'") if user is not None else ""
            yield Found(line=line, what="password in SQL", power=Power.DATABASE, secret=secret, target=Target(user=role))


def without_escapes(text: str) -> str:
    """A line of JSON as what it says: `postgres:\\/\\/`, `\\"`, `\\u0026`."""
    return _ESCAPED.sub(lambda match: match[1] or chr(int(match[2], 16)), text)


def url_place(text: str) -> dict[str, str] | None:
    """Where a URL without a password leads, by libpq's names; None where it is no PostgreSQL URL."""
    match = _URL.fullmatch(text)
    if match is None or "@" in text or "://" not in text:
        return None
    authority, _, database = text.split("://", 1)[1].partition("?")[0].partition("/")
    places = [_PLACE.fullmatch(one) for one in authority.split(",")]
    if any(place is None for place in places):
        return None
    return {
        "host": ",".join(place[1].strip("[]") for place in places if place is not None),
        "port": ",".join(place[2] or "" for place in places if place is not None),
        "database": database,
    }


def _is_whole(text: str, url: re.Match[str]) -> bool:
    """Whether the URL ends where it was taken to: else what looks like its host may be a part of a password."""
    end, before = url.end(), text[url.start() - 1 : url.start()]
    if (
        before
        and before in "\"'`"
        and text[end : end + 1] == before
        and text[end + 1 : end + 2] in {"", ",", " ", ")", "]", "}", ";"}
    ):
        return True
    return _GOES_ON.match(text, end) is None


def target(host: str, port: str, database: str, user: str) -> Target:
    """Where the parts lead. What is only the name of a part, such as ${DB_HOST}, is not known."""
    ports = tuple(int(one) if one.isascii() and one.isdigit() and len(one) < 6 else None for one in literal(port).split(","))
    return Target(
        hosts=tuple(one for one in literal(host).split(",") if one), ports=ports, database=literal(database), user=literal(user)
    )


def _url(text: str, line: int) -> Found | None:
    """A URL with a password in it.

    Passwords with unquoted signs are common: everything before the last @ belongs to the user, so that no part of a password is
    ever taken for a host and shown.
    """
    # The JDBC driver takes jdbc:postgresql:database as well.
    rest = (text.split("://", 1)[1] if "://" in text else "/" + text.split(":", 2)[2]).rstrip(".,;:)}")
    user, password = "", ""
    at = rest.rfind("@")
    query = _QUERY.search(rest)
    if query is not None and query.start() < at:
        earlier = rest.rfind("@", 0, query.start())
        at = earlier if earlier >= 0 or ":" not in rest[: query.start()].split("/")[0] else at
    if at >= 0:
        user, _, password = rest[:at].partition(":")
        rest = rest[at + 1 :]
    place, _, parameters = rest.partition("?")
    authority, _, database = place.partition("/")
    given = dict(parse_qsl(parameters))
    hosts, ports = [], []
    for one in authority.split(","):
        match = _PLACE.fullmatch(one)
        if match is None and at >= 0:
            match = _PLACE_NAMED.fullmatch(one)
        if match is None:
            # No host and port: whatever it is, it may be a part of a password.
            return Found(
                line=line, what="PostgreSQL URL", power=Power.DATABASE, secret=unquote(password) or text, target=Target()
            )
        hosts.append(unquote(match[1].strip("[]")))
        ports.append(match[2] or "")
    secret = literal(unquote(given.get("password") or password))
    if not secret:
        return None
    return Found(
        line=line,
        what="PostgreSQL URL",
        power=Power.DATABASE,
        secret=secret,
        target=target(
            given.get("host") or given.get("hostaddr") or ",".join(hosts),
            given.get("port") or ",".join(ports),
            given.get("dbname") or unquote(database),
            given.get("user") or unquote(user),
        ),
    )


def _keys(text: str) -> dict[str, str]:
    """The parts of a key=value text, by libpq's names."""
    keys = {}
    for match in _PAIR.finditer(text):
        word = match[1].lower().replace(" ", "")
        value = next(group for group in match.groups()[1:] if group is not None)
        keys[_WORDS.get(word, word)] = re.sub(r"\\(.)", r"\1", value)
    keys["password"] = literal(keys.get("password", ""))
    return {key: value for key, value in keys.items() if value}


def _pgpass(text: str, line: int, *, certain: bool) -> Iterator[Found]:
    match = _PGPASS.match(text)
    if match is None or (not certain and (match[6] is not None or not (match[3] == "*" or match[3][0].isalpha()))):
        return
    host, port, database, user, password = (re.sub(r"\\(.)", r"\1", part) for part in match.groups()[:5])
    if secret := literal(password):
        yield Found(
            line=line,
            what="password file",
            power=Power.DATABASE,
            secret=secret,
            target=target(host, port, "" if database == "*" else database, "" if user == "*" else user),
            certain=certain or port in {"*", "5432"},
        )
