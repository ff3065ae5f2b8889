"""libpq connection strings, URL or key=value, read by libpq itself.

Source: PostgreSQL manual, "Connection Strings". A text is never repeated in an error, since it may hold a password.
"""

from __future__ import annotations

import ipaddress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbshield.model import Upstream

SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
UPSTREAM_KEYS = ("host", "port", "user", "password", "dbname", "sslmode", "sslrootcert")
"""What the proxy honours of a connection string; any other key would be silently without effect, so it is refused."""

DEFAULT_PORT = 5432


def parse(text: str) -> dict[str, str]:
    """The keys that the text gives. Raises ValueError."""
    try:
        return {key: str(value) for key, value in conninfo_to_dict(text).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq's message quotes the text, password included.
        raise ValueError("is no connection string that libpq can read; write postgresql://USER@HOST:PORT/DATABASE") from None


def to_upstream(text: str) -> Upstream:
    """The server that the text names, without its password. Raises ValueError that says what is missing or not understood."""
    keys = parse(text)
    for key in keys:
        if key not in UPSTREAM_KEYS:
            raise ValueError(f"has the parameter {key}, which the proxy does not use; it knows {', '.join(UPSTREAM_KEYS)}")
    for key, example in (
        ("host", "a name, an address or a socket's folder"),
        ("user", "the role that the proxy logs in with"),
        ("dbname", ""),
    ):
        if not keys.get(key):
            raise ValueError(
                f"names no {key}" + (f" ({example})" if example else "") + "; write postgresql://USER@HOST:PORT/DATABASE"
            )
    if "," in keys["host"] or "," in keys.get("port", ""):
        raise ValueError("names several hosts; an environment is one server (put a load balancer's or a failover name there)")
    port = keys.get("port") or str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("has a port that is no number from 1 to 65535")
    sslmode = keys.get("sslmode", "prefer")
    if sslmode not in SSL_MODES:
        raise ValueError(f"has an unknown sslmode; one of {', '.join(SSL_MODES)}")
    return Upstream(
        host=keys["host"], port=int(port), user=keys["user"], sslmode=sslmode, sslrootcert=keys.get("sslrootcert", "")
    )


def database(text: str) -> str:
    return parse(text).get("dbname", "")


def password(text: str) -> str | None:
    """The password that stands in the text in clear, if one does."""
    return parse(text).get("password") if text else None


def with_password(text: str, secret: str | None) -> str:
    """The same connection in key=value form, with the password put in."""
    return make_conninfo(text, password=secret) if secret is not None else make_conninfo(text)


def with_database(text: str, database: str) -> str:
    """The same connection in key=value form, to another database of the server."""
    return make_conninfo(text, dbname=database)


def masked(text: str) -> str:
    """The same connection in key=value form, fit to be shown."""
    return make_conninfo(text, password="********") if password(text) is not None else text  # noqa: S106


def is_local(server: Upstream) -> bool:
    """True where no network lies between: a Unix socket or a loopback address."""
    if server.is_socket or server.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(server.host).is_loopback
    except ValueError:
        return False
