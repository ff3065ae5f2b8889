"""The real proxy as a user runs it: configured by a file, managed and started by the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbshield.proxy.catalogue import APPLICATION_NAME
from support.commands import Command, run_command
from support.control import all_heard, make_tables
from support.ports import free_port
from support.servers import ACCESS, Server
from support.waiting import until

ENVIRONMENT = "test"
OTHER_ENVIRONMENT = "other"
BRIEF_ENVIRONMENT = "brief"
"""Its tokens live three seconds."""
COMMAND = [sys.executable, "-c", "import sys; from dbshield.cli import main; sys.exit(main())"]
CLI_TIMEOUT = 60.0
STARTING = 120.0
"""Seconds for a proxy to begin, on a machine where other workers' proxies do so too."""
SECRET = "ROLE_PASSWORD"


class Shield:
    """dbshield in front of one database of one server, with an agent of each access level.

    `folder` keeps its configuration, state and log. Agents are named after their access level. The control database is on
    `control_server`, the same server where none is named. A proxy that `shares_nothing` is started by the command itself, which
    takes a second longer: its memory is no other command's as well, and its limits are those of the test.
    """

    def __init__(
        self,
        server: Server,
        database: str,
        folder: Path,
        *,
        proxy: dict[str, Any] | None = None,
        control_server: Server | None = None,
        shares_nothing: bool = False,
    ) -> None:
        self.server = server
        self.shares_nothing = shares_nothing
        self.control_server = control_server or server
        self.database = database
        self.folder = folder
        self.config = folder / "dbshield.toml"
        self.log = folder / "proxy.log"
        self.ca = server.ca
        self.port = free_port()
        # Others may have a database of this name on other servers, and their control databases beside this one.
        self.control = f"control_{database}" if self.control_server is server else f"control_{database}_{self.port}"
        self.settings: dict[str, Any] = {"max_connections_per_agent": 2000} | (proxy or {})
        self.key_file: Path | None = None
        self._dsn: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def set_up(self, agents: Sequence[str] = ACCESS) -> None:
        """Write the configuration, make the control database, and create agents named after their access level."""
        self.folder.mkdir(parents=True, exist_ok=True)
        make_tables(self.control_server.dsn(self.control))
        self.write_config()
        self.cli("init")
        for access in agents:
            self.agent(access, access)

    def agent(self, name: str, access: str, *options: str, environment: str = ENVIRONMENT) -> dict[str, Any]:
        """Create an agent whose role is `agent_<access>`; what the command printed."""
        made = json.loads(
            self.cli(
                *("agent", "create", name, "--environment", environment, "--access", access, "--json", *options),
                *("--role", f"agent_{access}", "--role-password-env", SECRET),
                secret=self.server.passwords[access],
            )
        )
        if environment == ENVIRONMENT:
            self._dsn[name] = made["dsn"]
        else:
            for shared in (ENVIRONMENT, environment):
                # Every environment here is on one server, which no proxy believes by itself.
                self.cli("environment", "pin", shared, "--yes", "--json", "--dsn", self.server.dsn(self.database))
        assert isinstance(made, dict)
        return made

    def write_config(self, environment: Mapping[str, Any] | None = None, **changed: Any) -> None:
        """Write dbshield.toml; `changed` are settings of [proxy], `environment` those of the agents' environment."""
        pki = self.ca.parent
        proxy = {
            "listen": [f"127.0.0.1:{self.port}"],
            "tls_certificate": str(pki / "proxy.pem"),
            "tls_key": str(pki / "proxy.key"),
            "drain_timeout": 20.0,
            **self.settings,
            **changed,
        }
        lines = [f'state = "{self.folder / "state"}"']
        lines += ["[control]", f"url = {json.dumps(self.control_server.dsn(self.control))}"]
        lines += [f'key_file = "{self.key_file}"'] if self.key_file is not None else []
        lines += ["[proxy]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in proxy.items()]
        for name in (ENVIRONMENT, OTHER_ENVIRONMENT, BRIEF_ENVIRONMENT):
            lines += [
                f"[environments.{name}]",
                f"upstream = {json.dumps(self.upstream())}",
                f"databases = {json.dumps([self.database])}",
            ]
            # The tests share an agent, which changes more rows within an hour than one should, and is refused more often.
            settings = {"freeze_after_refusals": 0}
            if name == ENVIRONMENT:
                settings |= {"max_rows_per_hour": 10_000_000} | dict(environment or {})
            lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines.append(f"token_ttl_days = {3 / 86400:.8f}")
        self.config.write_text("\n".join(lines) + "\n")

    def twin(self) -> Shield:
        """Another proxy on another port, as on another machine: the same control database and key, a state folder of its own. Set
        up and not started; its connection strings lead through it."""
        other = Shield(self.server, self.database, self.folder / "twin", proxy=self.settings, control_server=self.control_server)
        other.folder.mkdir(exist_ok=True)
        other.control = self.control
        other.key_file = self.folder / "state" / "secret.key"
        other.write_config()
        other._dsn = {agent: make_conninfo(dsn, port=other.port) for agent, dsn in self._dsn.items()}
        return other

    def upstream(self) -> str:
        """How the proxy reaches the server: TLS with the name checked where the server has it, else the Unix socket."""
        where = {"host": str(self.server.cluster.socket_folder), "port": str(self.server.cluster.port)}
        if self.server.tls:
            where |= {"host": "localhost", "sslmode": "verify-full", "sslrootcert": str(self.ca)}
        return make_conninfo("", **where, user="agent_read", dbname=self.database)

    def cli(self, *words: str, secret: str = "", fails: bool = False) -> str:
        """Run a command with `--config`; its standard output. `fails` when it has to end with an error."""
        env = _environment() | ({SECRET: secret} if secret else {})
        done = run_command([*words, "--config", str(self.config)], env=env, timeout=CLI_TIMEOUT)
        if self._process is not None and not fails:
            all_heard(self.control_server.dsn(self.control), workers=int(self.settings.get("workers", 1)))
        assert (done.returncode != 0) == fails, f"dbshield {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start the proxy and wait until it takes connections."""
        with self.log.open("ab") as log:
            words = ["proxy", "--config", str(self.config)]
            given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            if self.shares_nothing:
                self._process = subprocess.Popen([*COMMAND, *words], env=_environment(), **given)
            else:
                self._process = Command(words, env=_environment(), **given)
        ready = until(lambda: self._process is None or self._process.poll() is not None or self.listens(), deadline=STARTING)
        assert ready, f"the proxy takes no connections:\n{self.text()}"
        assert self._process.poll() is None, f"the proxy ended with {self._process.returncode}:\n{self.text()}"

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit status of the proxy, when it ends in time."""
        assert self._process is not None
        status = self._process.wait(timeout)
        self._process = None
        return status

    def stop(self) -> int | None:
        """Drain and stop; the exit status, None when it did not run."""
        if self._process is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()
            raise

    def text(self) -> str:
        """What the proxy has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory(self) -> int:
        """Bytes of memory that the proxy and its workers hold; what they share counts once (PSS)."""
        assert self._process is not None
        found = psutil.Process(self._process.pid)
        return sum(process.memory_full_info().pss for process in [found, *found.children(recursive=True)])

    def dsn(self, agent: str = "write", *, tls: bool = False, **changed: Any) -> str:
        """The connection string that the agent was given, over TLS (CA and name checked) or in clear text."""
        security = {"sslmode": "verify-full", "sslrootcert": str(self.ca)} if tls else {"sslmode": "disable"}
        return make_conninfo(self._dsn[agent], **{"connect_timeout": 30, **security, **changed})

    def parameters(self, agent: str = "write", **changed: Any) -> dict[str, Any]:
        """The connection string in its parts: user, password, host, port, dbname."""
        return {**conninfo_to_dict(self._dsn[agent]), **changed}

    def connect(self, agent: str = "write", *, tls: bool = False, **changed: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Through the proxy, in autocommit mode."""
        return psycopg.connect(self.dsn(agent, tls=tls, **changed), autocommit=True)

    def backends(self) -> int:
        """The number of connections to the database that agents' sessions hold on the server."""
        with self.server.connect() as admin:
            row = admin.execute(
                "select count(*) from pg_stat_activity where datname = %s and usename like 'agent%%' and application_name <> %s",
                [self.database, APPLICATION_NAME],
            ).fetchone()
        assert row is not None
        return int(str(row[0]))


@contextlib.contextmanager
def prepared_shield(
    server: Server,
    database: str,
    folder: Path,
    *,
    agents: Sequence[str] = ACCESS,
    control_server: Server | None = None,
    shares_nothing: bool = False,
    **proxy: Any,
) -> Iterator[Shield]:
    """A shield over a fresh clone of the seeded database, set up and not started."""
    server.clone(database)
    shield = Shield(server, database, folder, proxy=proxy, control_server=control_server, shares_nothing=shares_nothing)
    shield.set_up(agents)
    try:
        yield shield
    finally:
        server.drop(database)
        shield.control_server.drop(shield.control)


@contextlib.contextmanager
def started(shield: Shield) -> Iterator[Shield]:
    """The proxy while it runs; at the end it has to stop in order and to have logged no bug."""
    shield.log.unlink(missing_ok=True)
    shield.start()
    try:
        yield shield
    finally:
        began = time.monotonic()
        status = shield.stop()
        took = time.monotonic() - began
    assert status in {0, None}, f"the proxy ended with {status} after {took:.1f} s:\n{shield.text()}"
    assert "Traceback" not in shield.text(), shield.text()


@contextlib.contextmanager
def running_shield(
    server: Server,
    database: str,
    folder: Path,
    *,
    agents: Sequence[str] = ACCESS,
    control_server: Server | None = None,
    shares_nothing: bool = False,
    **proxy: Any,
) -> Iterator[Shield]:
    """Both at once."""
    with (
        prepared_shield(
            server, database, folder, agents=agents, control_server=control_server, shares_nothing=shares_nothing, **proxy
        ) as shield,
        started(shield),
    ):
        yield shield


VARIABLES = {"user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}
VARIABLES |= {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "connect_timeout": "PGCONNECT_TIMEOUT"}


def libpq_environment(dsn: str) -> dict[str, str]:
    """A connection string as environment variables, for programs: a token does not belong in a list of processes."""
    named = {VARIABLES[name]: str(value) for name, value in conninfo_to_dict(dsn).items()}
    return named | {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PSQL_PAGER": ""}


def _environment() -> dict[str, str]:
    """Nothing of dbshield's own or libpq's that the caller happens to have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
