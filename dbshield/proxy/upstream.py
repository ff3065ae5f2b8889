"""The way to the protected server: connect, TLS as `sslmode` says, login, and what is asked before a client may speak.

Every failure becomes a Refused with a SQLSTATE, so that a client gets one clear error and never a hang.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from dbshield.errors import ProtocolError, Refused
from dbshield.model import Upstream
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.tls import channel_binding, upstream_context
from dbshield.session.actions import Failed, Ready, Send
from dbshield.session.upstream import UpstreamLogin
from dbshield.wire.backend import DataRow, ErrorResponse, ReadyForQuery, decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import Query
from dbshield.wire.startup import CancelRequest, SSLRequest

CANNOT_CONNECT = "08001"
"""sqlclient_unable_to_establish_sqlconnection"""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""Seconds (the last one milliseconds) after which the kernel gives a silent server up: about a minute. Source: tcp(7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server connection that is logged in and idle."""

    transport: asyncio.Transport
    inbox: Inbox
    process_id: int
    secret_key: bytes
    parameters: Mapping[str, str]
    notices: tuple[bytes, ...]


def _unreachable(upstream: Upstream, why: object) -> Refused:
    return Refused(
        f"dbshield cannot reach the protected server: {why}",
        sqlstate=CANNOT_CONNECT,
        hint="Nothing was executed. Try again later, or tell whoever runs the server.",
        detail=f"port={upstream.port}",
    )


async def open_transport(upstream: Upstream) -> tuple[asyncio.Transport, Inbox]:
    """Connect, with TLS where `sslmode` asks for it. Raises Refused."""
    loop = asyncio.get_running_loop()
    context = upstream_context(upstream)
    try:
        if upstream.is_socket:
            path = f"{upstream.host}/.s.PGSQL.{upstream.port}"
            transport, inbox = await loop.create_unix_connection(Inbox, path)
        else:
            transport, inbox = await loop.create_connection(Inbox, upstream.host, upstream.port)
            notice_when_gone(transport.get_extra_info("socket"))
    except OSError as error:
        raise _unreachable(upstream, error.strerror or type(error).__name__) from error
    if context is None:
        return transport, inbox
    try:
        return await _start_tls(transport, inbox, upstream, context)
    except (OSError, ssl.SSLError, ProtocolError) as error:
        transport.abort()
        raise _unreachable(upstream, f"TLS failed: {error}") from error
    except BaseException:
        transport.abort()
        raise


def notice_when_gone(sock: socket.socket) -> None:
    """A peer that vanishes without a word must leave neither a client waiting for ever, nor a session with its locks."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, seconds)


async def _start_tls(
    transport: asyncio.Transport, inbox: Inbox, upstream: Upstream, context: ssl.SSLContext
) -> tuple[asyncio.Transport, Inbox]:
    transport.write(SSLRequest().encode())
    match await inbox.receive_byte():
        case b"S":
            secured = await asyncio.get_running_loop().start_tls(transport, inbox, context, server_hostname=upstream.host)
            assert secured is not None
            inbox.transport = secured
            return secured, inbox
        case b"N" if upstream.sslmode in {"prefer", "allow"}:
            return transport, inbox
        case b"N":
            raise ProtocolError(f"the server offers none and sslmode is {upstream.sslmode}")
        case _:
            raise ProtocolError("the server did not answer the SSLRequest")


async def connect(upstream: Upstream, *, database: str, settings: Mapping[str, str]) -> Server:
    """A connection that is logged in as the agent's role. Raises Refused, with the server's own words where it spoke."""
    transport, inbox = await open_transport(upstream)
    try:
        return await _log_in(transport, inbox, upstream, database, settings)
    except ConnectionError as error:
        transport.abort()
        raise _unreachable(upstream, "it closed the connection during the login") from error
    except ProtocolError as error:
        transport.abort()
        raise _unreachable(upstream, error) from error
    except BaseException:
        transport.abort()
        raise


async def _log_in(
    transport: asyncio.Transport, inbox: Inbox, upstream: Upstream, database: str, settings: Mapping[str, str]
) -> Server:
    tls = transport.get_extra_info("ssl_object")
    machine = UpstreamLogin(
        upstream=upstream,
        database=database,
        settings=settings,
        nonce=secrets.token_urlsafe(24),
        encrypted=tls is not None,
        channel_binding=channel_binding(tls),
    )
    transport.write(machine.start())
    while True:
        for action in machine.receive(await inbox.receive()):
            match action:
                case Send(data=data):
                    transport.write(data)
                case Failed(error=error, ours=ours):
                    raise _as_refused(error, ours=ours)
                case Ready():
                    if action.trailing:
                        inbox.data_received(action.trailing)
                    return Server(
                        transport=transport,
                        inbox=inbox,
                        process_id=action.process_id,
                        secret_key=action.secret_key,
                        parameters=action.parameters,
                        notices=action.notices,
                    )
                case never:
                    assert_never(never)


def _as_refused(error: ErrorResponse, *, ours: bool = False) -> Refused:
    """Why there is no session with the server, passed on; the client's own credential had nothing to do with it."""
    return Refused(
        error.message if ours else f"the protected server refused dbshield's login: {error.message}",
        sqlstate=error.sqlstate,
        detail=error.detail,
        hint=error.hint or "Tell whoever runs dbshield: the agent's own token was accepted.",
    )


async def query(server: Server, text: str) -> list[tuple[str | None, ...]]:
    """Ask the idle server something on dbshield's own behalf; the rows in text format. Raises Refused."""
    try:
        return await _query(server, text)
    except ConnectionError as error:
        raise Refused(
            "the protected server closed the connection during the login",
            sqlstate=CANNOT_CONNECT,
            hint="Nothing was executed. Try again, or tell whoever runs the server.",
        ) from error


async def _query(server: Server, text: str) -> list[tuple[str | None, ...]]:
    server.transport.write(Query(query=text.encode()).encode())
    frames = FrameReader()
    rows: list[tuple[str | None, ...]] = []
    failed: ErrorResponse | None = None
    while True:
        for frame in frames.feed(await server.inbox.receive()):
            match decode_backend(frame.code, frame.payload):
                case DataRow(values=values):
                    rows.append(tuple(value if value is None else value.decode() for value in values))
                case ErrorResponse() as error:
                    failed = error
                case ReadyForQuery():
                    if failed is not None:
                        raise _as_refused(failed)
                    return rows
                case _:
                    pass  # RowDescription, CommandComplete and what a server may send at any time


async def cancel(upstream: Upstream, process_id: int, secret_key: bytes) -> None:
    """Ask the server to cancel what that session runs; the server answers by closing. Raises Refused."""
    transport, inbox = await open_transport(upstream)
    try:
        transport.write(CancelRequest(process_id=process_id, secret_key=secret_key).encode())
        while not inbox.lost:
            await inbox.receive()
    except ConnectionError:
        pass
    finally:
        transport.abort()
