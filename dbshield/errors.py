"""The few errors that dbshield raises; each carries what its reader can do next.

The base class sits below everything else: any layer may raise one, and the outermost one (the command line, the session)
turns it into an exit code or an ErrorResponse. An exception that is none of these is a bug in dbshield and is treated as
such: the statement or login that met it is stopped.
"""

from __future__ import annotations


class DbshieldError(Exception):
    """Something failed that a person or an agent can act on; `hint` says how."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(DbshieldError):
    """A setting is missing, unknown or not allowed; the message names the file and the key."""


class ProtocolError(DbshieldError):
    """A peer sent bytes that the PostgreSQL protocol does not allow; the connection ends."""

    sqlstate = "08P01"
    """protocol_violation"""


class Refused(DbshieldError):
    """A login, a message or a statement was refused; `sqlstate` is what the client is told."""

    def __init__(self, message: str, *, sqlstate: str = "42501", detail: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        self.detail = detail


class StoreError(DbshieldError):
    """The control database is away, or does not hold what was asked for."""

    sqlstate = "57P03"
    """cannot_connect_now: for a client whose login had to wait for it."""


class ClusterError(DbshieldError):
    """PostgreSQL's binaries are missing or wrong, or a cluster could not be made, started or stopped."""


class BackupError(DbshieldError):
    """A backup was not made, cannot be read, or is not what its manifest says."""


def first_line(error: BaseException) -> str:
    """What an error of a library's says, on one line; the name of its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
