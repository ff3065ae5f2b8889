"""dbshield as a team runs it: two proxies, an executor, people with authenticator apps. All of it by the command line.

Nothing here calls dbshield's code: what is done is done by the commands that a user types. Only what is waited for is looked at
in the control database, because a command takes a second to start. The two proxies are two processes with state folders of their
own, as on two machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pyotp
from psycopg.conninfo import make_conninfo

from support.cases import facts, oracle
from support.commands import Command, run_command
from support.control import all_heard
from support.ports import free_port
from support.servers import Server
from support.waiting import until

CODE = "TEAM_CODE"
"""The environment variable that commands read secrets from."""
TIMEOUT = 60.0
STARTING = 120.0
"""Seconds for processes that start together on a machine that runs other tests."""
EXECUTOR_ROLE, EXECUTOR_PASSWORD = "team_executor", "only the executor knows it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The protected database of one environment, with the settings of its section that are not what they are by default."""

    server: Server
    database: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def section(self, folder: Path) -> dict[str, Any]:
        address = f"host={self.server.cluster.host} port={self.server.cluster.port} dbname={self.database}"
        return {
            "upstream": f"{address} user=agent_read sslmode=prefer",
            "executor": f"{address} user={EXECUTOR_ROLE} sslmode=prefer",
            "executor_password_file": str(folder / "executor.password"),
            **self.settings,
        }

    def facts(self) -> Any:
        """All that the oracle of the cases looks at."""
        with self.server.connect(self.database) as connection:
            return facts(connection)

    def lost(self, before: Any) -> list[str]:
        """What is not as it was; not even one row may be missing."""
        return list(oracle.losses(before, self.facts(), row_limit=0))

    def prepare(self) -> None:
        """A fresh clone of the seeded database, and the executor's role: member of the owner of everything, no superuser."""
        self.server.clone(self.database)
        with self.server.connect() as admin:
            if admin.execute("select 1 from pg_roles where rolname = %s", [EXECUTOR_ROLE]).fetchone() is None:
                admin.execute(f"create role {EXECUTOR_ROLE} login password '{EXECUTOR_PASSWORD}' in role app_owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an authenticator app."""

    name: str
    secret: str

    def code(self) -> str:
        return pyotp.TOTP(self.secret).now()


class Company:
    """`places` are its environments by name, `alerts` an apprise URL that is told of everything at once. `agents` have their
    connection strings once they are created."""

    def __init__(self, folder: Path, control: str, places: Mapping[str, Place], *, alerts: str = "") -> None:
        self.folder = folder
        self.control = control
        self.places = dict(places)
        self.ports = (free_port(), free_port())
        self.agents: dict[str, str] = {}
        self.people: dict[str, Person] = {}
        folder.mkdir(parents=True)
        (folder / "second").mkdir()
        (folder / "executor.password").write_text(EXECUTOR_PASSWORD + "\n")
        (folder / "executor.password").chmod(0o600)
        self._proxies: tuple[subprocess.Popen[bytes], ...] = ()
        self._alerts: list[str] = []
        if alerts:
            path = folder / "alerts.url"
            path.write_text(alerts + "\n")
            path.chmod(0o600)
            self._alerts = ["[alerts.team]", f"url_file = {json.dumps(str(path))}", "group_seconds = 0", "min_interval = 0"]
        self.configure()

    @property
    def configs(self) -> tuple[Path, Path]:
        """Of the first proxy, which commands and the executor use too, and of the second."""
        return self.folder / "dbshield.toml", self.folder / "second" / "dbshield.toml"

    @property
    def logs(self) -> tuple[Path, Path]:
        return self.folder / "first.log", self.folder / "second.log"

    def configure(self, **environment: Any) -> None:
        """Write both configurations, with these settings in every environment besides its own."""
        for path, port in zip(self.configs, self.ports, strict=True):
            lines = [f"state = {json.dumps(str(path.parent / 'state'))}", "[control]", f"url = {json.dumps(self.control)}"]
            lines += [f"key_file = {json.dumps(str(self.folder / 'state' / 'secret.key'))}"]
            lines += ["[proxy]", f'listen = ["127.0.0.1:{port}"]', "drain_timeout = 10.0"]
            for name, place in self.places.items():
                lines.append(f"[environments.{name}]")
                section = {**place.section(self.folder), **environment}
                lines += [f"{key} = {json.dumps(value)}" for key, value in section.items()]
            path.write_text("\n".join([*lines, *self._alerts]) + "\n")

    def run(self, *words: str, code: str = "") -> subprocess.CompletedProcess[str]:
        """A command, which has to end without a traceback. `code` is what --code-env and other options with CODE read."""
        env = _environment() | ({CODE: code} if code else {})
        done = run_command([*words, "--config", str(self.configs[0])], env=env, timeout=TIMEOUT)
        if self._proxies:
            all_heard(self.control, workers=len(self._proxies))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def cli(self, *words: str, code: str = "") -> Any:
        """A command with --json, which has to succeed; what it said, read."""
        done = self.run(*words, "--json", code=code)
        assert done.returncode == 0, f"dbshield {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def code(self, person: str) -> str:
        """The code that the person's app shows. It works again, as if half a minute had gone by since it was used."""
        with psycopg.connect(self.control) as control:
            control.execute("update dbshield.people set last_step = 0")
        return self.people[person].code()

    def decide(self, *words: str, person: str = "ann") -> Any:
        """A command that wants a person's code."""
        return self.cli(*words, "--person", person, "--code-env", CODE, code=self.code(person))

    def set_up(self, *people: str) -> None:
        """Tables, the guard in every database, and people; from the second on, the first vouches."""
        assert self.run("init").returncode == 0
        for name, place in self.places.items():
            self.cli("guard", "install", "--environment", name, "--dsn", place.server.dsn(place.database))
        for name in people:
            first = next(iter(self.people.values()), None)
            vouch = ("--vouch", first.name, "--code-env", CODE) if first else ()
            made = self.cli("user", "add", name, *vouch, code=self.code(first.name) if first else "")
            self.people[name] = Person(name=name, secret=made["secret"])
            self.cli("user", "confirm", name, "--code-env", CODE, code=self.code(name))

    def agent(self, name: str, access: str, environment: str, *options: str) -> dict[str, Any]:
        """Create an agent with a role of its own."""
        place = self.places[environment]
        made: dict[str, Any] = self.cli(
            "agent", "create", name, "-e", environment, "-a", access, "--dsn", place.server.dsn(place.database), *options
        )
        self.agents[name] = made["dsn"]
        return made

    def dsn(self, agent: str, proxy: int = 0, **changed: Any) -> str:
        return make_conninfo(self.agents[agent], **{"port": self.ports[proxy], "connect_timeout": 30, **changed})

    def connect(self, agent: str, proxy: int = 0, **changed: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """As the agent, through one of the proxies, in autocommit mode."""
        return psycopg.connect(self.dsn(agent, proxy, **changed), autocommit=True)

    def refusal(self, agent: str, proxy: int = 0, **changed: Any) -> str:
        """What somebody reads who is not let in; empty where they are."""
        try:
            self.connect(agent, proxy, **changed).close()
        except psycopg.OperationalError as error:
            return str(error)
        return ""

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Both proxies and the executor, while they run; they have to end in order and to have met no bug."""
        with (
            self.process("executor", self.configs[0], self.folder / "executor.log"),
            self.process("proxy", self.configs[0], self.logs[0]) as first,
            self.process("proxy", self.configs[1], self.logs[1]) as second,
        ):
            self._proxies = (first, second)
            for port in self.ports:
                assert until(lambda port=port: _listens(port), deadline=STARTING), self.said()  # type: ignore[misc]
            try:
                yield
            finally:
                self._proxies = ()

    @contextlib.contextmanager
    def process(self, command: str, config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("ab") as out:
            words = [command, "--config", str(config)]
            process = Command(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment())
        try:
            yield process
            assert process.poll() is None, f"{command} ended by itself:\n{log.read_text()}"
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(TIMEOUT)
        said = log.read_text()
        assert status == 0, f"{command} ended with {status}:\n{said}"
        assert "Traceback" not in said, said

    @contextlib.contextmanager
    def configured(self, **environment: Any) -> Iterator[None]:
        """Both proxies with other settings of every environment, and then with their own again."""
        self._reload(environment)
        try:
            yield
        finally:
            self._reload({})

    @contextlib.contextmanager
    def mistaken(self, environment: str, place: Place, port: int) -> Iterator[int]:
        """A third proxy, whose configuration leads an environment to another one's server; its port."""
        right, folder = self.places[environment], self.folder / "mistaken"
        folder.mkdir()
        text = self.configs[0].read_text().replace(f"127.0.0.1:{self.ports[0]}", f"127.0.0.1:{port}")
        text = text.replace(str(self.folder / "state"), str(folder / "state"), 1)
        for name, value in right.section(self.folder).items():
            text = text.replace(f"{name} = {json.dumps(value)}", f"{name} = {json.dumps(place.section(self.folder)[name])}", 1)
        config = folder / "dbshield.toml"
        config.write_text(text)
        with self.process("proxy", config, folder / "proxy.log"):
            assert until(lambda: _listens(port), deadline=STARTING), (folder / "proxy.log").read_text()
            yield port

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs if log.exists())

    def waiting(self, condition: str = "true") -> list[str]:
        """The ids of the approvals that wait."""
        query = f"select id from dbshield.approvals where state = 'waiting' and expires_at > now() and {condition}"
        with psycopg.connect(self.control) as control:
            return [str(name) for (name,) in control.execute(query.encode()).fetchall()]

    def state(self, approval: str) -> str:
        with psycopg.connect(self.control) as control:
            row = control.execute("select state from dbshield.approvals where id = %s", [approval]).fetchone()
        assert row is not None
        return str(row[0])

    def asked(self, *, previewed: bool = False) -> dict[str, Any]:
        """The one approval that waits, once it does; `previewed`: once the executor has looked at it too."""
        condition = "preview is not null" if previewed else "true"
        assert until(lambda: self.waiting(condition)), f"nobody asks:\n{self.said()}"
        [approval] = self.waiting()
        shown: dict[str, Any] = self.cli("approvals", "show", approval)
        return shown

    def audited(self, *words: str) -> list[dict[str, Any]]:
        """What `audit search` finds, newest last: the entries alone."""
        done = self.run("audit", "search", *words, "--limit", "1000", "--json")
        assert done.returncode in {0, 1}, done.stderr
        return [json.loads(line)["entry"] for line in done.stdout.splitlines()]

    def _reload(self, environment: Mapping[str, Any]) -> None:
        before = [log.read_text().count("configuration reloaded") for log in self.logs]
        self.configure(**environment)
        for process in self._proxies:
            process.send_signal(signal.SIGHUP)
        for log, count in zip(self.logs, before, strict=True):
            assert until(lambda log=log, count=count: log.read_text().count("configuration reloaded") > count)  # type: ignore[misc]


def silent_until(connections: Sequence[psycopg.Connection[Any]], deadline: float = 10.0) -> None:
    """Wait until each of these idle sessions has heard something."""
    waiting = {connection.fileno(): connection for connection in connections}
    end = time.monotonic() + deadline
    while waiting:
        assert time.monotonic() < end, f"{len(waiting)} of {len(connections)} sessions still stand after {deadline} s"
        for number in select.select(list(waiting), [], [], 0.05)[0]:
            del waiting[number]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _environment() -> dict[str, str]:
    """Nothing of dbshield's own or libpq's that the caller happens to have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
