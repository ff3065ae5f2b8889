"""The contenders: how each is installed, started, measured and stopped. All of them end at the same server and the same role.

Both proxies check the client by SCRAM-SHA-256 against a stored verifier and log in to the server by SCRAM-SHA-256. dbshield
runs as its users run it: policy and audit on, started through its command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg

from bench.database import CONTROL_DATABASE, CONTROL_ROLE, DATABASE, ROLE, Database
from bench.measure import Processes
from bench.model import Address, BenchError, Name

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
COMMAND_TIMEOUT = 60.0
INSTALL_TIMEOUT = 300.0
POLL = 0.05
SAID = 300
"""Characters of a log line that are shown; a traceback as JSON is longer than a table is wide."""
POOL = 400
"""Server connections that PgBouncer may open: more than the largest row asks for, so that nobody queues."""


class Contender(Protocol):
    """One way to the server."""

    name: Name

    @property
    def version(self) -> str: ...
    @property
    def address(self) -> Address: ...
    @property
    def processes(self) -> Processes | None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def tidy(self) -> None:
        """Called after every run, outside of what is measured."""


class Direct:
    """No proxy."""

    name = Name.DIRECT
    processes = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self.version = f"PostgreSQL {database.cluster.binaries.major}.{database.cluster.binaries.minor}"

    @property
    def address(self) -> Address:
        return self._database.address

    def start(self) -> None:
        """The server runs already."""

    def stop(self) -> None:
        """The server is stopped by whoever started it."""

    def tidy(self) -> None:
        """Nothing is left behind."""


class Service:
    """A proxy as a process of its own: started, waited for until a login through it works, stopped with all its children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def processes(self) -> Processes | None:
        return Processes(self._process.pid) if self._process is not None else None

    def run(self, command: Sequence[str | Path], address: Address, **options: Any) -> None:
        """Start the command and wait until a client gets through it.

        Raises:
            BenchError: it ended, or nobody got through in time; with the last lines that it wrote.
        """
        log = self.folder / "log"
        with log.open("ab") as stream:
            # A session of its own, so that Ctrl-C reaches the bench alone, which then stops everything in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, **options
            )
        deadline = time.monotonic() + START_TIMEOUT
        last: Exception | None = None
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with psycopg.connect(address.conninfo(), autocommit=True) as conn:
                    conn.execute("select 1")
            except psycopg.OperationalError as error:
                last = error
            else:
                return
            time.sleep(POLL)
        self.end()
        said = " / ".join(line[:SAID] for line in log.read_text(errors="replace").splitlines()[-3:])
        raise BenchError(f"{command[0]} did not serve a client ({_line(last)}); it said: {said}")

    def end(self) -> None:
        """Ask the process to end, then make it; nothing of its process group stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class PgBouncer(Service):
    """PgBouncer in session mode, with Debian's defaults but for pool sizes that let everybody in at once."""

    name = Name.PGBOUNCER

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder)
        self._database = database
        self._program = _pgbouncer()
        self._address = Address(port=free_port(), user=ROLE, password=database.password, dbname=DATABASE)
        said = subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT)
        self.version = said.stdout.splitlines()[0]

    @property
    def address(self) -> Address:
        return self._address

    def start(self) -> None:
        account = self._database.cluster.account
        self.folder.mkdir(exist_ok=True)
        account.own(self.folder, 0o700)
        users = self.folder / "users.txt"
        users.write_text(f'"{ROLE}" "{self._database.verifier()}"\n')
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            "\n".join(
                (
                    "[databases]",
                    f"{DATABASE} = host=127.0.0.1 port={self._database.address.port} dbname={DATABASE}",
                    "[pgbouncer]",
                    "listen_addr = 127.0.0.1",
                    f"listen_port = {self._address.port}",
                    "unix_socket_dir =",
                    "auth_type = scram-sha-256",
                    f"auth_file = {users}",
                    "pool_mode = session",
                    f"max_client_conn = {2 * POOL}",
                    f"default_pool_size = {POOL}",
                    "server_tls_sslmode = disable",
                    "ignore_startup_parameters = extra_float_digits",
                    "",
                )
            )
        )
        for path in (users, settings):
            account.own(path, 0o600)
        self.run([self._program, "-q", settings], self._address, **account.process())

    def stop(self) -> None:
        self.end()

    def tidy(self) -> None:
        """Nothing is left behind."""


