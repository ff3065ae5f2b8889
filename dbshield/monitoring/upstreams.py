"""Whether a protected server takes connections: what pg_isready asks, which needs no password and leaves no session.

Asked by reading the protocol ourselves rather than by libpq: psycopg's ping holds Python's lock until it is over, and one server
that hung made every answer of the endpoint wait, the liveness probe's too.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dbshield.config import EnvironmentConfig
from dbshield.errors import ProtocolError, Refused
from dbshield.model import Upstream
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.upstream import open_transport
from dbshield.wire.backend import ErrorResponse, decode_backend
from dbshield.wire.framing import Frame, FrameReader
from dbshield.wire.frontend import Terminate
from dbshield.wire.startup import StartupMessage

CONNECT_TIMEOUT: Final = 2
"""Seconds for connection, handshake and first answer."""
STARTING: Final = "57P03"
"""cannot_connect_now: it starts, stops or recovers. What else a server refuses, it refuses because it works (as in PQping)."""
AUTHENTICATION: Final = b"R"
AUTHENTICATED: Final = bytes(4)
"""AuthenticationOk: a session begins, and is told to end."""


def answers(environment: EnvironmentConfig) -> bool:
    """Whether the server of an environment says that it takes connections. Never raises."""
    try:
        return asyncio.run(_ask(environment.server, environment.databases[0]))
    except (Refused, ProtocolError, OSError, TimeoutError):
        return False


async def _ask(server: Upstream, database: str) -> bool:
    async with asyncio.timeout(CONNECT_TIMEOUT):
        transport, inbox = await open_transport(server)
        try:
            names = (("user", server.user), ("database", database), ("application_name", "dbshield metrics"))
            transport.write(StartupMessage(parameters=names).encode())
            frame = await _first(inbox)
            if frame.code != AUTHENTICATION:
                said = decode_backend(frame.code, frame.payload)
                return not isinstance(said, ErrorResponse) or said.sqlstate != STARTING
            if frame.payload == AUTHENTICATED:
                transport.write(Terminate().encode())
            return True
        finally:
            transport.close()


async def _first(inbox: Inbox) -> Frame:
    reader = FrameReader()
    while True:
        for frame in reader.feed(await inbox.receive()):
            return frame
