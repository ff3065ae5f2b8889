"""Who makes backups of the bench's server and restores them: PostgreSQL's own tools, pgBackRest, and dbshield's engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psycopg

from bench.backup_ground import DATABASE, JOBS, LEVEL, QUIET_ARCHIVE, Ground, call
from bench.model import BenchError
from dbshield.backup.run import take
from dbshield.cluster import Cluster
from dbshield.cluster.account import server_account
from dbshield.config import load_config
from dbshield.errors import DbshieldError
from dbshield.store.database import Database

COPYING = ("base backup", "read", "store")
"""Steps of a backup in which data goes to the destination."""
LAYING = ("download",)
"""Phases of a restore in which data comes from there; the rest boots it, replays, compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds: `copy` until the data was there, `whole` until the work was over. `stored` in bytes, of a backup."""

    copy: float
    whole: float
    stored: int = 0


class Contender(Protocol):
    """One way to back up and restore. `stop` removes what it backed up."""

    @property
    def name(self) -> str: ...

    def back_up(self) -> Took: ...

    def restore(self) -> Took: ...

    def stop(self) -> None: ...


class Steps:
    """Progress that tells how long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since = "prepare", time.monotonic()

    def step(self, name: str, total: int | None) -> None:
        now = time.monotonic()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name.removesuffix(f" {DATABASE}"), now

    def advance(self, amount: int) -> None:
        """How far it is does not matter here."""


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(slots=True)
class Dump:
    """pg_dump in the directory format, which PostgreSQL 15 compresses with zlib alone; pg_restore into a server that runs."""

    ground: Ground
    name: str = f"pg_dump, {JOBS} jobs, zlib"
    _cluster: Cluster | None = None

    def back_up(self) -> Took:
        target = self.ground.folder / "dump"
        shutil.rmtree(target, ignore_errors=True)
        begin = time.monotonic()
        program = self.ground.binaries.program("pg_dump")
        call([program, "--format=directory", f"--jobs={JOBS}", f"--file={target}"], variables=self.ground.variables())
        taken = time.monotonic() - begin
        return Took(copy=taken, whole=taken, stored=size_of(target))

    def restore(self) -> Took:
        cluster = self.ground.a_cluster("from-dump")
        try:
            cluster.start(throwaway=True)
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute(f"create database {DATABASE}")
            variables = self.ground.variables() | {"PGHOST": str(cluster.socket_folder), "PGPORT": str(cluster.port)}
            begin = time.monotonic()
            program = self.ground.binaries.program("pg_restore")
            call([program, f"--jobs={JOBS}", f"--dbname={DATABASE}", self.ground.folder / "dump"], variables=variables)
            taken = time.monotonic() - begin
            return Took(copy=taken, whole=taken)
        finally:
            cluster.remove()

    def stop(self) -> None:
        shutil.rmtree(self.ground.folder / "dump", ignore_errors=True)


@dataclass(slots=True)
class BaseBackup:
    """pg_basebackup that compresses as dbshield does, by itself or with as many threads; then tar, and a server on it."""

    ground: Ground
    workers: int = 0

    @property
    def name(self) -> str:
        return f"pg_basebackup, zstd {LEVEL}" + (f", {self.workers} threads" if self.workers else "")

    def back_up(self) -> Took:
        target = self.ground.folder / "base"
        shutil.rmtree(target, ignore_errors=True)
        begin = time.monotonic()
        call(
            [
                self.ground.binaries.program("pg_basebackup"), "--format=tar", "--wal-method=fetch", "--checkpoint=fast",
                f"--compress=client-zstd:level={LEVEL},workers={self.workers}", f"--pgdata={target}",
            ],
            variables=self.ground.variables(),
        )  # fmt: skip
        taken = time.monotonic() - begin
        return Took(copy=taken, whole=taken, stored=size_of(target))

    def restore(self) -> Took:
        cluster = self.ground.a_cluster("from-base")
        begin = time.monotonic()
        cluster.data.mkdir(mode=0o700)
        _untar(self.ground.folder / "base" / "base.tar.zst", cluster.data)
        return _booted(cluster, begin)

    def stop(self) -> None:
        shutil.rmtree(self.ground.folder / "base", ignore_errors=True)


