"""dbshield on two machines behind HAProxy: two proxies, two executors, two schedulers, one control PostgreSQL, agents that work.

HAProxy runs with `deploy/haproxy/haproxy.cfg` as it is, but for addresses and ports; it connects from 127.0.0.2, which the
proxies know as the balancer's, and says who the client is. A part is killed as by a machine that loses power (SIGKILL), and
started again by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from support import tools
from support.commands import Command
from support.company import STARTING, TIMEOUT, Company
from support.ports import free_port
from support.servers import Server
from support.waiting import until

TEMPLATE = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
BALANCER = "127.0.0.2"
PAUSE = 0.01
"""Seconds between two statements of one agent, so that the load leaves the machine to the parts."""
PATIENCE = 90.0
"""Seconds within which every agent works again, on a machine that does other things as well."""
SCHEDULE = f"[schedule]\nguard_verify = {json.dumps('0 0 1 * *')}\n"
"""It comes once a month; a test makes it due when it wants to."""
PARTS = tuple(f"{command}-{machine}" for machine in (0, 1) for command in ("proxy", "executor", "scheduler"))


class Agent:
    """One that inserts numbers into shop.ledger and notes what was acknowledged; after an error it connects anew and goes on with
    the next number. A reader only asks."""

    def __init__(self, connect: Callable[[], psycopg.Connection[tuple[Any, ...]]], number: int, *, writes: bool) -> None:
        self.number, self.writes = number, writes
        self.acknowledged: list[int] = []
        self.tried = self.connected = self.lost = self.refused = 0
        self.unexpected: BaseException | None = None
        self._connect = connect
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), f"agent {self.number} hangs"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with self._connect() as conn:
                        self.connected += 1
                        self._work(conn)
                except psycopg.OperationalError:
                    self.lost += 1
                    self._stop.wait(PAUSE)
        except BaseException as error:  # noqa: BLE001 - looked at by whoever stops the load
            self.unexpected = error

    def _work(self, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
        while not self._stop.wait(PAUSE):
            self.tried += 1
            try:
                if self.writes:
                    conn.execute("insert into shop.ledger values (%s, %s)", [self.number, self.tried])
                else:
                    conn.execute("select count(*) from shop.settings")
            except errors.InsufficientPrivilege:
                self.refused += 1  # by dbshield itself, which says that it cannot keep the audit
                continue
            self.acknowledged.append(self.tried)


class Balanced:
    """The parts by name, `proxy-0` to `scheduler-1`, and HAProxy at `port`."""

    def __init__(self, company: Company, control: Server) -> None:
        self.company, self.control = company, control
        self.port = free_port()
        self.health = (free_port(), free_port())
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        self.agents: list[Agent] = []
        for config, port in zip(company.configs, self.health, strict=True):
            text = config.read_text().replace("[proxy]", f'[proxy]\nbalancers = ["{BALANCER}/32"]')
            config.write_text(text + f'[metrics]\nlisten = "127.0.0.1:{port}"\n' + SCHEDULE)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything while the block runs; in the end each part has to stop in order and to have met no bug."""
        try:
            with self._haproxy():
                for name in PARTS:
                    self.start(name)
                self.serving()
                yield
        finally:
            for process in self.parts.values():
                process.send_signal(signal.SIGTERM)
            statuses = {name: process.wait(TIMEOUT) for name, process in self.parts.items()}
        assert statuses == dict.fromkeys(PARTS, 0), self.said()
        assert "Traceback" not in self.said(), self.said()

    def start(self, name: str) -> None:
        command, machine = name.split("-")
        with self._log(name).open("ab") as log:
            self.parts[name] = Command(
                [command, "--config", str(self.company.configs[int(machine)])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))},
            )

    def kill(self, name: str) -> None:
        self.parts[name].kill()
        self.parts[name].wait(TIMEOUT)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.parts[name].send_signal(number)

    def serving(self) -> None:
        """Wait until both proxies take connections, and HAProxy has seen it."""
        for port in self.company.ports:
            assert until(lambda port=port: listens(port), deadline=STARTING), self.said()  # type: ignore[misc]
        log = self._log("haproxy")

        def up() -> bool:
            told = re.findall(r"Server dbshield/(proxy\d) is (UP|DOWN)", log.read_text())
            return all(dict(told).get(name, "UP") == "UP" for name in ("proxy1", "proxy2"))

        assert until(lambda: all(listens(port) for port in self.health) and up(), deadline=STARTING), self.said()

    def sessions(self) -> Counter[int]:
        """How many connections each proxy has of HAProxy's, by the machine's number."""
        found: Counter[int] = Counter()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            port = int(words[1].rpartition(":")[2], 16)
            if words[3] == "01" and port in self.company.ports:  # 01 is ESTABLISHED
                found[self.company.ports.index(port)] += 1
        return found

    @contextlib.contextmanager
    def load(self, agent: str, writers: int) -> Iterator[None]:
        """So many agents that write, and one that reads, while the block runs. They come through HAProxy."""
        self.agents = [Agent(lambda: self.connect(agent), number, writes=number < writers) for number in range(writers + 1)]
        try:
            self.worked("at the beginning")
            yield
        finally:
            for each in self.agents:
                each.stop()
        assert [each.unexpected for each in self.agents] == [None] * len(self.agents)

    def connect(self, agent: str) -> psycopg.Connection[tuple[Any, ...]]:
        return self.company.connect(agent, port=self.port, connect_timeout=60)

    def worked(self, when: str, *, writers: bool = True, times: int = 5) -> None:
        """Wait until each agent has had some statements acknowledged from now on."""
        looked = [each for each in self.agents if writers or not each.writes]
        goals = [(each, len(each.acknowledged) + times) for each in looked]

        def behind() -> list[int]:
            return [each.number for each, goal in goals if len(each.acknowledged) < goal]

        assert until(lambda: not behind(), deadline=PATIENCE), f"{when} agents {behind()} work no more:\n{self.said()}"

    def said(self) -> str:
        """The logs of all parts, each with its name."""
        logs = [self._log(name) for name in ("haproxy", *PARTS)]
        return "\n".join(f"== {log.stem}\n{log.read_text()}" for log in logs if log.exists())

    def _log(self, name: str) -> Path:
        return self.company.folder / f"{name}.out"

    @contextlib.contextmanager
    def _haproxy(self) -> Iterator[None]:
        text = TEMPLATE.read_text().replace("bind :6432", f"bind 127.0.0.1:{self.port}").replace("check port 9632", "check")
        for number, (port, health) in enumerate(zip(self.company.ports, self.health, strict=True), start=1):
            text, count = re.subn(rf"10\.0\.0\.1{number}:6432", f"127.0.0.1:{port} port {health} source {BALANCER}", text)
            assert count == 1
        config = self.company.folder / "haproxy.cfg"
        config.write_text(text)
        with self._log("haproxy").open("wb") as log:
            process = subprocess.Popen(
                [str(tools.find("haproxy")), "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            assert until(lambda: process.poll() is not None or listens(self.port)), self.said()
            yield
            assert process.poll() is None, self.said()
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
