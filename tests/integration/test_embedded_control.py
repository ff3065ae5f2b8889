"""The embedded control database: there as long as anybody uses it, and gone after the last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import Config
from dbshield.control.connection import control_dsn


@pytest.fixture
def embedded() -> Iterator[Config]:
    """A state folder of its own, where the server's account may go."""
    folder = temporary_folder()
    folder.chmod(0o711)
    try:
        yield Config(state=folder)
    finally:
        Cluster(folder / "control").remove()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


USER = """
import sys
from pathlib import Path
from dbshield.config import Config
from dbshield.control.connection import control_dsn
with control_dsn(Config(state=Path(sys.argv[1]))):
    print("in", flush=True)
    sys.stdin.readline()
"""


class User:
    """Another process that uses the embedded database until it is told to leave."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "in\n"

    def leave(self) -> None:
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def die(self) -> None:
        self.process.kill()
        self.process.communicate()


def running(state: Path) -> bool:
    return Cluster(state / "control").running


def test_the_embedded_database_runs_as_long_as_anybody_needs_it(embedded: Config) -> None:
    starter = User(embedded.state)
    with control_dsn(embedded) as dsn:
        starter.leave()
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert not running(embedded.state)


def test_a_user_that_died_leaves_nothing_behind_after_the_next(embedded: Config) -> None:
    User(embedded.state).die()
    assert running(embedded.state)
    other = User(embedded.state)
    with control_dsn(embedded):
        pass
    assert running(embedded.state)
    other.leave()
    assert not running(embedded.state)
