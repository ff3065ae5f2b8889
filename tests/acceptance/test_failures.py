"""When a side goes away: the server, the client, or the proxy itself. One clear error, no hang, nothing left behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import errors
from support import servers
from support.background import Background
from support.shield import Shield, prepared_shield, running_shield, started
from support.slow import SLOW, running, slowly
from support.waiting import until

pytestmark = pytest.mark.one_server(by="module")

DRAINING = 10.0
"""Seconds, half of what a session has to finish: a proxy that took clients for as long as it drains would be seen."""


@pytest.fixture(scope="session")
def spare(server: servers.Server, worker_id: str) -> Iterator[Shield]:
    """A shield that is set up and not started."""
    folder = servers.here() / f"shield-spare-{worker_id}-{server.major}"
    with prepared_shield(server, f"spare_{worker_id}", folder, agents=["read", "write"]) as shield:
        yield shield


@pytest.fixture
def lonely(spare: Shield) -> Iterator[Shield]:
    """A proxy of the test's own, to be drained, reloaded or broken."""
    spare.write_config()
    with started(spare):
        yield spare


@pytest.fixture
def mortal(server: servers.Server, worker_id: str) -> Iterator[Shield]:
    """A proxy whose server may be killed."""
    name = f"mortal-{worker_id}-{server.major}"
    own = servers.start(server.major, name)
    with running_shield(own, "mortal", servers.here() / f"shield-{name}", agents=["read"]) as shield:
        with own.connect() as admin:
            admin.execute("checkpoint")  # its commits do not wait for the disk, and the agent's own shall outlive it
        try:
            yield shield
        finally:
            servers.start(server.major, name)


def kill(server: servers.Server) -> None:
    """Every process of the server at once, as when its machine loses power."""
    assert server.cluster.pid is not None
    children = psutil.Process(server.cluster.pid).children()
    server.cluster.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has noticed, and is gone already
            child.kill()


def test_the_server_is_killed_in_the_middle_of_a_query(mortal: Shield, tls: bool) -> None:
    with mortal.connect("read", tls=tls) as conn:
        query = slowly(conn)
        assert until(lambda: running(mortal) == 1)
        kill(mortal.server)
        error = query.error(timeout=20)
        assert isinstance(error, psycopg.OperationalError)
        assert error.sqlstate is not None
        assert error.sqlstate[:2] in {"08", "57"}
        assert conn.closed
    with pytest.raises(psycopg.OperationalError, match="FATAL") as refused:
        mortal.connect("read", connect_timeout=20)
    assert "dbshield" in str(refused.value)
    servers.start(mortal.server.major, mortal.server.cluster.folder.name)
    assert until(lambda: _works(mortal))


def test_the_server_is_killed_while_the_session_idles(mortal: Shield) -> None:
    with mortal.connect("read") as conn:
        kill(mortal.server)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
        assert conn.closed


def test_the_server_ends_one_session(shield: Shield) -> None:
    """An administrator's pg_terminate_backend: the client reads the server's own FATAL, once."""
    with shield.connect("read") as conn:
        query = slowly(conn)
        assert until(lambda: running(shield) == 1)
        with shield.server.connect() as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and query like %s",
                [shield.database, SLOW + "%"],
            )
        assert isinstance(query.error(timeout=20), errors.AdminShutdown)
        assert conn.closed


COPYING = """
import sys, psycopg
conn = psycopg.connect(sys.stdin.readline(), autocommit=True)
with conn.cursor().copy("copy shop.settings from stdin") as copy:
    i = 0
    while True:
        copy.write(f"killed-{i}\\tvalue\\n")
        i += 1
        if i == 10000:
            print("begun", flush=True)
"""
QUERYING = """
import sys, psycopg
conn = psycopg.connect(sys.stdin.readline(), autocommit=True)
print("begun", flush=True)
conn.execute(sys.argv[1])
"""


