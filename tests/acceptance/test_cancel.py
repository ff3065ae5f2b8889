"""Cancel requests reach the query they are meant for, and never another."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from psycopg import errors
from support.shield import Shield
from support.slow import running, slowly
from support.waiting import until


def test_a_running_query_is_cancelled_and_the_session_goes_on(shield: Shield, tls: bool) -> None:
    with shield.connect("read", tls=tls) as conn:
        query = slowly(conn)
        assert until(lambda: running(shield) == 1)
        conn.cancel_safe(timeout=20)
        assert isinstance(query.error(), errors.QueryCanceled)
        assert conn.execute("select 1").fetchone() == (1,)
    assert running(shield) == 0


def test_the_old_way_of_cancelling(shield: Shield) -> None:
    """PQcancel of libpq before 17: in clear text whatever the connection has, fire and forget."""
    with shield.connect("read") as conn:
        query = slowly(conn)
        assert until(lambda: running(shield) == 1)
        conn.pgconn.get_cancel().cancel()
        assert isinstance(query.error(), errors.QueryCanceled)
        assert conn.execute("select 1").fetchone() == (1,)


def test_only_the_query_that_is_meant_is_cancelled(shield: Shield) -> None:
    with shield.connect("read") as one, shield.connect("read") as two:
        first, second = slowly(one), slowly(two)
        assert until(lambda: running(shield) == 2)
        one.cancel_safe(timeout=20)
        assert isinstance(first.error(), errors.QueryCanceled)
        assert running(shield) == 1
        assert not second.done
        two.cancel_safe(timeout=20)
        assert isinstance(second.error(), errors.QueryCanceled)


def test_a_cancel_that_comes_after_its_session_hits_nobody(shield: Shield) -> None:
    gone = shield.connect("read")
    key = gone.pgconn.get_cancel()
    gone.close()
    with shield.connect("read") as conn:
        query = slowly(conn)
        assert until(lambda: running(shield) == 1)
        for _ in range(5):
            key.cancel()
        assert running(shield) == 1
        assert not query.done
        conn.cancel_safe(timeout=20)
        assert isinstance(query.error(), errors.QueryCanceled)


def test_a_cancel_of_an_idle_session_does_not_hit_its_next_query(shield: Shield) -> None:
    with shield.connect("read") as conn:
        for _ in range(20):
            conn.cancel_safe(timeout=20)
            assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("key", [b"", b"\0\0\0\0", b"guess", b"x" * 256, b"y" * 300])
def test_a_guessed_key_cancels_nothing(shield: Shield, key: bytes) -> None:
    with shield.connect("read") as conn:
        query = slowly(conn)
        assert until(lambda: running(shield) == 1)
        body = struct.pack("!ii", 80877102, conn.info.backend_pid) + key
        with socket.create_connection(("127.0.0.1", shield.port), timeout=10) as wire:
            wire.sendall(struct.pack("!i", len(body) + 4) + body)
            with contextlib.suppress(ConnectionResetError):
                assert wire.recv(1024)[:1] in {b"", b"E"}
        assert running(shield) == 1
        assert not query.done
        conn.cancel_safe(timeout=20)
        assert isinstance(query.error(), errors.QueryCanceled)
