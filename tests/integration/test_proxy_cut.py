"""A server that is there and then is not, at each point of a login. The way to it runs through a wire that the test cuts."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from support import servers
from support.background import Background
from support.raw import raw_client
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

from dbshield.wire.backend import ReadyForQuery
from dbshield.wire.report import ErrorResponse

AT_ONCE, AFTER_STARTUP, AFTER_LOGIN, SILENT = "at once", "after the startup packet", "after the login", "silent"


class Wire:
    """Listens for the proxy and connects to the server, until `cut` says to end it."""

    def __init__(self, port: int) -> None:
        self.cut = ""
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self._open.append(near)
                threading.Thread(target=self._carry, args=(near, self.cut), daemon=True).start()

    def _carry(self, near: socket.socket, cut: str) -> None:
        if cut == SILENT:
            return
        with near, contextlib.suppress(OSError):
            if cut == AT_ONCE:
                return
            startup = near.recv(1 << 16)
            if cut == AFTER_STARTUP:
                return
            with socket.create_connection(("127.0.0.1", self._port)) as far:
                far.sendall(startup)
                while True:
                    for ready in select.select([near, far], [], [])[0]:
                        data = ready.recv(1 << 16)
                        # The first Query is dbshield's own: it asks for the functions.
                        if not data or (cut == AFTER_LOGIN and ready is near and data[:1] == b"Q"):
                            return
                        (far if ready is near else near).sendall(data)

    def close(self) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture(scope="module")
def wired(server18: Server, worker_id: str) -> Iterator[tuple[Shield, Wire]]:
    """A proxy that reaches its server over the wire."""
    wire = Wire(server18.cluster.port)
    folder = servers.here() / f"wired-{worker_id}"
    try:
        with prepared_shield(server18, f"wired_{worker_id}", folder, agents=("read",)) as shield:
            where: Callable[[], str] = lambda: make_conninfo(  # noqa: E731 - takes the place of a method
                host="127.0.0.1", port=wire.port, sslmode="disable", user="agent_read", dbname=shield.database
            )
            shield.upstream = where  # type: ignore[method-assign]
            shield.write_config()
            with started(shield):
                yield shield, wire
    finally:
        wire.close()


@contextlib.contextmanager
def impatient(shield: Shield) -> Iterator[None]:
    """While a login may take two seconds. Not all the while: on a busy machine one takes longer that nothing is wrong with."""
    reload(shield, login_timeout=2.0)
    try:
        yield
    finally:
        reload(shield)


def reload(shield: Shield, **changed: float) -> None:
    before = shield.text().count("configuration reloaded")
    shield.write_config(None, **changed)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before), shield.text()


@pytest.mark.parametrize(
    "cut, sqlstate",
    # The first one asks the server for its functions, which then are known for a while.
    [(AFTER_LOGIN, "08001"), (AT_ONCE, "08001"), (AFTER_STARTUP, "08001"), (SILENT, "08006")],
)
def test_regression_each_gives_one_clear_error(wired: tuple[Shield, Wire], cut: str, sqlstate: str) -> None:
    """Never silence, never a hang; and with the wire whole again, the next login works."""
    shield, wire = wired
    wire.cut = cut
    parts = shield.parameters("read")
    with impatient(shield) if cut == SILENT else contextlib.nullcontext(), raw_client(shield) as client:
        heard = client.log_in(parts["user"], parts["password"], parts["dbname"])
        errors = [message for message in heard if isinstance(message, ErrorResponse)]
        assert [(error.severity, error.sqlstate) for error in errors] == [("FATAL", sqlstate)]
        assert errors[0].hint
    assert until(lambda: shield.backends() == 0)
    wire.cut = ""
    with shield.connect("read") as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_client_that_goes_away_while_the_server_is_silent_frees_its_place(wired: tuple[Shield, Wire]) -> None:
    shield, wire = wired
    before = shield.text().count("the client went away during its login")
    wire.cut, opened = SILENT, len(wire._open)
    parts = shield.parameters("read")
    try:
        with raw_client(shield) as client:
            login = Background(lambda: client.log_in(parts["user"], parts["password"], parts["dbname"]))
            assert until(lambda: len(wire._open) > opened)
            client.sock.shutdown(socket.SHUT_RDWR)
            assert not any(isinstance(message, ReadyForQuery) for message in login.result())
        assert until(lambda: shield.text().count("the client went away during its login") > before)
    finally:
        wire.cut = ""


def test_a_client_that_vanished_without_a_word_is_noticed_within_a_minute(wired: tuple[Shield, Wire]) -> None:
    """The kernel asks a silent client whether it still lives (tcp(7), proc(5): timer 02 is keepalive, in hundredths)."""
    shield, _ = wired
    local = f"0100007F:{shield.port:04X}"

    def timers() -> list[str]:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
        return [words[5] for words in lines if words[1] == local and words[3] == "01"]

    def asks() -> bool:
        found = timers()
        return bool(found) and all(timer.startswith("02:") and int(timer[3:], 16) <= 3_100 for timer in found)

    with shield.connect("read"):
        # Until the client's kernel has acknowledged what came last, another timer runs.
        assert until(asks), timers()
