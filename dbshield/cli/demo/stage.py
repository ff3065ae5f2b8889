"""The demo's stage: a PostgreSQL of its own, dbshield in front of it, and an agent. All of it goes when the demo ends.

dbshield is set up by its own command line, as a user would do it. Should the demo itself be killed, everything it started
ends too: the server is tethered to it, and the proxy's parent waits on a pipe that only the demo holds open.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pyotp
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.cli.demo.story import SHOP
from dbshield.cluster import Cluster, temporary_folder
from dbshield.errors import ClusterError, DbshieldError

Connection = psycopg.Connection[tuple[Any, ...]]

COMMAND = (sys.executable, "-c", "import sys; from dbshield.cli import main; sys.exit(main())")
SUPERVISE = """file=$1; shift; "$@" </dev/null & child=$!; echo "$child" > "$file"
read -r _; kill -TERM "$child" 2>/dev/null; wait "$child\""""
"""Runs a program until standard input ends, then ends the program, whose process id is in the file meanwhile."""

SWEEP = """read -r word; [ "$word" = done ] && exit
n=0; while ls "$1"/*/data/postmaster.pid && [ $n -lt 200 ]; do sleep 0.1; n=$((n+1)); done >/dev/null 2>&1
n=0; while [ -d "$1" ] && [ $n -lt 200 ]; do rm -rf "$1"; sleep 0.1; n=$((n+1)); done"""
"""Removes a folder when standard input ends without the word: first the servers have to end, which is found by those files, and
then those who still write in it."""

SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "30", "autovacuum": "off"}
"""Quick rather than safe: this data is made up and goes away."""

DATABASE, COPY, CONTROL, PRISTINE = "shop", "shop_unprotected", "dbshield", "shop_before"
OWNER, ROLE = "shop_owner", "shop_agent"
EXECUTOR = "shop_executor"
AGENT, ENVIRONMENT, HUMAN = "claude", "demo", "ann"
# The names of variables, for commands that read secrets from them:
PASSWORD_VARIABLE = "DEMO_ROLE_PASSWORD"  # noqa: S105
EXECUTOR_VARIABLE = "DEMO_EXECUTOR_PASSWORD"
CODE_VARIABLE = "DEMO_CODE"
APPROVAL_WAIT = 45
"""Seconds; what a human does here takes two or three."""

OLD_CODE = 15.0
"""Seconds of a half minute in which the code of the one before is still given: the command has to take it by their end."""
COMMAND_TIMEOUT = 60.0
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
POLL = 0.02