@pytest.mark.parametrize("script", [COPYING, QUERYING], ids=["copy", "query"])
def test_a_client_that_is_killed_frees_the_server(shield: Shield, tls: bool, script: str) -> None:
    """The upstream connection closes with the client's, which the server notices."""
    command = [sys.executable, "-c", script, SLOW]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(shield.dsn("write", tls=tls) + "\n")
        client.stdin.flush()
        assert client.stdout.readline() == "begun\n"
        assert until(lambda: shield.backends() == 1)
        if script is QUERYING:
            assert until(lambda: running(shield) == 1)
        client.kill()
    assert until(lambda: shield.backends() == 0)
    with shield.connect("read") as conn:
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)


def test_drain_lets_a_running_query_finish_and_takes_nothing_new(lonely: Shield, tls: bool) -> None:
    text = "select count(*) from shop.settings"
    idle = lonely.connect("read", tls=tls)
    conn = lonely.connect("read", tls=tls)
    with lonely.server.connect(lonely.database) as admin, admin.transaction():
        admin.execute("lock table shop.settings")  # so it runs for as long as the test wants
        query: Background[Any] = Background(lambda: conn.execute(text).fetchone())
        assert until(lambda: _active(lonely, text) == 1)
        lonely.signal(signal.SIGTERM)
        assert until(lambda: not lonely.listens(), deadline=DRAINING), "who connects now waits in vain"
        assert not query.done
    assert query.result() == (3,)
    assert lonely.wait() == 0
    with pytest.raises(psycopg.OperationalError) as ended:
        idle.execute("select 1")
    assert ended.value.sqlstate in {"57P01", None}
    for session in (idle, conn):
        session.close()
    assert until(lambda: lonely.backends() == 0)


def test_drain_lets_a_transaction_finish(lonely: Shield) -> None:
    with psycopg.connect(lonely.dsn("write")) as conn:
        conn.execute("update shop.products set stock = 4711 where id = 1")
        lonely.signal(signal.SIGTERM)
        assert until(lambda: not lonely.listens(), deadline=DRAINING), "who connects now waits in vain"
        conn.execute("update shop.products set stock = 4712 where id = 2")
        conn.commit()
    assert lonely.wait() == 0
    with lonely.server.connect(lonely.database) as admin:
        assert admin.execute("select stock from shop.products where id < 3 order by id").fetchall() == [(4711,), (4712,)]


def test_reload_changes_what_may_change_and_keeps_the_sessions(lonely: Shield) -> None:
    with lonely.connect("read") as first:
        lonely.write_config(max_connections_per_agent=1)
        lonely.signal(signal.SIGHUP)
        assert until(lambda: not _works(lonely))
        with pytest.raises(psycopg.OperationalError, match="FATAL"):
            lonely.connect("read")
        assert first.execute("select 1").fetchone() == (1,)
        lonely.write_config(max_connections_per_agent=10)
        lonely.signal(signal.SIGHUP)
        assert until(lambda: _works(lonely))


def test_reload_of_a_broken_configuration_changes_nothing(lonely: Shield) -> None:
    with lonely.connect("read") as first:
        lonely.config.write_text(lonely.config.read_text().replace("[proxy]", "[proxy]\nlisten_to = 1"))
        lonely.signal(signal.SIGHUP)
        assert until(lambda: "listen_to" in lonely.text())
        assert _works(lonely)
        assert first.execute("select 1").fetchone() == (1,)


def test_workers_share_the_port(spare: Shield) -> None:
    """Cancel requests and logins land on any worker."""
    spare.write_config(workers=2)
    with started(spare):
        opened = [spare.connect("read") for _ in range(20)]
        try:
            for conn in opened[:4]:
                query = slowly(conn)
                assert until(lambda: running(spare) == 1)
                conn.cancel_safe(timeout=20)
                assert isinstance(query.error(), errors.QueryCanceled)
            assert [conn.execute("select 1").fetchone() for conn in opened] == [(1,)] * 20
        finally:
            for conn in opened:
                conn.close()


def _works(shield: Shield) -> bool:
    try:
        with shield.connect("read") as conn:
            return conn.execute("select 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _active(shield: Shield, text: str) -> int:
    with shield.server.connect() as admin:
        row = admin.execute(
            "select count(*) from pg_stat_activity where datname = %s and query = %s and state = 'active'",
            [shield.database, text],
        ).fetchone()
    assert row is not None
    return int(str(row[0]))
