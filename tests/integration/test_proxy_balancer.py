"""Behind a load balancer: agents are told apart by the address that it names, and nobody else is believed.

HAProxy connects from 127.0.0.2, which is the balancers' network here; 127.0.0.1 is anybody.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support import tools
from support.ports import free_port
from support.raw import TIMEOUT, RawClient
from support.shield import Shield
from support.slow import running, slowly
from support.waiting import until

from dbshield.wire.backend import ReadyForQuery
from dbshield.wire.proxy_header import SIGNATURE
from dbshield.wire.startup import SSLRequest

BALANCER, ANYBODY = "127.0.0.2", "127.0.0.1"
CLIENT, CLIENT6 = "10.9.8.7", "2001:db8::7"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
LATER = 30.0
"""Seconds for what is written a moment later, on a machine that does other things as well."""
FAILURES = 3


@pytest.fixture(scope="module")
def behind(gate: Shield) -> Iterator[Shield]:
    """The proxy of other tests with a balancer, for as long as these run."""
    reload(gate, balancers=[f"{BALANCER}/32"], login_failures=FAILURES)
    yield gate
    reload(gate)


def reload(gate: Shield, **changed: Any) -> None:
    before = len(gate.text())
    gate.write_config(**changed)

    def taken() -> bool:
        return {line["worker"] for line in logged(gate, "configuration reloaded", since=before)} == {0, 1}

    def signalled() -> bool:
        """A worker that has only just begun does not hear yet."""
        gate.signal(signal.SIGHUP)
        return until(taken, deadline=2)

    assert until(signalled), gate.text()


def logged(shield: Shield, event: str, *, since: int = 0) -> list[dict[str, Any]]:
    """The lines of the proxy's log about this; the last one may be on its way."""
    lines = shield.text()[since:].splitlines(keepends=True)
    return [line for line in map(json.loads, (line for line in lines if line.endswith("\n"))) if line["event"] == event]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Of HAProxy: clients are who they are, or another one in the header's second or first version."""

    plain: int
    client: int
    client6: int
    log: Path


CONFIG = """
global
    log stdout format raw local0 notice
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend plain
    bind 127.0.0.1:{plain}
    default_backend second
frontend client
    bind 127.0.0.1:{client}
    tcp-request connection set-src ipv4({CLIENT})
    default_backend second
frontend client6
    bind 127.0.0.1:{client6}
    tcp-request connection set-src ipv6({CLIENT6})
    default_backend first
backend second
    server proxy 127.0.0.1:{port} send-proxy-v2 source {BALANCER} check inter 2s fall 1
backend first
    server proxy 127.0.0.1:{port} send-proxy source {BALANCER}
"""


