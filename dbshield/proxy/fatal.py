"""What a client reads last: why dbshield ends its session."""

from __future__ import annotations

from dbshield.errors import DbshieldError, Refused
from dbshield.wire.backend import ErrorResponse

SERVER_GONE = "08006"
"""connection_failure"""
SHUTTING_DOWN = "57P01"
"""admin_shutdown"""
INTERNAL = "XX000"
"""internal_error"""
SERVER_CLOSED = "the server closed the connection"
"""The reason of a session that its server ended."""


def fatal(error: DbshieldError, *, sqlstate: str = INTERNAL) -> bytes:
    """The FATAL ErrorResponse for an error; always with a SQLSTATE."""
    return ErrorResponse.of(
        "FATAL",
        getattr(error, "sqlstate", sqlstate),
        error.message if error.message.startswith("dbshield") else f"dbshield: {error.message}",
        detail=getattr(error, "detail", ""),
        hint=error.hint,
    ).encode()


def server_gone() -> Refused:
    return Refused(
        "the protected server closed the connection",
        sqlstate=SERVER_GONE,
        hint="What was not committed is rolled back. Reconnect; a statement that was running may or may not have been committed.",
    )


def shutting_down() -> Refused:
    return Refused("dbshield is shutting down", sqlstate=SHUTTING_DOWN, hint="Reconnect.")
