"""Whether a protected server takes connections: what pg_isready asks, which needs no password and leaves no session."""

from __future__ import annotations

from psycopg import pq
from psycopg.conninfo import make_conninfo

from dbshield.config import EnvironmentConfig

CONNECT_TIMEOUT = 2
"""Seconds; libpq knows no less."""


def answers(environment: EnvironmentConfig) -> bool:
    """Whether the server of an environment says that it takes connections. Never raises."""
    server = environment.server
    where = make_conninfo(
        host=server.host,
        port=server.port,
        user=server.user,
        dbname=environment.databases[0],
        sslmode=server.sslmode,
        sslrootcert=server.sslrootcert or None,
        connect_timeout=CONNECT_TIMEOUT,
    )
    return pq.PGconn.ping(where.encode()) == pq.Ping.OK