class Shield(Service):
    """dbshield as its users start it: `dbshield proxy`, one worker, one agent that may write."""

    name = Name.DBSHIELD

    def __init__(self, folder: Path, database: Database, *, metrics: bool = False) -> None:
        super().__init__(folder)
        self._metrics = f'listen = "127.0.0.1:{free_port()}"' if metrics else ""
        self._database = database
        self._config = folder / "dbshield.toml"
        self._port = free_port()
        self._address: Address | None = None
        self._program = _dbshield()
        self.version = self._said("--version")

    @property
    def address(self) -> Address:
        if self._address is None:
            raise BenchError("dbshield has no agent yet")
        return self._address

    def start(self) -> None:
        if self._address is None:
            self._prepare()
        self.run([self._program, "proxy", "--config", self._config], self.address)

    def stop(self) -> None:
        self.end()

    def tidy(self) -> None:
        """Empty the audit file, which a full run would fill with gigabytes. It is appended to, so the proxy goes on writing."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.folder / "state" / "audit.jsonl", 0)

    def _prepare(self) -> None:
        """Configuration, keys, control database, and the agent with its token."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        control = self._database.control_address
        secrets = {"upstream.password": self._database.password, "control.password": control.password}
        for name, secret in secrets.items():
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(secret)
        self._config.touch(mode=0o600)
        self._config.write_text(
            "\n".join(
                (
                    f'state = "{self.folder / "state"}"',
                    "[control]",
                    f'url = "postgresql://{CONTROL_ROLE}@127.0.0.1:{control.port}/{CONTROL_DATABASE}?sslmode=disable"',
                    f'password_file = "{self.folder / "control.password"}"',
                    "[proxy]",
                    f'listen = ["127.0.0.1:{self._port}"]',
                    "workers = 1",
                    "[metrics]",
                    self._metrics,
                    "[environments.bench]",
                    f'upstream = "postgresql://{ROLE}@127.0.0.1:{self._database.address.port}/{DATABASE}?sslmode=disable"',
                    f'password_file = "{self.folder / "upstream.password"}"',
                    # Every row that is changed is counted all the same; a COPY of a million would be stopped.
                    "max_rows = 1000000000",
                    "max_rows_per_hour = 0",
                    "",
                )
            )
        )
        self._said("init", "--config", str(self._config))
        said = self._said(
            "agent", "create", "bench", "--environment", "bench", "--access", "write", "--json", "--config", str(self._config)
        )
        try:
            found = psycopg.conninfo.conninfo_to_dict(json.loads(said)["dsn"])
            user, password = str(found["user"]), str(found["password"])
        except (ValueError, KeyError, psycopg.Error) as error:
            raise BenchError(f"`dbshield agent create --json` did not print a connection string ({_line(error)})") from error
        self._address = Address(port=self._port, user=user, password=password, dbname=DATABASE)

    def _said(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"`dbshield {arguments[0]}` did not end") from error
        except OSError as error:
            raise BenchError(f"dbshield's console script does not run: {error}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BenchError(f"`dbshield {' '.join(arguments[:2])}` failed: {' / '.join(said[-3:])}")
        return done.stdout.strip()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _dbshield() -> Path:
    """The console script beside this Python."""
    return Path(sys.executable).parent / "dbshield"


def _pgbouncer() -> Path:
    """PgBouncer, installed if it is not there and may be.

    Raises:
        BenchError: it is not there and cannot be installed; the message says why.
    """
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        installer = Path(__file__).resolve().parent.parent / ".ci" / "apt-install"
        done = subprocess.run(
            [installer, "pgbouncer"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
        found = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
        if found is None:
            raise BenchError(f"not installed: {' '.join(done.stderr.split()[:40])}")
    return Path(found)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] if error is not None else "no answer"