class PgBackRest:
    """pgBackRest by itself, with zstandard and its own encryption."""

    name = f"pgBackRest, {JOBS} processes, zst {LEVEL}, aes-256-cbc"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._folder = ground.folder / "pgbackrest"
        self._config = self._folder / "pgbackrest.conf"
        if shutil.which("pgbackrest") is None:
            raise BenchError("pgBackRest is not installed")
        for path in (self._folder, *(self._folder / name for name in ("repository", "log", "lock"))):
            path.mkdir()
            server_account().own(path, 0o750)
        server = ground.server
        self._config.write_text(
            f"[global]\nrepo1-path={self._folder}/repository\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=bench\n"
            f"repo1-retention-full=9999999\nlog-path={self._folder}/log\nlock-path={self._folder}/lock\n"
            f"compress-type=zst\ncompress-level={LEVEL}\nprocess-max={JOBS}\n"
            f"[bench]\npg1-path={server.data}\npg1-socket-path={server.socket_folder}\npg1-port={server.port}\npg1-user=postgres\n"
        )
        server_account().own(self._config, 0o600)
        self._push = f"pgbackrest --config={self._config} --stanza=bench archive-push %p"

    def back_up(self) -> Took:
        # Its archive is on while it works, and in nobody else's way.
        self._call("stanza-create")
        self._archive(self._push)
        try:
            begin = time.monotonic()
            self._call("backup", "--type=full", "--start-fast")
            taken = time.monotonic() - begin
        finally:
            self._archive(QUIET_ARCHIVE)
        return Took(copy=taken, whole=taken, stored=size_of(self._folder / "repository" / "backup" / "bench" / "latest"))

    def restore(self) -> Took:
        cluster = self._ground.a_cluster("from-pgbackrest")
        begin = time.monotonic()
        cluster.data.mkdir(mode=0o700)
        server_account().own(cluster.data, 0o700)
        self._call("restore", f"--pg1-path={cluster.data}", "--type=immediate", "--target-action=promote")
        return _booted(cluster, begin)

    def stop(self) -> None:
        repository = self._folder / "repository"
        shutil.rmtree(repository, ignore_errors=True)
        repository.mkdir()
        server_account().own(repository, 0o750)

    def _call(self, verb: str, *words: str) -> None:
        options = [f"--config={self._config}", "--stanza=bench", "--log-level-console=off", "--log-level-stderr=error"]
        call(
            ["pgbackrest", *options, verb, *words],
            variables={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/"},
            as_server=True,
        )

    def _archive(self, command: str) -> None:
        with psycopg.connect(self._ground.server.dsn(), autocommit=True) as connection:
            connection.execute("alter system set archive_command = '" + command.replace("'", "''") + "'")
            connection.execute("select pg_reload_conf()")


@dataclass(slots=True)
class Shield:
    """dbshield: compressed, sealed, counted and fingerprinted; restored, compared and synced."""

    ground: Ground
    engine: str

    @property
    def name(self) -> str:
        return f"dbshield {self.engine}, zstd {LEVEL}, {JOBS} threads, age"

    def back_up(self) -> Took:
        config = load_config(self.ground.config)
        database = Database(config.control.dsn())
        steps = Steps()
        begin = time.monotonic()
        try:
            made = take(config, self.engine, database, clock=lambda: datetime.now(UTC), progress=steps)
        except DbshieldError as error:
            raise BenchError(f"dbshield backup: {error}") from error
        finally:
            database.close()
        whole = time.monotonic() - begin
        steps.step("over", None)
        copy = sum(steps.seconds.get(name, 0.0) for name in COPYING)
        return Took(copy=copy, whole=whole, stored=made.manifest.stored)

    def restore(self) -> Took:
        target = self.ground.folder / f"from-{self.engine}"
        words = ("restore", "--plan", self.engine, "--to-folder", str(target), "-i", str(self.ground.identity), "--json")
        seconds = json.loads(self.ground.dbshield(*words))["seconds"]
        shutil.rmtree(target)
        return Took(copy=sum(seconds.get(name, 0.0) for name in LAYING), whole=sum(seconds.values()))

    def drill(self) -> Mapping[str, float]:
        """Seconds of each phase and of each check of one drill. Raises BenchError unless it passed."""
        found = json.loads(self.ground.dbshield("restore-drill", "--plan", self.engine, "--json"))
        if found["verdict"] != "passed":
            raise BenchError(f"the drill of {self.engine} ended {found['verdict']}")
        seconds: dict[str, float] = dict(found["rto"])
        return seconds | {f"· {check['name']}": check["seconds"] for check in found["checks"]}

    def stop(self) -> None:
        self.ground.forget(self.engine)


def _untar(archive: Path, target: Path) -> None:
    """zstd and tar, as everybody does it."""
    with subprocess.Popen(["zstd", "-dc", archive], stdout=subprocess.PIPE) as packed:
        done = subprocess.run(["tar", "-x", "-C", target], stdin=packed.stdout, check=False)
    if done.returncode or packed.returncode:
        raise BenchError("the base backup could not be unpacked")


def _booted(cluster: Cluster, begin: float) -> Took:
    """Start a server on what was laid down, and remove it; `begin` is when laying it down began."""
    copy = time.monotonic() - begin
    account = server_account()
    if account.lent:
        subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", cluster.data], check=True)
    try:
        cluster.start(throwaway=True)
        return Took(copy=copy, whole=time.monotonic() - begin)
    finally:
        cluster.remove()
