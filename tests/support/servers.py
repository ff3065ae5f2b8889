"""The PostgreSQL servers of one run of the tests.

One folder a run holds everything: the process that pytest was started as makes it and removes it; every worker finds it in
the environment. A server is started by the first worker that needs it (a cluster's own lock lets exactly one do so) and
stopped with the run. Should pytest itself be killed, a watcher that waits on a pipe to it stops the servers.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.cluster import Binaries, Cluster, debian_binaries, embedded_binaries, temporary_folder
from dbshield.cluster.account import server_account
from dbshield.errors import ClusterError
from support.memory import memory_folder
from support.pki import Authority, Certificate
from support.ports import free_port
from support.waiting import until

RUN = "DBSHIELD_TEST_RUN"
REQUIRE = "DBSHIELD_REQUIRE_SERVERS"
CASES = Path(__file__).parent.parent / "cases"
ACCESS = ("read", "write", "migrate")
TEMPLATE = "seeded_tmpl"
"""Holds cases/seed.sql and the agents' rights; everything else is cloned from it."""

SOURCES: dict[int, Callable[[], Binaries]] = {18: embedded_binaries, 15: lambda: debian_binaries(15)}

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_prepared_transactions": "10",
    "max_connections": "1300",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A query that a failed test leaves behind shall not run on for hours.
    "statement_timeout": "120s",
    # A backend in the middle of a query sees that its client is gone, so that the tests can see that it is.
    "client_connection_check_interval": "200ms",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}
RIGHTS = """
grant usage on schema shop, archive to agent_read, agent_write, agent_migrate;
grant select on all tables in schema shop, archive to agent_read, agent_write, agent_migrate;
grant insert, update, delete on all tables in schema shop, archive to agent_write, agent_migrate;
grant usage on all sequences in schema shop to agent_write, agent_migrate;
grant execute on all routines in schema shop to agent_write, agent_migrate;
"""
"""As cases/validate.py hands them out; the roles themselves are made once a server."""

_OWN = count(1)
_started: list[Cluster] = []
"""What this process started, kept for as long as it lives: a server outlives the worker that happened to need it first."""


