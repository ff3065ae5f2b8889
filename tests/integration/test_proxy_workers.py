"""Two workers behind one port: cancel requests find their session, and a worker that dies is replaced."""

from __future__ import annotations

import signal

import psutil
import psycopg
import pytest
from psycopg import errors
from support.background import Background
from support.raw import raw_client, raw_session
from support.shield import Shield
from support.slow import SLOW, running, slowly
from support.waiting import until

from dbshield.proxy.cancel import SESSION_BITS
from dbshield.wire.frontend import Bind, Execute, Flush, Parse, Query, Sync
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import CancelRequest


def worker_of(conn: psycopg.Connection[tuple[object, ...]]) -> int:
    return conn.info.backend_pid >> SESSION_BITS


def worker_hit(shield: Shield) -> int:
    """The worker that took a connection of its own."""
    with shield.connect("read") as conn:
        return worker_of(conn)


def test_a_cancel_reaches_its_session_from_whichever_worker(gate: Shield) -> None:
    """Trap 3."""
    seen: set[int] = set()

    def both_take_connections() -> bool:
        seen.add(worker_hit(gate))
        return seen == {0, 1}

    with gate.connect("read") as conn:
        for attempt in range(12):
            query = slowly(conn)
            assert until(lambda: running(gate) == 1)
            conn.cancel_safe(timeout=20)
            assert isinstance(query.error(), errors.QueryCanceled), attempt
            seen.add(worker_hit(gate))
    assert until(both_take_connections)


def test_regression_a_cancel_whose_sender_closes_at_once(gate: Shield) -> None:
    """Some drivers do not wait for the answer to a cancel request (tokio-postgres, node-postgres)."""
    for _ in range(8):
        with raw_session(gate, "read") as client:
            client.send(Query(query=SLOW.encode()))
            assert until(lambda: running(gate) == 1)
            with raw_client(gate) as other:
                other.send(CancelRequest(process_id=client.key[0], secret_key=client.key[1]))
            heard = client.until_ready()
            assert [message.sqlstate for message in heard if isinstance(message, ErrorResponse)] == ["57014"]


def test_regression_a_statement_without_a_sync_can_be_cancelled(gate: Shield) -> None:
    """Trap 5: a client that only flushes."""
    with raw_session(gate, "read") as client:
        client.send(Parse(query=SLOW.encode()), Bind(), Execute(), Flush())
        assert until(lambda: running(gate) == 1)
        with raw_client(gate) as other:
            other.send(CancelRequest(process_id=client.key[0], secret_key=client.key[1]))
            assert other.receive() is None
        client.send(Sync())
        heard = client.until_ready()
        assert [message.sqlstate for message in heard if isinstance(message, ErrorResponse)] == ["57014"]


@pytest.mark.parametrize("change", ["key", "worker", "session", "no such worker"])
def test_a_wrong_key_cancels_nothing_in_any_worker(gate: Shield, change: str) -> None:
    """Trap 3."""
    with raw_session(gate, "read") as client:
        client.send(Query(query=SLOW.encode()))
        assert until(lambda: running(gate) == 1)
        process_id, key = client.key
        wrong = {
            "key": (process_id, bytes(byte ^ 1 for byte in key)),
            "worker": (process_id ^ (1 << SESSION_BITS), key),
            "session": (process_id ^ 1, key),
            "no such worker": (process_id | (0x7FF << SESSION_BITS), key),
        }[change]
        for _ in range(6):
            with raw_client(gate) as other:
                other.send(CancelRequest(process_id=wrong[0], secret_key=wrong[1]))
                assert other.receive() is None
        assert running(gate) == 1
        with raw_client(gate) as other:
            other.send(CancelRequest(process_id=process_id, secret_key=key))
            assert other.receive() is None
        heard = client.until_ready()
        assert [message.sqlstate for message in heard if isinstance(message, ErrorResponse)] == ["57014"]


def test_a_late_key_hits_nobody(gate: Shield) -> None:
    """Trap 3: the session of the key is over, and another one is at work."""
    with raw_session(gate, "read") as gone:
        key = gone.key
    with gate.connect("read") as conn:
        query = slowly(conn)
        assert until(lambda: running(gate) == 1)
        for _ in range(6):
            with raw_client(gate) as other:
                other.send(CancelRequest(process_id=key[0], secret_key=key[1]))
                assert other.receive() is None
        assert running(gate) == 1
        conn.cancel_safe(timeout=20)
        assert isinstance(query.error(), errors.QueryCanceled)


def test_a_killed_worker_is_replaced_and_the_other_goes_on(gate: Shield) -> None:
    assert gate._process is not None
    workers = psutil.Process(gate._process.pid).children()
    assert len(workers) == 2
    opened: list[psycopg.Connection[tuple[object, ...]]] = []

    def both() -> bool:
        opened.append(gate.connect("read"))
        return {worker_of(conn) for conn in opened} == {0, 1}

    try:
        assert until(both)
        workers[0].send_signal(signal.SIGKILL)
        lost = {worker_of(conn) for conn in opened if isinstance(_error(conn), psycopg.OperationalError)}
        assert len(lost) == 1
        assert all((_error(conn) is None) == (worker_of(conn) not in lost) for conn in opened)
        assert until(lambda: len(psutil.Process(gate._process.pid).children()) == 2)  # type: ignore[union-attr]
        assert until(lambda: worker_hit(gate) in lost)
        assert until(lambda: gate.backends() == len([conn for conn in opened if worker_of(conn) not in lost]))
        assert "a worker died and is started again" in gate.text()
        number = next(conn for conn in opened if worker_of(conn) not in lost)
        query: Background[object] = slowly(number)
        assert until(lambda: running(gate) == 1)
        number.cancel_safe(timeout=20)
        assert isinstance(query.error(), errors.QueryCanceled)
    finally:
        for conn in opened:
            conn.close()


def _error(conn: psycopg.Connection[tuple[object, ...]]) -> psycopg.Error | None:
    try:
        conn.execute("select 1")
    except psycopg.Error as error:
        return error
    return None
