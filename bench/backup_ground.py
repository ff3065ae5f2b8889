"""The server whose backups are measured, its control database, and dbshield's configuration with its plans."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.model import BenchError
from dbshield.cluster import Cluster, debian_binaries
from dbshield.cluster.account import server_account

DATABASE: Final = "shop"
CONTROL: Final = "control"
MAJOR: Final = 15
"""Debian's: it has zstandard, which the wheel's has not, and Debian's pgBackRest knows nothing newer."""
LEVEL: Final = 3
"""zstandard's level, of everybody who has it."""
JOBS: Final = 2
MB_A_SCALE: Final = 30.0
"""Megabytes a unit of pgbench's scale: half of them its own tables, which pack to a tenth; half texts that pack to a half."""
TEXTS_A_SCALE: Final = 60_000
TEXTS: Final = """
    create table texts as
    select i as id, 'customer number ' || i as name, (i * 37 %% 1000000) / 100.0 as amount,
        timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second' as made,
        md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text) || md5((i + 3)::text) || md5((i + 4)::text) as text
    from generate_series(1, %s) as i
"""
SETTINGS: Final = {
    "wal_level": "replica",
    "archive_mode": "on",
    "fsync": "off",
    "full_page_writes": "on",
    "autovacuum": "off",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "256MB",
    "jit": "off",
}
TIMEOUT: Final = 3600.0
QUIET_ARCHIVE: Final = "true"
"""An archive_command that throws away what filling the tables writes."""


def call(
    arguments: Sequence[str | Path], *, variables: Mapping[str, str], as_server: bool = False, into: Path | None = None
) -> str:
    """Run a program to its end; what it printed. Raises BenchError with its last lines."""
    account = server_account()
    lent: dict[str, Any] = {}
    if as_server and account.lent:
        lent = {"user": account.uid, "group": account.gid, "extra_groups": []}
    out = into.open("wb") if into is not None else subprocess.PIPE
    try:
        done = subprocess.run(
            list(arguments), env=dict(variables), cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
            timeout=TIMEOUT, check=False, **lent,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{Path(arguments[0]).name} did not end: {error}") from error
    finally:
        if into is not None:
            out.close()  # type: ignore[union-attr]
    if done.returncode:
        last = " / ".join(done.stderr.decode("utf-8", "replace").strip().splitlines()[-3:])
        raise BenchError(f"{Path(arguments[0]).name} ended with {done.returncode}: {last}")
    return (done.stdout or b"").decode("utf-8", "replace")


class Ground:
    """Everything that is measured stands here; `folder` belongs to the account of servers and is gone afterwards."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self.scale = max(1, round(megabytes / MB_A_SCALE))
        self.binaries = debian_binaries(MAJOR)
        own = ('local replication "postgres" peer map=dbshield',)
        self.server = Cluster(folder / "server", binaries=self.binaries, settings=SETTINGS, hba=own)
        self.control = Cluster(folder / "control", binaries=self.binaries, settings={"fsync": "off"})
        self.home = folder / "dbshield"
        self.config = self.home / "dbshield.toml"
        self.identity = self.home / "identity.txt"
        self.bytes = 0
        """Of the whole cluster, as PostgreSQL counts it: what every rate is in."""

    def start(self) -> None:
        """Servers, tables, configuration, keys. They go when this process does."""
        for cluster, database in ((self.server, DATABASE), (self.control, CONTROL)):
            cluster.start(throwaway=True)
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute(f"alter system set archive_command = '{QUIET_ARCHIVE}'")
                connection.execute("select pg_reload_conf()")
                connection.execute(f"create database {database}")
        fill: list[str | Path] = [self.binaries.program("pgbench"), "--initialize", "--quiet", f"--scale={self.scale}", DATABASE]
        call(fill, variables=self.variables())
        with psycopg.connect(self.server.dsn(DATABASE), autocommit=True) as connection:
            connection.execute(TEXTS, [self.scale * TEXTS_A_SCALE])
            connection.execute("vacuum (freeze, analyze) texts")
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute("checkpoint")
            row = connection.execute("select sum(pg_database_size(oid))::bigint from pg_database").fetchone()
        self.bytes = int(row[0]) if row else 0
        self.home.mkdir(mode=0o700)
        self._write()
        self.dbshield("init")
        made = json.loads(self.dbshield("backup", "key", "--identity", str(self.identity), "--json"))
        self._write(recipient=made["recipient"])

    def stop(self) -> None:
        self.server.remove()
        self.control.remove()

    def variables(self, *, database: str = DATABASE) -> dict[str, str]:
        """libpq's variables for PostgreSQL's own programs."""
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            "PGHOST": str(self.server.socket_folder),
            "PGPORT": str(self.server.port),
            "PGUSER": "postgres",
            "PGDATABASE": database,
        }

    def dbshield(self, *words: str) -> str:
        """A command of dbshield's; what it printed."""
        variables = {"PATH": "/usr/bin:/bin", "DBSHIELD_CONFIG": str(self.config), "LC_ALL": "C.UTF-8"}
        return call([Path(sys.executable).parent / "dbshield", *words], variables=variables)

    def a_cluster(self, name: str) -> Cluster:
        """A place for a restored server, which archives nothing."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        server_account().own(folder, 0o700)
        return Cluster(folder, binaries=self.binaries, settings={"archive_mode": "off", "fsync": "off"})

    def destination(self, plan: str) -> Path:
        return self.home / "backups" / plan

    def forget(self, plan: str) -> None:
        """Remove a plan's snapshots from the disk."""
        shutil.rmtree(self.destination(plan), ignore_errors=True)

    def _write(self, recipient: str = "") -> None:
        sealed = f'encrypt_to = ["{recipient}"]\nidentity_file = "{self.identity}"' if recipient else 'encryption = "none"'
        plans = "".join(
            f'[backup.{engine}]\nenvironment = "bench"\nengine = "{engine}"\ndestination = "file://{self.destination(engine)}"\n'
            f'same_device = "allowed"\nsame_account = "allowed"\njobs = {JOBS}\ncompression_level = {LEVEL}\n'
            f'drill_folder = "{self.folder / "drills"}"\n{sealed}\n'
            for engine in ("logical", "physical")
        )
        server, control = self.server, self.control
        self.config.write_text(
            f'state = "{self.home / "state"}"\n[control]\n'
            f'url = "host={control.socket_folder} port={control.port} user=postgres dbname={CONTROL}"\n'
            f'[environments.bench]\nupstream = "host={server.socket_folder} port={server.port} user=postgres dbname={DATABASE}"\n'
            + plans
        )
