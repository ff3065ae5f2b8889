"""What stands before a login: encryption asked for in every way, and clients that say nothing, half or nonsense."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

import psutil
import pytest
from support.raw import RawClient, client_context, raw_client, raw_session
from support.shield import Shield
from support.waiting import until

from dbshield.wire.backend import NegotiateProtocolVersion, ReadyForQuery
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import GSSENCRequest, SSLRequest, StartupMessage

LINGER_NONE = struct.pack("ii", 1, 0)
"""SO_LINGER: close() sends a reset."""


def descriptors(shield: Shield) -> int:
    """Open files of the proxy and its workers."""
    assert shield._process is not None
    proxy = psutil.Process(shield._process.pid)
    return sum(process.num_fds() for process in [proxy, *proxy.children(recursive=True)])


def works(shield: Shield) -> bool:
    with shield.connect("read") as conn:
        return conn.execute("select 1").fetchone() == (1,)


def received(sock: socket.socket) -> bytes:
    """All that the peer says before it closes; a TimeoutError when it does not."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(1 << 16):
            data += more
    return data


def test_bytes_behind_an_sslrequest_close_the_connection(gate: Shield) -> None:
    """Trap 1, CVE-2021-3935: whoever sits between could have put them there."""
    with raw_client(gate) as client:
        client.send(SSLRequest(), StartupMessage(parameters=(("user", "write.test"),)))
        assert received(client.sock) == b""


def test_gssencrequest_and_then_sslrequest(gate: Shield) -> None:
    """Trap 1."""
    with raw_client(gate) as client:
        client.send(GSSENCRequest())
        assert client.sock.recv(1) == b"N"
        client.send(SSLRequest())
        assert client.sock.recv(1) == b"S"
        with client_context(gate).wrap_socket(client.sock, server_hostname="localhost") as secured:
            parts = gate.parameters("read")
            heard = RawClient(secured).log_in(parts["user"], parts["password"], parts["dbname"])
            assert isinstance(heard[-1], ReadyForQuery)


@pytest.mark.parametrize("request_again", [SSLRequest(), GSSENCRequest()], ids=["ssl", "gss"])
def test_a_second_request_inside_tls(gate: Shield, request_again: SSLRequest | GSSENCRequest) -> None:
    """Trap 1."""
    with raw_client(gate) as client:
        client.send(SSLRequest())
        assert client.sock.recv(1) == b"S"
        with client_context(gate).wrap_socket(client.sock, server_hostname="localhost") as secured:
            inside = RawClient(secured)
            inside.send(request_again)
            [error] = inside.errors()
            assert (error.severity, len(error.sqlstate)) == ("FATAL", 5)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_direct_tls_wants_its_alpn(gate: Shield, alpn: tuple[str, ...]) -> None:
    """Trap 1."""
    heard: object = None
    with (
        raw_client(gate) as client,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        client_context(gate, alpn).wrap_socket(client.sock, server_hostname="localhost") as secured,
    ):
        raw = RawClient(secured)
        raw.send(StartupMessage(parameters=(("user", "write.test"), ("database", gate.database))))
        heard = raw.receive()
    assert heard is None


def test_direct_tls_with_its_alpn(gate: Shield) -> None:
    context = client_context(gate, ["postgresql"])
    with raw_client(gate) as client, context.wrap_socket(client.sock, server_hostname="localhost") as secured:
        parts = gate.parameters("read")
        heard = RawClient(secured).log_in(parts["user"], parts["password"], parts["dbname"])
        assert isinstance(heard[-1], ReadyForQuery)


@pytest.mark.parametrize("protocol", [(3, 2), (3, 9999)])
def test_newer_protocols_are_negotiated_once(gate: Shield, protocol: tuple[int, int]) -> None:
    """Trap 2: longer cancel keys from 3.2 on."""
    with raw_client(gate) as client:
        parts = gate.parameters("read")
        client.send(StartupMessage(protocol=protocol, parameters=(("user", parts["user"]),)))
        first = client.receive()
        assert isinstance(first, NegotiateProtocolVersion) == (protocol > (3, 2))
    with raw_client(gate) as client:
        client.log_in(parts["user"], parts["password"], parts["dbname"], protocol=(3, 2))
        assert len(client.key[1]) == 32
    with raw_session(gate, "read") as client:
        assert len(client.key[1]) == 4


STOPPED = {
    "nothing": b"",
    "a byte": b"\0",
    "half a startup packet": b"\0\0\0\x20\0\3\0\0user\0",
    "half an SSLRequest": b"\0\0\0\x08\x04\xd2\x16",
    "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
}


def test_whoever_does_not_go_on_is_sent_away(gate: Shield) -> None:
    """login_timeout ends it, and nothing of it stays open. All at once: each of them takes that long."""
    before = descriptors(gate)
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(raw_client(gate)) for name in STOPPED}
        for name, data in STOPPED.items():
            clients[name].send(data)
        # Half a handshake after an SSLRequest.
        shaking = clients["half a handshake"] = stack.enter_context(raw_client(gate))
        shaking.send(SSLRequest())
        assert shaking.sock.recv(1) == b"S"
        shaking.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        # A login that stops before its proof is told why.
        told = stack.enter_context(raw_client(gate))
        told.send(StartupMessage(parameters=(("user", "write.test"), ("database", gate.database))))
        assert works(gate)
        [error] = told.errors()
        assert (error.severity, error.sqlstate) == ("FATAL", "08006")
        assert {name: b"Z\0\0\0\5" in received(client.sock) for name, client in clients.items()} == dict.fromkeys(clients, False)
    assert until(lambda: descriptors(gate) <= before)
    assert works(gate)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0" * 64, b"\0\0\0\x04\0\3\0\0", b"\0\xff\xff\xff\0\3\0\0"]
)
def test_nonsense_is_closed_at_once(gate: Shield, data: bytes) -> None:
    """Trap 8."""
    with raw_client(gate) as client:
        client.send(data)
        assert b"Z\0\0\0\5" not in received(client.sock)


def test_regression_a_connection_that_is_reset_at_once(gate: Shield) -> None:
    """It is gone before its address can be asked for; the proxy's log must hold no bug (running_shield looks)."""
    before = descriptors(gate)
    for _ in range(200):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            sock.connect(("127.0.0.1", gate.port))
    assert works(gate)
    assert until(lambda: descriptors(gate) <= before)
    assert "Traceback" not in gate.text()
    assert "never retrieved" not in gate.text()


def test_a_flood_of_half_open_logins_does_not_keep_others_out(gate: Shield) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", gate.port), timeout=20))
            sock.sendall(b"\0\0\0\x20")
        assert works(gate)


def test_a_password_in_clear_is_not_what_was_asked_for(gate: Shield) -> None:
    """Trap 4: a malformed answer to SCRAM is one FATAL with a SQLSTATE."""
    with raw_client(gate) as client:
        client.send(StartupMessage(parameters=(("user", "write.test"), ("database", gate.database))))
        client.receive()
        client.send(b"p\0\0\0\x0bsecret\0")
        [error] = client.errors()
        assert isinstance(error, ErrorResponse)
        assert error.severity == "FATAL"
        assert len(error.sqlstate) == 5
