"""A dbshield that makes backups: its configuration, its control database, its keys, driven by the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from dbshield.backup.catalogue import LOCK_CLASS
from dbshield.cluster.account import server_account
from dbshield.store.database import Database
from support.commands import Command, run_command
from support.control import tables_database
from support.servers import Server
from support.waiting import until

TIMEOUT = 120.0
ONE_ACCOUNT = server_account().uid == os.geteuid()
"""Who is no root runs the servers too, and so has to say so of the backups."""


class Backups:
    """One plan, `nightly`, of one database of one server. `identity` opens what it seals."""

    def __init__(self, server: Server, database: str, control: str, folder: Path) -> None:
        self.server = server
        self.database = database
        self.control = control
        self.folder = folder
        self.state = folder / "state"
        self.destination = folder / "backups"
        self.identity = folder / "identity.txt"
        self.config = folder / "dbshield.toml"
        self.plan: dict[str, Any] = {}
        self.variables: dict[str, str] = {}
        self._started: list[subprocess.Popen[str]] = []

    def set_up(self) -> None:
        """Configuration, control database, signing key and identity."""
        self.write_config(encryption="none")
        self.cli("init")
        made = json.loads(self.cli("backup", "key", "--identity", str(self.identity), "--json"))
        self.write_config(encrypt_to=[made["recipient"]], encryption=None)
        self.public_key = made["public_key"]

    def write_config(self, **changed: Any) -> None:
        """Write dbshield.toml; `changed` are settings of the plan, None takes one away."""
        given = {
            "environment": "test",
            "destination": f"file://{self.destination}",
            "same_device": "allowed",
            **self.plan,
            **changed,
        }
        if ONE_ACCOUNT:
            given = {"same_account": "allowed", **given}
        self.plan = {name: value for name, value in given.items() if value is not None}
        socket = self.server.cluster.socket_folder
        lines = [
            f'state = "{self.state}"',
            "[control]",
            f'url = "{self.control}"',
            "[environments.test]",
            f'upstream = "host={socket} port={self.server.cluster.port} user=postgres dbname={self.database}"',
            "[backup.nightly]",
            *(f"{name} = {json.dumps(value)}" for name, value in self.plan.items()),
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *arguments: str, file_blocks: int | None = None) -> subprocess.Popen[str]:
        """The command line under way, in a process group of its own; no file grows beyond `file_blocks` of 512 bytes."""
        process = Command(
            arguments,
            file_bytes=None if file_blocks is None else 512 * file_blocks,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment(),
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """What a test that failed left under way must not fail others."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            with process:  # closes its pipes and waits
                pass

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, cwd=self.folder, env=self.environment(), timeout=TIMEOUT)

    def cli(self, *arguments: str, status: int = 0) -> str:
        """What a command printed; it has to end with this status."""
        done = self.run(*arguments)
        assert done.returncode == status, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.cli(*arguments, "--json", status=status))

    def backup(self) -> dict[str, Any]:
        """One snapshot; what the command said of it."""
        made = self.json("backup")
        assert isinstance(made, dict)
        return made

    def listed(self) -> Sequence[Mapping[str, Any]]:
        found = self.json("backup", "list")
        assert isinstance(found, list)
        return found

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG", "AWS_"))}
        return kept | {"DBSHIELD_CONFIG": str(self.config)} | self.variables

    def let_go(self) -> bool:
        """Whether nobody makes one any more, once it is so: the server notices a while later that who did is dead."""
        held = (
            "select from pg_locks where locktype = 'advisory' and classid = %s"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        with psycopg.connect(self.control, autocommit=True) as looker:
            return until(lambda: looker.execute(held, [LOCK_CLASS]).fetchone() is None)

    @contextlib.contextmanager
    def store(self) -> Iterator[Database]:
        database = Database(self.control)
        try:
            yield database
        finally:
            database.close()


@contextlib.contextmanager
def small_database(server: Server, name: str) -> Iterator[None]:
    """A database with one table: each member of its snapshots is a dozen requests to an object store."""
    with server.connect() as admin:
        admin.execute(f'create database "{name}"')
    try:
        with server.connect(name) as source:
            source.execute("create table t as select g from generate_series(1, 100) g")
        yield
    finally:
        server.drop(name)


@contextlib.contextmanager
def backups_of(server: Server, database: str, folder: Path) -> Iterator[Backups]:
    """Set up, with a control database that is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tables_database(server) as control:
        made = Backups(server, database, control, folder)
        made.set_up()
        try:
            yield made
        finally:
            made.end()


@contextlib.contextmanager
def backups_of_clone(server: Server, name: str, folder: Path) -> Iterator[Backups]:
    """The same with a fresh, seeded database of this name, which goes as well."""
    server.clone(name)
    try:
        with backups_of(server, name, folder) as made:
            yield made
    finally:
        server.drop(name)


def files(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def left_behind(backups: Backups) -> list[str]:
    """Work folders that are there."""
    return [path.name for path in (backups.state / "backup").glob("work-*")]
