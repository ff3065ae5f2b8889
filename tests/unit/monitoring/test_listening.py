"""The address of the metrics: had as soon as the monitor of a killed proxy lets go of it, and named where it is another's."""

from __future__ import annotations

import socket
import threading

import pytest
from support.ports import free_port

from dbshield.config import ListenAddress
from dbshield.errors import ConfigError
from dbshield.monitoring import listening
from dbshield.monitoring.listening import bound


def test_an_address_that_is_let_go_of_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PATIENCE", 60.0)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as before:
        letting_go = threading.Timer(0.2, before.close)
        letting_go.start()
        with bound(ListenAddress.parse(f"127.0.0.1:{port}")) as sock:
            assert sock.getsockname() == ("127.0.0.1", port)
        letting_go.join()


def test_an_address_that_stays_another_ones_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PATIENCE", 0.1)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already"):
        bound(ListenAddress.parse(f"127.0.0.1:{port}"))