class Stage:
    """Enter it, and call the steps in their order; leaving it takes everything away."""

    def __init__(self) -> None:
        self.agent_dsn = ""
        self._password = secrets.token_urlsafe(18)
        self._executor_password = secrets.token_urlsafe(18)
        self._port = _free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._phone: Phone | None = None
        self._folder: Path | None = None
        self._cluster: Cluster | None = None
        self._control: Cluster | None = None
        self.plan: tuple[str, ...] = ()
        """The lines of the configuration that plan backups, once there are any."""

    def __enter__(self) -> Self:
        self._folder = temporary_folder("dbshield-demo-")
        self._sweeper = subprocess.Popen(
            ["/bin/sh", "-c", SWEEP, "dbshield-demo", self._folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._cluster = self.a_cluster("server")
        self._control = self.a_cluster("control", settings={"wal_level": "minimal", "max_wal_senders": "0"})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._sweeper.communicate, b"done\n")
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.callback(self.control.remove)
            stack.callback(self.cluster.remove)
            stack.callback(self._stop_all)

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "the stage was not entered"
        return self._folder

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "the stage was not entered"
        return self._cluster

    @property
    def control(self) -> Cluster:
        """Where dbshield keeps what it knows: not in the database that it protects."""
        assert self._control is not None, "the stage was not entered"
        return self._control

    def a_cluster(self, name: str, *, settings: Mapping[str, str] | None = None) -> Cluster:
        return Cluster(self.folder / name, settings={**SETTINGS, **(settings or {})}, copies=self.folder / "programs")

    @property
    def version(self) -> str:
        return f"{self.cluster.binaries.major}.{self.cluster.binaries.minor}"

    def start_server(self) -> None:
        self.cluster.start(tethered=True, throwaway=True)
        self.control.start(tethered=True, throwaway=True)
        with psycopg.connect(self.control.dsn(), autocommit=True) as control:
            control.execute(sql.SQL("create database {}").format(sql.Identifier(CONTROL)))

    def fill(self) -> int:
        """Make the shop and the role that the agent works as, which may do everything in it; the number of rows."""
        with self.admin() as admin:
            admin.execute(sql.SQL("create role {} nologin").format(sql.Identifier(OWNER)))
            admin.execute(
                sql.SQL("create role {} login password {} in role {}").format(
                    sql.Identifier(ROLE), sql.Literal(self._password), sql.Identifier(OWNER)
                )
            )
            admin.execute(
                sql.SQL("create role {} login password {} in role {}").format(
                    sql.Identifier(EXECUTOR), sql.Literal(self._executor_password), sql.Identifier(OWNER)
                )
            )
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
        with self.admin(DATABASE) as admin:
            admin.execute(sql.SQL("alter schema public owner to {}").format(sql.Identifier(OWNER)))
            admin.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
            admin.execute(SHOP.encode())
            admin.execute("analyze")
            row = admin.execute(
                "select (select count(*) from customers) + (select count(*) from orders) + count(*) from products"
            )
            return int((row.fetchone() or (0,))[0])

    def protect(self) -> list[str]:
        """Configure dbshield and create the agent by the command line; the commands as one would type them."""
        self.configure()
        self.run("init")
        create = ("agent", "create", AGENT, "--environment", ENVIRONMENT, "--access", "migrate", "--json")
        made = json.loads(self.run(*create, "--role", ROLE, "--role-password-env", PASSWORD_VARIABLE))
        self.agent_dsn = made["dsn"]
        self.start("proxy")
        self.until(self._listens, "proxy", "does not listen")
        return [
            "dbshield init",
            f"dbshield agent create {AGENT} --environment {ENVIRONMENT} --access migrate",
            "dbshield proxy",
        ]

    def bring_in_a_human(self) -> list[str]:
        """Enrol somebody who may approve, with the app on their phone, and start what runs what they approve; the commands."""
        made = json.loads(self.run("user", "add", HUMAN, "--json"))
        self._phone = Phone(made["secret"])
        self.run("user", "confirm", HUMAN, "--code-env", CODE_VARIABLE, code=self._phone.code())
        self.configure(executor=True)
        self.start("executor")
        self.until(lambda: "the executor is ready" in self._said("executor"), "executor", "is not ready")
        os.kill(int((self.folder / "proxy.pid").read_text()), signal.SIGHUP)
        self.until(lambda: "configuration reloaded" in self._said("proxy"), "proxy", "did not read its configuration again")
        return [f"dbshield user add {HUMAN}", "dbshield executor"]

    def asked(self) -> dict[str, Any]:
        """What waits for a human, once the executor has looked at what it would do."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = json.loads(self.run("approvals", "list", "--state", "waiting", "--json"))
            return bool(found) and found[0]["preview"] is not None

        self.until(look, "executor", "has not looked at what the agent asks for")
        return found[0]

    def decide(self, *words: str) -> dict[str, Any]:
        """A command that wants the human's code; what it said."""
        assert self._phone is not None, "nobody is there"
        said = self.run(*words, "--person", HUMAN, "--code-env", CODE_VARIABLE, "--json", code=self._phone.code())
        return dict(json.loads(said))

    def verify_audit(self) -> dict[str, Any]:
        """What `dbshield audit verify` says of every entry up to now."""
        return dict(json.loads(self.run("audit", "verify", "--json")))

    def agent(self) -> Connection:
        """Through the proxy, as the agent connects: with the string it was given."""
        return psycopg.connect(self.agent_dsn, autocommit=True, connect_timeout=10)

    def unprotected(self) -> Connection:
        """Around the proxy, with the agent's role, to a copy of the shop."""
        return psycopg.connect(self.cluster.dsn(COPY, ROLE), password=self._password, autocommit=True)

    def admin(self, database: str = "postgres") -> Connection:
        return psycopg.connect(self.cluster.dsn(database), autocommit=True)

    def ask_control(self) -> Connection:
        """Straight to the control database."""
        return psycopg.connect(self.control.dsn(CONTROL), autocommit=True)

    def keep_copy(self) -> None:
        """Put a copy of the shop aside, to make others from while the shop is in use."""
        self._clone(PRISTINE, DATABASE)

    def fresh_copy(self) -> None:
        """A new copy of the shop that nothing protects."""
        self._clone(COPY, PRISTINE)

    def _clone(self, name: str, source: str) -> None:
        with self.admin() as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            # Nobody may be connected to what is copied, and the agent's last session may still be ending.
            admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [source])
            admin.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(sql.Identifier(name), sql.Identifier(source))
            )

    def configure(self, *, executor: bool = False) -> None:
        """Write dbshield.toml."""
        (self.folder / "dbshield.toml").write_text(self._config(executor=executor))

    def _config(self, *, executor: bool) -> str:
        lines = [
            f"state = {json.dumps(str(self.folder / 'state'))}",
            "[control]",
            f"url = {json.dumps(self.control.dsn(CONTROL))}",
            "[proxy]",
            f'listen = ["127.0.0.1:{self._port}"]',
            f"[environments.{ENVIRONMENT}]",
            f"upstream = {json.dumps(make_conninfo(self.cluster.dsn(DATABASE, ROLE)))}",
        ]
        if executor:
            lines += [
                f"executor = {json.dumps(make_conninfo(self.cluster.dsn(DATABASE, EXECUTOR)))}",
                f'executor_password_env = "{EXECUTOR_VARIABLE}"',
                f"approval_wait = {APPROVAL_WAIT}",
            ]
        return "\n".join((*lines, *self.plan, ""))

    def run(self, *words: str, code: str = "") -> str:
        """A dbshield command; what it printed.

        Raises:
            DbshieldError: it failed.
        """
        done = subprocess.run(
            [*COMMAND, *words, "--config", str(self.folder / "dbshield.toml")],
            env=self._environment() | {CODE_VARIABLE: code},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT,
            start_new_session=True,
        )
        if done.returncode:
            raise DbshieldError(f"dbshield {words[0]} failed: {done.stderr.strip()}", hint="Please report this as a bug.")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        """The user's own settings of dbshield and libpq have no place in the demo."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
        return mine | {PASSWORD_VARIABLE: self._password, EXECUTOR_VARIABLE: self._executor_password}

    def start(self, command: str, *words: str) -> None:
        """Start a part of dbshield, which ends with the demo."""
        with self._log(command).open("wb") as log:
            self._running[command] = subprocess.Popen(
                [
                    *("/bin/sh", "-c", SUPERVISE, "dbshield-demo", str(self.folder / f"{command}.pid")),
                    *(*COMMAND, *(words or (command,)), "--config", str(self.folder / "dbshield.toml")),
                ],
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def until(self, holds: Callable[[], bool], command: str, otherwise: str) -> None:
        """Wait for a part of dbshield. ClusterError where it ended, or nothing came of it in time."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._running[command].poll() is None:
            if holds():
                return
            time.sleep(POLL)
        raise ClusterError(f"the {command} {otherwise}: {self._said(command).strip()}", hint="Please report this as a bug.")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False

    def _log(self, command: str) -> Path:
        return self.folder / f"{command}.log"

    def _said(self, command: str) -> str:
        return self._log(command).read_text(errors="replace")

    def _stop_all(self) -> None:
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
        for process in self._running.values():
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


class Phone:
    """A scripted human's authenticator app."""

    def __init__(self, secret: str) -> None:
        self._totp = pyotp.TOTP(secret)
        self._used = 0

    def code(self) -> str:
        """One that was not used yet, for a code works once: of the half minute before, if that is not too long ago for a slow
        machine, of this one, or of the next; when all three are used, of the one after as soon as it is taken."""
        now, elapsed = divmod(time.time(), self._totp.interval)
        step = max(self._used + 1, int(now) - (elapsed < OLD_CODE))
        while step > int(time.time()) // self._totp.interval + 1:
            time.sleep(POLL)
        self._used = step
        return self._totp.generate_otp(step)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
