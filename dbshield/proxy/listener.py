"""Listening sockets, and the first bytes of a connection: TLS or not, before any transport exists.

The first bytes are read from the bare socket, eight at a time, so that nothing a man in the middle puts behind an SSLRequest
can be taken for what came through TLS (CVE-2021-3935): if anything lies there, the connection is closed.

A load balancer's header comes before all of it. It is demanded from the networks in `proxy.balancers` and believed from nowhere
else: who may write one says who the client is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import assert_never

from dbshield.config import ListenAddress
from dbshield.control.scopes import comes_from
from dbshield.errors import ConfigError, ProtocolError
from dbshield.proxy.client import Client, address_with_port
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.tls import ALPN
from dbshield.session.negotiation import Answer, Negotiation, Proceed, StartTls
from dbshield.wire.proxy_header import FIXED, ProxyHeader, begins_header

BACKLOG = 1024
TLS_RECORD = 0x16
"""The first byte of a ClientHello: a client that speaks TLS at once (PostgreSQL 17, sslnegotiation=direct)."""
HEAD = 8
"""A length and a code: what every startup packet begins with."""
HEADER_SEEN = 4096
"""Bytes that are looked at in one go where a balancer's header is expected; most have some dozens."""


def listen(address: ListenAddress) -> socket.socket:
    """A bound, listening, non-blocking socket. Raises ConfigError when the address cannot be had."""
    try:
        sock = _listen_unix(Path(address.socket_path)) if address.is_socket else _listen_tcp(address)
    except OSError as error:
        raise ConfigError(
            f"proxy.listen: cannot listen on {address}: {error.strerror or error}",
            hint="Stop what listens there, or choose another address.",
        ) from error
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _listen_tcp(address: ListenAddress) -> socket.socket:
    family, kind, proto, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(where)
    return sock


def _listen_unix(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise ConfigError(f"proxy.listen: another server listens on {path}", hint="Stop it, or choose another folder.")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    # The token decides who gets in, as on TCP; who may come near decides the folder (PostgreSQL: unix_socket_permissions).
    path.chmod(0o777)
    return sock


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())


async def _peek(sock: socket.socket, most: int) -> bytes:
    """What is there, without taking it; nothing at the end."""
    await _readable(sock)
    return sock.recv(most, socket.MSG_PEEK)


async def _take(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. Raises ConnectionError when the peer goes away before."""
    data = b""
    while len(data) < count:
        await _readable(sock)
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the client closed the connection")
        data += more
    return data


def _nothing_waits(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def is_local(sock: socket.socket) -> bool:
    """Whether nobody can listen between the peers: a Unix socket, on which no client of PostgreSQL speaks TLS."""
    return sock.family == socket.AF_UNIX


async def announced(sock: socket.socket, peer: Client, balancers: Sequence[str]) -> Client:
    """Who the client is: the peer itself, or whom it names where it comes from one of these networks.

    Raises ProtocolError or ConnectionError.
    """
    if peer.local or not comes_from(peer.source, balancers):
        return peer
    header = ProxyHeader()
    while header.found is None:
        seen = await _peek(sock, HEADER_SEEN)
        if not seen:
            raise ConnectionResetError("the balancer closed the connection")
        try:
            size = header.feed(seen)
        except ProtocolError as error:
            raise ProtocolError(f"from an address in proxy.balancers: {error.message}") from error
        # Just so much is taken as was seen to be the header's.
        sock.recv(size)
    return peer.relaying(header.found)


async def accept(sock: socket.socket, context: ssl.SSLContext | None, inbox: Inbox) -> asyncio.Transport:
    """Negotiate encryption on an accepted socket and hand it to the inbox, with what was read of the startup packet.

    Raises ProtocolError or ConnectionError; the socket is then the caller's to close.
    """
    loop = asyncio.get_running_loop()
    context = None if is_local(sock) else context
    first = await _peek(sock, FIXED)
    if not first:
        raise ConnectionResetError("the client closed the connection")
    if begins_header(first):
        raise ProtocolError("a PROXY header from an address that is not in proxy.balancers", hint="Nobody else's is believed.")
    if first[0] == TLS_RECORD:
        if context is None:
            raise ProtocolError("the client speaks TLS, which this listener does not offer")
        return await _secure(sock, context, inbox, direct=True)
    negotiation = Negotiation(tls_available=context is not None)
    while True:
        head = await _take(sock, HEAD)
        step = negotiation.receive(head)
        match step:
            case Answer(data=data):
                await loop.sock_sendall(sock, data)
            case StartTls(data=data):
                assert context is not None
                if not _nothing_waits(sock):
                    raise ProtocolError("unencrypted data stands behind the SSLRequest")
                await loop.sock_sendall(sock, data)
                return await _secure(sock, context, inbox, direct=False)
            case Proceed():
                inbox.data_received(head)
                transport, _ = await loop.connect_accepted_socket(lambda: inbox, sock)
                return transport
            case never:
                assert_never(never)


async def _secure(sock: socket.socket, context: ssl.SSLContext, inbox: Inbox, *, direct: bool) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.connect_accepted_socket(lambda: inbox, sock, ssl=context)
    except ssl.SSLError as error:
        raise ProtocolError(f"the TLS handshake failed: {error.reason}") from error
    tls = transport.get_extra_info("ssl_object")
    if direct and tls.selected_alpn_protocol() != ALPN:
        transport.abort()
        raise ProtocolError(f"a client of direct TLS must offer the ALPN protocol {ALPN!r}")
    return transport


def peer_name(sock: socket.socket) -> str:
    """Where a connection comes from, for logs: an address with its port, or `[local]` with the peer's user id."""
    if sock.family == socket.AF_UNIX:
        _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return f"[local] uid={uid}"
    host, port = sock.getpeername()[:2]
    return address_with_port(host, port)


def source(sock: socket.socket) -> str:
    """Where a connection comes from, without what differs from one to the next: an address, or `[local] uid=…`."""
    return peer_name(sock) if is_local(sock) else str(sock.getpeername()[0])


def peer_of(sock: socket.socket) -> Client:
    """Who is at the other end of an accepted socket. Raises OSError where nobody is any more."""
    return Client(name=peer_name(sock), source=source(sock), local=is_local(sock))


_CREDENTIALS = Struct("3i")
"""struct ucred (unix(7)): process, user and group id."""
