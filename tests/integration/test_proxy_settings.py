"""What an operator sets and does: limits, timeouts, reload, drain, where it listens, the audit, the control database."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql
from support import servers
from support.pki import Authority
from support.raw import client_context, raw_client, raw_session
from support.servers import Server
from support.shield import Shield, running_shield
from support.slow import locked
from support.waiting import until

from dbshield.wire.backend import CopyInResponse, ReadyForQuery
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, Execute, Parse, Query, Sync
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import SSLRequest, StartupMessage


@pytest.fixture(scope="module")
def lone(server18: Server, worker_id: str) -> Iterator[Shield]:
    """A proxy of one worker, on TCP and a Unix socket."""
    folder = servers.here() / f"lone-{worker_id}"
    port = servers.here() / f"lone-{worker_id}-sockets"
    with running_shield(server18, f"lone_{worker_id}", folder, login_timeout=10.0, drain_timeout=5.0) as shield:
        shield.settings["listen"] = [f"127.0.0.1:{shield.port}", f"unix:{port}:{shield.port}"]
        restart(shield)
        yield shield


@pytest.fixture
def proxy(lone: Shield) -> Iterator[Shield]:
    """The proxy with its usual settings before and after the test, running or not in between."""
    usual = dict(lone.settings)
    yield lone
    lone.settings = usual
    restart(lone)


def restart(shield: Shield, extra: str = "", **changed: object) -> None:
    """With other settings of [proxy], and `extra` at the end of the file."""
    shield.stop()
    shield.write_config(None, **changed)
    shield.config.write_text(shield.config.read_text() + extra)
    shield.start()
    assert extra or until(lambda: works(shield))


def reload(shield: Shield, **changed: object) -> None:
    """SIGHUP, and wait until it has been taken."""
    before = shield.text().count("configuration reloaded")
    shield.write_config(None, **changed)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before)


def refused(shield: Shield, agent: str = "read") -> ErrorResponse:
    """The one error that ends a login."""
    parts = shield.parameters(agent)
    with raw_client(shield) as client:
        heard = client.log_in(parts["user"], parts["password"], parts["dbname"])
    [error] = [message for message in heard if isinstance(message, ErrorResponse)]
    assert error.severity == "FATAL"
    assert error.hint
    return error


class TestLimits:
    def test_of_an_agent(self, proxy: Shield) -> None:
        """Changed while sessions stand."""
        with proxy.connect("read") as first:
            reload(proxy, max_connections_per_agent=1)
            assert refused(proxy).sqlstate == "53300"
            with proxy.connect("write") as other:
                assert other.execute("select 1").fetchone() == (1,)
            assert first.execute("select 1").fetchone() == (1,)
        assert until(lambda: works(proxy))

    def test_of_all(self, proxy: Shield) -> None:
        with proxy.connect("read"):
            reload(proxy, max_connections=1)
            assert refused(proxy, "write").sqlstate == "53300"
        assert until(lambda: works(proxy))

    def test_of_a_message(self, proxy: Shield) -> None:
        reload(proxy, max_message_bytes=1 << 16)
        with raw_session(proxy, "write") as client:
            client.send(b"d" + (1 << 20).to_bytes(4, "big"))
            assert [error.sqlstate for error in client.errors()] == ["08P01"]

    def test_of_a_statement(self, proxy: Shield) -> None:
        reload(proxy, max_statement_bytes=1 << 10)
        with raw_session(proxy, "write") as client:
            client.send(Query(query=b"select '" + b"x" * 200_000 + b"'"))
            assert [m.sqlstate for m in client.until_ready() if isinstance(m, ErrorResponse)] == ["42501"]
            client.send(Query(query=b"select 1"))
            assert not [m for m in client.until_ready() if isinstance(m, ErrorResponse)]


def works(shield: Shield) -> bool:
    with contextlib.suppress(psycopg.OperationalError), shield.connect("read", connect_timeout=10) as conn:
        return conn.execute("select 1").fetchone() == (1,)
    return False


def test_a_session_that_idles_too_long_is_told_so(proxy: Shield) -> None:
    restart(proxy, idle_timeout=1.0)
    with raw_session(proxy, "read") as busy:
        with locked(proxy):
            busy.send(Query(query=b"select count(*) from shop.settings"))
            # It begins when the busy one has said its last word, so that one is silent for as long at the least.
            with raw_session(proxy, "read") as idle:
                assert [error.sqlstate for error in idle.errors()] == ["57P05"]
        assert not [m for m in busy.until_ready() if isinstance(m, ErrorResponse)]
    assert until(lambda: proxy.backends() == 0)


def test_reload_says_what_has_to_wait_for_a_start(proxy: Shield) -> None:
    reload(proxy, idle_timeout=3600.0, drain_timeout=9.0)
    told = [line for line in proxy.text().splitlines() if "at the next start" in line]
    assert len(told) == 1
    assert "proxy.idle_timeout" in told[0]
    assert "drain" not in told[0]


class TestDrain:
    def test_what_does_not_end_in_time_is_ended(self, proxy: Shield) -> None:
        reload(proxy, drain_timeout=0.5)
        with raw_session(proxy, "write") as client:
            client.send(Query(query=b"begin"), Query(query=b"update shop.products set stock = 1 where id = 1"))
            client.until_ready()
            client.until_ready()
            proxy.signal(signal.SIGTERM)
            assert [error.sqlstate for error in client.errors()] == ["57P01"]
        assert proxy.wait() == 0
        assert until(lambda: proxy.backends() == 0)

    def test_regression_a_copy_of_the_extended_protocol_may_finish(self, proxy: Shield) -> None:
        """Trap 5: its Sync was swallowed, so it looks as if nothing were going on."""
        with raw_session(proxy, "write") as client:
            client.send(Parse(query=b"copy shop.settings from stdin"), Bind(), Execute(), Sync())
            while not isinstance(client.receive(), CopyInResponse):
                pass
            proxy.signal(signal.SIGTERM)
            assert until(lambda: not proxy.listens())
            client.send(CopyData(data=b"drained\tvalue\n"), CopyDone(), Sync())
            assert isinstance(client.until_ready()[-1], ReadyForQuery)
            assert [error.sqlstate for error in client.errors()] == ["57P01"]
        assert proxy.wait() == 0
        with proxy.server.connect(proxy.database) as admin:
            assert admin.execute("delete from shop.settings where key = 'drained'").rowcount == 1

    def test_logins_on_their_way_are_ended(self, proxy: Shield) -> None:
        with raw_client(proxy) as silent, raw_client(proxy) as halfway, proxy.connect("read") as idle:
            halfway.send(StartupMessage(parameters=(("user", "write.test"), ("database", proxy.database))))
            halfway.receive()
            proxy.signal(signal.SIGTERM)
            assert silent.receive() is None
            assert all(error.severity == "FATAL" for error in halfway.errors())
            assert proxy.wait() == 0
            with pytest.raises(psycopg.OperationalError):
                idle.execute("select 1")


def test_reload_takes_another_certificate(proxy: Shield, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.server("other")
    with proxy.connect("read", tls=True) as first:
        reload(proxy, tls_certificate=str(made.certificate), tls_key=str(made.key))
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            proxy.connect("read", tls=True)
        proxy.connect("read", tls=True, sslrootcert=str(authority.ca)).close()
        assert first.execute("select 1").fetchone() == (1,)


def test_reload_of_a_certificate_that_cannot_be_used_changes_nothing(proxy: Shield, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    proxy.write_config(tls_certificate=str(broken))
    proxy.signal(signal.SIGHUP)
    assert until(lambda: "was not reloaded" in proxy.text())
    proxy.connect("read", tls=True).close()


class TestUnixSocket:
    def folder(self, shield: Shield) -> str:
        return shield.settings["listen"][1].removeprefix("unix:").rpartition(":")[0]  # type: ignore[no-any-return]

    def test_it_works_and_everybody_may_knock(self, lone: Shield) -> None:
        """The token decides, as on TCP."""
        folder = self.folder(lone)
        with lone.connect("read", host=folder) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        assert stat.S_IMODE(os.stat(f"{folder}/.s.PGSQL.{lone.port}").st_mode) == 0o777
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            lone.connect("read", host=folder, password="dbs_test_none_nothing")

    def test_it_needs_no_tls_where_tls_is_required(self, proxy: Shield) -> None:
        reload(proxy, tls_required=True)
        with pytest.raises(psycopg.OperationalError, match="without TLS"):
            proxy.connect("read")
        proxy.connect("read", host=self.folder(proxy)).close()
        proxy.connect("read", tls=True).close()

    def test_it_is_gone_with_the_proxy_and_a_stale_one_is_replaced(self, proxy: Shield) -> None:
        path = Path(f"{self.folder(proxy)}/.s.PGSQL.{proxy.port}")
        assert proxy._process is not None
        proxy._process.kill()
        proxy.wait()
        assert path.exists()
        proxy.start()
        # It listens on TCP first, which is all that a start waits for.
        assert until(lambda: works(proxy))
        proxy.connect("read", host=str(path.parent)).close()
        proxy.stop()
        assert not path.exists()


def test_a_second_proxy_on_the_same_address_does_not_start(lone: Shield) -> None:
    with pytest.raises(AssertionError, match="cannot listen on"):
        lone.cli("proxy")
    assert works(lone)


def test_without_a_certificate_tls_is_declined(proxy: Shield) -> None:
    restart(proxy, tls_certificate="", tls_key="")
    with raw_client(proxy) as client:
        client.send(SSLRequest())
        assert client.sock.recv(1) == b"N"
        parts = proxy.parameters("read")
        assert isinstance(client.log_in(parts["user"], parts["password"], parts["dbname"])[-1], ReadyForQuery)
    with raw_client(proxy) as client, pytest.raises((ConnectionError, OSError)):
        client_context(proxy, ["postgresql"]).wrap_socket(client.sock, server_hostname="localhost")


def test_no_session_begins_on_a_full_disk(proxy: Shield) -> None:
    """Not even the first one."""
    restart(proxy, '[audit]\nfile = "/dev/full"\n')
    for _ in range(2):
        error = refused(proxy)
        assert error.sqlstate == "57P03"
        assert "audit" in error.message
    assert until(lambda: proxy.backends() == 0)
    assert "audit.not_written" in proxy.text()


def test_without_the_control_database_nobody_gets_in_and_sessions_go_on(proxy: Shield) -> None:
    """Where no login is to be let in from memory."""
    proxy.stop()
    proxy.write_config()
    proxy.config.write_text(proxy.config.read_text().replace("[control]\n", "[control]\nlogins_from_memory_minutes = 0\n"))
    proxy.start()
    control = sql.Identifier(proxy.control)
    with proxy.connect("read") as standing, proxy.server.connect() as admin:
        admin.execute(sql.SQL("alter database {} with allow_connections false").format(control))
        try:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [proxy.control])
            assert until(lambda: not works(proxy))
            parts = proxy.parameters("read")
            with raw_client(proxy) as client:
                client.send(StartupMessage(parameters=(("user", parts["user"]), ("database", parts["dbname"]))))
                [error] = client.errors()
            assert (error.severity, error.sqlstate) == ("FATAL", "57P03")
            assert standing.execute("select 1").fetchone() == (1,)
        finally:
            admin.execute(sql.SQL("alter database {} with allow_connections true").format(control))
        assert until(lambda: works(proxy))


def test_no_secret_is_shown_anywhere_after_failures(lone: Shield) -> None:
    """Tokens, role passwords and what SCRAM says: not in the log, the audit, or a list of processes."""
    for agent in ("read", "write", "migrate"):
        with raw_session(lone, agent) as client:
            client.send(b"?\0\0\0\4")
            assert client.errors()
    token = lone.parameters("write")["password"]
    spoiled = token[:-1] + ("a" if token[-1] != "a" else "b")
    for password in (spoiled, "", token + "x"):
        with pytest.raises(psycopg.OperationalError):
            lone.connect("write", password=password)
    with raw_client(lone) as client:
        client.send(StartupMessage(parameters=(("user", token), ("database", token), ("options", f"-c {token}=1"))))
        assert client.errors()
    with raw_client(lone) as client:
        assert client.log_in(token, token, token)
    with raw_client(lone) as client:
        client.send(StartupMessage(parameters=(("user", "write.test"),)))
        client.receive()
        client.send(b"p" + (4 + len(token)).to_bytes(4, "big") + token.encode())
        assert client.errors()
    with lone.connect("write") as conn, pytest.raises(psycopg.Error):
        conn.execute(f"delete from shop.orders where '{token}' = '{token}'")
    audit = lone.folder / "state" / "audit.jsonl"
    assert until(lambda: '"refused"' in audit.read_text() and '"statement"' in audit.read_text())
    assert lone._process is not None
    process = psutil.Process(lone._process.pid)
    commands = [" ".join(one.cmdline()) for one in (process, *process.children(recursive=True))]
    written = "\n".join([lone.text(), audit.read_text(), *commands])
    parts = [lone.parameters(agent)["password"] for agent in ("read", "write", "migrate")]
    secrets = [part.rpartition("_")[2] for part in parts] + [spoiled.rpartition("_")[2], *lone.server.passwords.values()]
    assert [line for line in written.splitlines() if any(secret in line for secret in secrets)] == []
    assert not [line for line in written.splitlines() if ",p=" in line or ",r=" in line or "SCRAM-SHA-256$" in line]