@pytest.fixture(scope="module")
def haproxy(behind: Shield, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("haproxy")
    ports = Ports(plain=free_port(), client=free_port(), client6=free_port(), log=folder / "haproxy.out")
    names = {"plain": ports.plain, "client": ports.client, "client6": ports.client6, "port": behind.port}
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(**names, CLIENT=CLIENT, CLIENT6=CLIENT6, BALANCER=BALANCER))
    with ports.log.open("wb") as log:
        process = subprocess.Popen(
            [str(tools.find("haproxy")), "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        assert until(lambda: process.poll() is not None or _listens(ports.client6)), ports.log.read_text()
        yield ports
        assert process.poll() is None, ports.log.read_text()
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


_TOKENS: dict[str, tuple[str, str]] = {}


def token_of(shield: Shield, network: str) -> tuple[str, str]:
    """The connection string, straight to the proxy, and the id of a token for this network alone. One for each network, since the
    command takes a second."""
    if network not in _TOKENS:
        made = json.loads(
            shield.cli("token", "issue", "read", "--environment", "test", "--ttl", "1d", "--json", "--network", network)
        )
        _TOKENS[network] = shield.dsn("read", password=conninfo_to_dict(made["dsn"])["password"]), made["token_id"]
    return _TOKENS[network]


def audited(shield: Shield, event: str, **fields: str) -> list[dict[str, Any]]:
    lines = (shield.folder / "state" / "audit.jsonl").read_text(encoding="ascii").splitlines(keepends=True)
    # The last one may be on its way.
    found = [entry for entry in map(json.loads, (line for line in lines if line.endswith("\n"))) if entry["event"] == event]
    return [entry for entry in found if all(entry.get(name) == value for name, value in fields.items())]


@contextlib.contextmanager
def raw(shield: Shield, source: str) -> Iterator[RawClient]:
    """A connection from this address of the machine's."""
    with socket.socket() as sock:
        sock.bind((source, 0))
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(("127.0.0.1", shield.port))
        yield RawClient(sock)


def header(address: str) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 4242 6432\r\n".encode()


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize(("way", "network", "name"), [("client", "10.9.8.0/24", CLIENT), ("client6", "2001:db8::/32", CLIENT6)])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_token_of_a_network_works_from_there_alone(
    behind: Shield, haproxy: Ports, way: str, network: str, name: str, *, tls: bool
) -> None:
    dsn, token = token_of(behind, network)
    dsn = behind.dsn("read", tls=tls, password=conninfo_to_dict(dsn)["password"])
    with psycopg.connect(make_conninfo(dsn, port=getattr(haproxy, way)), autocommit=True) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert until(lambda: audited(behind, "connected", token=token), deadline=LATER)
    shown = f"[{name}]:" if ":" in name else f"{name}:"
    assert all(entry["client"].startswith(shown) for entry in audited(behind, "connected", token=token))
    with pytest.raises(psycopg.OperationalError, match=f"token {token} may not be used from 127.0.0.1"):
        psycopg.connect(make_conninfo(dsn, port=haproxy.plain))
    assert until(lambda: audited(behind, "refused", token=token), deadline=LATER)
    assert audited(behind, "refused", token=token)[-1]["client"].startswith("127.0.0.1:")


@pytest.mark.needs("haproxy")
def test_a_token_is_last_used_from_where_the_client_is(behind: Shield, haproxy: Ports) -> None:
    dsn, token = token_of(behind, "10.9.8.0/24")
    psycopg.connect(make_conninfo(dsn, port=haproxy.client)).close()

    def used_from() -> object:
        with psycopg.connect(behind.server.dsn(behind.control)) as connection:
            return connection.execute("select used_from from dbshield.token_uses where token = %s", [token]).fetchone()

    assert until(lambda: used_from() == (CLIENT,), deadline=LATER), used_from()


@pytest.mark.needs("haproxy")
def test_a_cancel_request_comes_through_too(behind: Shield, haproxy: Ports) -> None:
    with psycopg.connect(behind.dsn("read", port=haproxy.client), autocommit=True) as connection:
        query = slowly(connection)
        assert until(lambda: running(behind) == 1)
        connection.cancel_safe(timeout=TIMEOUT)
        assert isinstance(query.error(), errors.QueryCanceled)


@pytest.mark.needs("haproxy")
def test_health_checks_are_no_logins_that_failed(behind: Shield, haproxy: Ports) -> None:
    """HAProxy's own come with LOCAL and end at once; it finds the proxy there, and nobody's login is counted."""

    def refused() -> list[str]:
        """Why connections of the balancer's were, but for those that other tests make."""
        reasons = [line["why"] for line in logged(behind, "login failed") if BALANCER in line["client"]]
        return [why for why in reasons if not why.startswith("token ") and "from an address in proxy.balancers" not in why]

    with raw(behind, BALANCER) as check:
        check.send(LOCAL)
        check.sock.shutdown(socket.SHUT_WR)
        assert check.receive() is None
    assert until(lambda: "succeeded" in haproxy.log.read_text()), haproxy.log.read_text()
    psycopg.connect(behind.dsn("read", port=haproxy.plain)).close()
    assert "DOWN" not in haproxy.log.read_text()
    assert refused() == []


def logged_in(client: RawClient, dsn: str) -> str:
    """The error that a login ends with; empty where it does not."""
    parts = conninfo_to_dict(dsn)
    heard = client.log_in(str(parts["user"]), str(parts["password"]), str(parts["dbname"]))
    return "" if isinstance(heard[-1], ReadyForQuery) else str(heard[-1])


def test_a_header_may_come_byte_by_byte(behind: Shield) -> None:
    dsn, _ = token_of(behind, "10.9.8.0/24")
    with raw(behind, BALANCER) as client:
        for byte in header(CLIENT):
            client.send(bytes((byte,)))
        assert logged_in(client, dsn) == ""


@pytest.mark.parametrize("head", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["local", "unknown"])
def test_a_client_that_nobody_names_is_in_no_network(behind: Shield, head: bytes) -> None:
    """Not in the balancer's own either."""
    dsn, token = token_of(behind, f"{BALANCER}/32")
    with raw(behind, BALANCER) as client:
        client.send(head)
        assert f"token {token} may not be used from an unknown address behind {BALANCER}" in logged_in(client, dsn)
    with raw(behind, BALANCER) as client:
        client.send(head)
        assert logged_in(client, behind.dsn("read")) == ""


REFUSED = {
    "no header": (SSLRequest().encode(), "does not begin with a PROXY header"),
    "an endless line": (b"PROXY TCP4 ".ljust(300, b"1"), "at most 107 bytes"),
    "an absurd length": (SIGNATURE + b"\x21\x11\xff\xff", "announces 65535 bytes"),
    "an unknown family": (SIGNATURE + b"\x21\x51\x00\x0c" + bytes(12), "unknown family and transport 0x51"),
    "nonsense": (b"PROXY TCP4 10.9.8.7 nowhere 1 1\r\n", "'nowhere' is no address"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_a_balancer_that_sends_no_proper_header_is_refused_by_name(behind: Shield, data: bytes, why: str) -> None:
    with raw(behind, BALANCER) as client:
        client.send(data)
        assert client.receive() is None

    def told() -> bool:
        reasons = [entry["reason"] for entry in audited(behind, "refused") if entry["client"].startswith(f"{BALANCER}:")]
        return any(why in reason and "from an address in proxy.balancers" in reason for reason in reasons)

    assert until(told, deadline=LATER), behind.text()
    assert why in behind.text()


@pytest.mark.parametrize("head", [header(CLIENT), SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12)], ids=["v1", "v2"])
def test_nobody_else_is_believed(behind: Shield, head: bytes) -> None:
    """Whoever reaches the proxy by another way than the balancer names himself as he likes."""
    refused = "a PROXY header from an address that is not in proxy.balancers"
    before = behind.text().count(refused)
    with raw(behind, ANYBODY) as client:
        client.send(head)
        assert client.receive() is None
    assert until(lambda: behind.text().count(refused) > before, deadline=LATER), behind.text()
    with raw(behind, ANYBODY) as client:
        assert logged_in(client, behind.dsn("read")) == ""


@pytest.mark.needs("haproxy")
def test_who_guesses_is_slowed_down_and_not_his_neighbour(behind: Shield, haproxy: Ports) -> None:
    """Both come through one balancer. The proxy's two workers count apart."""

    def attempt(port: int) -> str:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(behind.dsn("read", port=port, user="nobody.test", password="dbs_test_x_guessed"))
        return str(caught.value)

    assert until(lambda: "too many wrong tokens for this agent from this address" in attempt(haproxy.client), deadline=LATER)
    assert "password authentication failed" in attempt(haproxy.plain)
