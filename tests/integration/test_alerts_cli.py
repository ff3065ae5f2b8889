"""The commands about alerts, and what a delivery says that does not arrive."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import run_command
from support.control import tables_database
from support.receivers import SECRET, HttpReceiver
from support.servers import Server

from dbshield.control.alert_send import NO_URL, deliver
from dbshield.store.database import Database


@pytest.fixture
def control_dsn(server18: Server) -> Iterator[str]:
    with tables_database(server18) as dsn:
        yield dsn


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://of-the-kind", NO_URL),
        ("json://127.0.0.1:1/", "the service was not reached, or refused it"),
    ],
)
def test_what_does_not_arrive_is_said_without_the_secret(url: str, said: str) -> None:
    assert deliver(url, "t", "b", timeout=60) == said


def test_a_service_that_never_answers_ends_by_the_clock(receiver: HttpReceiver) -> None:
    receiver.gate.clear()
    assert deliver(receiver.url, "t", "b", timeout=0.5) == "no answer within 0.5 seconds"


def command(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(["alerts", *words, "--config", str(file)], env=os.environ)


def test_the_commands(control_dsn: str, control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    (tmp_path / "team.url").write_text(receiver.url)
    file = tmp_path / "dbshield.toml"
    file.write_text(
        f'state = "{tmp_path / "state"}"\n[control]\nurl = "{control_dsn}"\n[alerts.team]\nurl_file = "team.url"\ntimeout = 60\n'
    )
    done = command(file, "test", "team")
    assert (done.returncode, done.stdout) == (0, "team: the service took the message.\n")
    assert receiver.titles == ["dbshield: a test of the channel team"]
    receiver.status = 403
    done = command(file, "test", "team", "--json")
    assert (done.returncode, done.stdout) == (
        1,
        '{"channel": "team", "arrived": false, "error": "the service answered with status 403"}\n',
    )
    done = command(file, "test", "tean")
    assert done.returncode == 2
    assert 'Did you mean "team"?' in done.stderr
    done = command(file, "list")
    assert (done.returncode, done.stderr) == (0, "Nobody was told anything.\n")
    (tmp_path / "team.url").unlink()
    done = command(file, "test", "team")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    for output in (done.stdout, done.stderr):
        assert SECRET not in output
