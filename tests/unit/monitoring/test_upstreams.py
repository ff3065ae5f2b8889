"""Servers that take a connection and say nothing hold nobody up who asks for the metrics."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dbshield.config import Config, EnvironmentConfig
from dbshield.monitoring.server import Monitor
from dbshield.monitoring.upstreams import CONNECT_TIMEOUT, answers
from dbshield.store.database import Database
from dbshield.wire.backend import ErrorResponse

HUNG = 12
PATIENCE = 60


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A server that never answers; the kernel takes its connections."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def environment(sock: socket.socket) -> EnvironmentConfig:
    return EnvironmentConfig(upstream=f"host=127.0.0.1 port={sock.getsockname()[1]} user=app dbname=shop sslmode=disable")


def test_regression_several_that_hang_take_as_long_as_one(listening: socket.socket) -> None:
    """They were asked one after the other: five of them, and Prometheus had given up, with all other numbers lost."""
    with contextlib.closing(Database("host=/nowhere")) as database:
        monitor = Monitor(Config(environments={f"e{number}": environment(listening) for number in range(HUNG)}), database, [])
        began = time.monotonic()
        assert not any(monitor.upstreams().values())
        assert time.monotonic() - began < HUNG * CONNECT_TIMEOUT / 2


def test_regression_who_waits_for_a_server_holds_up_no_other_thread(listening: socket.socket) -> None:
    """The process stood still until the server had been given up: the liveness probe met nobody."""
    asking = threading.Thread(target=answers, args=[environment(listening)])
    asking.start()
    try:
        with listening.accept()[0] as accepted:
            accepted.settimeout(PATIENCE)
            assert accepted.recv(1), "it asks"
            assert asking.is_alive(), "and this thread runs while it waits for the answer"
    finally:
        asking.join(PATIENCE)


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"R\x00\x00\x00\x08\x00\x00\x00\x05", True),
        (ErrorResponse.of("FATAL", "28000", "no entry in pg_hba.conf").encode(), True),
        (ErrorResponse.of("FATAL", "53300", "too many clients").encode(), True),
        (ErrorResponse.of("FATAL", "57P03", "the database system is starting up").encode(), False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"", False),
    ],
    ids=["asks-for-a-password", "refuses", "full", "starting", "another-protocol", "hangs-up"],
)
def test_a_server_that_refuses_works_and_one_that_starts_does_not(listening: socket.socket, said: bytes, answered: bool) -> None:
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(answers(environment(listening))))
    asking.start()
    with listening.accept()[0] as accepted:
        accepted.settimeout(PATIENCE)
        assert accepted.recv(4096)
        accepted.sendall(said)
    asking.join(PATIENCE)
    assert found == [answered]


def test_nobody_there_is_no_answer(listening: socket.socket) -> None:
    gone = environment(listening)
    listening.close()
    assert not answers(gone)
