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
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.cli.demo.story import SHOP
from dbshield.cluster import Cluster, temporary_folder
from dbshield.errors import ClusterError, DbshieldError

Connection = psycopg.Connection[tuple[Any, ...]]

COMMAND = (sys.executable, "-c", "import sys; from dbshield.cli import main; sys.exit(main())")
SUPERVISE = '"$@" </dev/null & child=$!; read -r _; kill -TERM "$child" 2>/dev/null; wait "$child"'
"""Runs a program until standard input ends, then ends the program."""

SWEEP = """read -r word; [ "$word" = done ] && exit
n=0; while [ -d "$1" ] && [ $n -lt 200 ]; do rm -rf "$1"; sleep 0.1; n=$((n+1)); done"""
"""Removes a folder when standard input ends without the word, while those who still write in it are ending."""

SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "30", "autovacuum": "off"}
"""Quick rather than safe: this data is made up and goes away."""

DATABASE, COPY, CONTROL, PRISTINE = "shop", "shop_unprotected", "dbshield", "shop_before"
OWNER, ROLE = "shop_owner", "shop_agent"
AGENT, ENVIRONMENT = "claude", "demo"
PASSWORD_VARIABLE = "DEMO_ROLE_PASSWORD"  # noqa: S105 - the name of a variable

COMMAND_TIMEOUT = 60.0
PROXY_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
POLL = 0.02


class Stage:
    """Enter it, and call the steps in their order; leaving it takes everything away."""

    def __init__(self) -> None:
        self.agent_dsn = ""
        self._password = secrets.token_urlsafe(18)
        self._port = _free_port()
        self._proxy: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._cluster: Cluster | None = None

    def __enter__(self) -> Self:
        self._folder = temporary_folder("dbshield-demo-")
        self._sweeper = subprocess.Popen(
            ["/bin/sh", "-c", SWEEP, "dbshield-demo", self._folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._cluster = Cluster(self._folder / "server", settings=SETTINGS, copies=self._folder / "programs")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._sweeper.communicate, b"done\n")
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.callback(self.cluster.remove)
            stack.callback(self._stop_proxy)

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "the stage was not entered"
        return self._folder

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "the stage was not entered"
        return self._cluster

    @property
    def version(self) -> str:
        return f"{self.cluster.binaries.major}.{self.cluster.binaries.minor}"

    def start_server(self) -> None:
        self.cluster.start(tethered=True, throwaway=True)

    def fill(self) -> int:
        """Make the shop and the role that the agent works as, which may do everything in it; the number of rows."""
        with self.admin() as admin:
            admin.execute(sql.SQL("create role {} nologin").format(sql.Identifier(OWNER)))
            admin.execute(
                sql.SQL("create role {} login password {} in role {}").format(
                    sql.Identifier(ROLE), sql.Literal(self._password), sql.Identifier(OWNER)
                )
            )
            for name in (DATABASE, CONTROL):
                admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with self.admin(DATABASE) as admin:
            admin.execute(sql.SQL("alter schema public owner to {}").format(sql.Identifier(OWNER)))
            admin.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
            admin.execute(SHOP.encode())
            row = admin.execute(
                "select (select count(*) from customers) + (select count(*) from orders) + count(*) from products"
            )
            return int((row.fetchone() or (0,))[0])

    def protect(self) -> list[str]:
        """Configure dbshield and create the agent by the command line; the commands as one would type them."""
        (self.folder / "dbshield.toml").write_text(self._config())
        self._run("init")
        create = ("agent", "create", AGENT, "--environment", ENVIRONMENT, "--access", "migrate", "--json")
        made = json.loads(self._run(*create, "--role", ROLE, "--role-password-env", PASSWORD_VARIABLE))
        self.agent_dsn = made["dsn"]
        self._start_proxy()
        return [
            "dbshield init",
            f"dbshield agent create {AGENT} --environment {ENVIRONMENT} --access migrate",
            "dbshield proxy",
        ]

    def agent(self) -> Connection:
        """Through the proxy, as the agent connects: with the string it was given."""
        return psycopg.connect(self.agent_dsn, autocommit=True, connect_timeout=10)

    def unprotected(self) -> Connection:
        """Around the proxy, with the agent's role, to a copy of the shop."""
        return psycopg.connect(self.cluster.dsn(COPY, ROLE), password=self._password, autocommit=True)

    def admin(self, database: str = "postgres") -> Connection:
        return psycopg.connect(self.cluster.dsn(database), autocommit=True)

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

    def _config(self) -> str:
        upstream = make_conninfo(self.cluster.dsn(DATABASE, ROLE))
        return "\n".join(
            (
                f"state = {json.dumps(str(self.folder / 'state'))}",
                "[control]",
                f"url = {json.dumps(self.cluster.dsn(CONTROL))}",
                "[proxy]",
                f'listen = ["127.0.0.1:{self._port}"]',
                f"[environments.{ENVIRONMENT}]",
                f"upstream = {json.dumps(upstream)}",
                "",
            )
        )

    def _run(self, *words: str) -> str:
        """A dbshield command; what it printed.

        Raises:
            DbshieldError: it failed.
        """
        done = subprocess.run(
            [*COMMAND, *words, "--config", str(self.folder / "dbshield.toml")],
            env=self._environment(),
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
        return mine | {PASSWORD_VARIABLE: self._password}

    def _start_proxy(self) -> None:
        with (self.folder / "proxy.log").open("wb") as log:
            self._proxy = subprocess.Popen(
                ["/bin/sh", "-c", SUPERVISE, "dbshield-demo", *COMMAND, "proxy", "--config", str(self.folder / "dbshield.toml")],
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PROXY_TIMEOUT
        while time.monotonic() < deadline and self._proxy.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(POLL)
        said = (self.folder / "proxy.log").read_text(errors="replace").strip()
        raise ClusterError(f"the proxy did not start: {said}", hint="Please report this as a bug.")

    def _stop_proxy(self) -> None:
        if self._proxy is None:
            return
        assert self._proxy.stdin is not None
        self._proxy.stdin.close()
        try:
            self._proxy.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._proxy.pid, 9)
            self._proxy.wait()
        self._proxy = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