@cache
def majors() -> tuple[int, ...]:
    """The versions the tests run on: those that are here, and an error for one that is required and is not.

    Raises:
        ClusterError: a required version is missing.
    """
    required = {int(word) for word in os.environ.get(REQUIRE, "").split(",") if word.strip()}
    found = []
    for major, source in SOURCES.items():
        try:
            source()
        except ClusterError:
            if major in required or major == 18:
                raise
            continue
        found.append(major)
    if unknown := required - set(SOURCES):
        raise ClusterError(f"{REQUIRE} names {unknown}, which the tests do not know")
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: `major` version, its cluster, the agents' passwords, and the CA of its certificate (TLS on 15)."""

    major: int
    cluster: Cluster
    passwords: dict[str, str]
    ca: Path

    @property
    def tls(self) -> bool:
        return self.major == 15

    def dsn(self, dbname: str = "postgres") -> str:
        """As the superuser, over the socket."""
        return self.cluster.dsn(dbname)

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.dsn(dbname), autocommit=True)

    def agent_dsn(self, access: str, dbname: str) -> str:
        """As an agent's role, straight to the server over TCP: what the proxy does."""
        return make_conninfo(
            host=self.cluster.host, port=self.cluster.port, user=f"agent_{access}", password=self.passwords[access], dbname=dbname
        )

    def clone(self, name: str) -> None:
        """A fresh copy of the seeded database under this name, whatever was there before."""
        with self.connect() as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            admin.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
            admin.execute(sql.SQL("grant create on database {} to agent_migrate").format(sql.Identifier(name)))

    def drop(self, name: str) -> None:
        with self.connect() as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make the folder of this run, and in the end stop whatever runs in it and remove it, and with it all temporary files where
    they are in memory."""
    memory = memory_folder()
    if memory is not None:
        os.environ["TMPDIR"] = str(memory)
        tempfile.tempdir = None
    folder = temporary_folder("dbshield-test-" if memory is None else "run-")
    script = (
        'read -r _; for pid in "$1"/*/data/postmaster.pid; do [ -f "$pid" ] && kill -QUIT "$(head -n 1 "$pid")"; done; '
        'rm -rf -- "$2"'
    )
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, "dbshield-test-watcher", folder, memory or folder],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.environ[RUN] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[RUN]
        # Those that this process started first, so that it sees its children end.
        for cluster in [*_started, *(Cluster(data.parent) for data in folder.glob("*/data"))]:
            cluster.stop("immediate")
        _started.clear()
        # A worker's last process may write there while it ends.
        assert until(lambda: _removed(memory or folder)), f"{folder} cannot be removed"
        if memory is not None:
            del os.environ["TMPDIR"]
            tempfile.tempdir = None
        watcher.send_signal(signal.SIGKILL)
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def here() -> Path:
    """The folder of this run."""
    return Path(os.environ[RUN])


@contextmanager
def locked(what: str = "lock") -> Iterator[None]:
    """One worker at a time; `what` tells apart what has nothing to do with each other."""
    with (here() / what).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def shared_server(major: int) -> Server:
    """The server of this version that all workers share, started and seeded by whoever asks first."""
    return start(major, f"pg{major}")


def start(major: int, name: str) -> Server:
    """The server in the run's folder `name`; started and seeded if it is not yet."""
    folder = here() / name
    with locked():
        ca, certificate = _pki(name)
        settings = dict(SETTINGS)
        if major == 15:
            settings |= {"ssl": "on", "ssl_cert_file": str(certificate.certificate), "ssl_key_file": str(certificate.key)}
        port = here() / f"{name}.port"
        # A server that is started again keeps its port, as those who connect to it expect. So it is none that the kernel gives
        # away meanwhile, for somebody's connection.
        if not port.exists():
            port.write_text(str(free_port()))
        cluster = Cluster(folder, binaries=SOURCES[major](), listen=True, settings=settings, port=int(port.read_text()))
        cluster.start()
        _started.append(cluster)
        secret = here() / f"{name}.secret"
        if not secret.exists():
            secret.write_text(secrets.token_urlsafe(12))
        passwords = {access: f"{access}-{secret.read_text()}" for access in ACCESS}
        server = Server(major=major, cluster=cluster, passwords=passwords, ca=ca)
        _seed(server)
    return server


@contextmanager
def own_server(major: int, name: str) -> Iterator[Server]:
    """A server of a module's or a test's own, since the guard's and the agents' roles belong to the whole cluster.

    A fresh one each time, under a folder's name that is used once in a run: a module's tests may come to one worker in several
    portions, and what is left of a server that was stopped at once need not be what its last test left.
    """
    server = start(major, f"{name}-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}-{next(_OWN)}")
    try:
        yield server
    finally:
        server.cluster.remove()


def _pki(name: str) -> tuple[Path, Certificate]:
    """The CA and the server's certificate, and with the first of them the proxy's."""
    folder = here() / f"{name}-pki"
    if not folder.exists():
        folder.mkdir()
        folder.chmod(0o711)
        authority = Authority(folder)
        authority.server("proxy")
        made = authority.server("server")
        for path in (made.key, made.certificate):
            server_account().own(path, 0o600)
    return folder / "ca.pem", Certificate(certificate=folder / "server.pem", key=folder / "server.key")


def _seed(server: Server) -> None:
    """Make the roles and the template database, once."""
    seed = (CASES / "seed.sql").read_text()
    create_role = re.compile(r"^create role \w+ .*;$", re.MULTILINE)
    with server.connect() as admin:
        if admin.execute("select 1 from pg_database where datname = %s and datistemplate", [TEMPLATE]).fetchone():
            return
        for statement in create_role.findall(seed):
            admin.execute(statement)
        for access in ACCESS:
            role = sql.Identifier(f"agent_{access}")
            admin.execute(sql.SQL("create role {} login password {}").format(role, sql.Literal(server.passwords[access])))
        admin.execute("grant app_owner to agent_migrate")
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
        with server.connect(TEMPLATE) as conn:
            conn.execute(create_role.sub("", seed).encode())
            conn.execute(RIGHTS)
            conn.execute("vacuum analyze")
        admin.execute(sql.SQL("alter database {} is_template true").format(sql.Identifier(TEMPLATE)))
