"""A newcomer's first minutes: `dbshield up` in an empty folder, a statement that waits, a human who decides, and the way back.

The trial's environment stands in no file, so every command has to find it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.background import Background
from support.commands import Command, run_command
from support.company import CODE
from support.ports import free_port
from support.waiting import until

from dbshield.cli.demo.stage import Phone
from dbshield.cluster import temporary_folder

PASTE = re.compile(r'psql "([^"]+)"')


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder, in reach of the account that PostgreSQL runs as."""
    folder = temporary_folder("trial-test-")
    yield folder
    shutil.rmtree(folder)


def seen_by(dsn: str) -> tuple[str, int] | None:
    """An agent's role and the orders that it sees; None until the proxy has heard of the agent."""
    try:
        with psycopg.connect(dsn) as conn:
            return conn.execute("select current_user::text, count(*) from orders").fetchone()
    except psycopg.OperationalError:
        return None


def check_that_the_trial_is_found(cli: Callable[..., Any]) -> None:
    """What stands in no file is found by those who look, too, and what the doctor says that should be done can be done."""
    assert cli("policy", "show", "-e", "trial", "--agent", "demo")["environment"] == "trial"
    looked = cli("doctor", codes={0, 1})
    assert (looked["environments"], looked["unreached"]) == (["trial"], [])
    assert not [each for each in looked["findings"] if each["check"] in {"look.connect", "look.rights"}]
    assert [each["open"] for each in cli("guard", "install", "-e", "trial")] == [[]]
    own = cli("agent", "create", "claude", "-e", "trial", "-a", "write")
    assert until(lambda: seen_by(own["dsn"]) == ("dbshield_trial_claude", 1000))


def check_that_a_second_one_is_refused(place: Path, environment: Mapping[str, str]) -> None:
    """It would exchange the password of the trial's role under the first one, and stop the server when it ends."""
    elsewhere = {**environment, "DBSHIELD_PROXY__LISTEN": f"127.0.0.1:{free_port()}"}
    second = run_command(["up"], cwd=place, env=elsewhere, timeout=90)
    assert (second.returncode, second.stdout) == (2, ""), "no token is made that would be for nothing"
    assert "another `dbshield up` runs the database to try" in second.stderr


def test_what_is_held_on_a_trial_is_decided_and_undone_by_the_command_line(place: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
    environment |= {"DBSHIELD_STATE": str(place / "state"), "DBSHIELD_PROXY__LISTEN": f"127.0.0.1:{free_port()}"}

    def cli(*words: str, code: str = "", codes: Collection[int] = (0,)) -> Any:
        done = run_command([*words, "--json"], cwd=place, env=environment | {CODE: code}, timeout=90)
        assert done.returncode in codes, done.stdout + done.stderr
        return json.loads(done.stdout)

    log = place / "up.log"
    with log.open("wb") as out:
        process = Command(["up"], cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        signs = ("executor is ready", f'"address": "{environment["DBSHIELD_PROXY__LISTEN"]}"')
        stands = until(lambda: process.poll() is not None or all(sign in log.read_text() for sign in signs), deadline=90)
        assert stands, log.read_text()
        found = PASTE.search(log.read_text())
        assert found, log.read_text()
        phone = Phone(cli("user", "add", "ann")["secret"])
        cli("user", "confirm", "ann", "--code-env", CODE, code=phone.code())

        def delete() -> str | None:
            with psycopg.connect(found[1], autocommit=True) as conn:
                return conn.execute("delete from orders").statusmessage

        waits = Background(delete)
        assert until(lambda: cli("approvals", "list"))
        [asked] = cli("approvals", "list")
        person = ("--person", "ann", "--code-env", CODE)
        cli("approvals", "approve", asked["id"], *person, code=phone.code())
        assert waits.result() == "DELETE 1000"
        undone = cli("undo", asked["id"], *person, code=phone.code())
        assert undone["rows"] == {"public.orders": 1000}
        with psycopg.connect(found[1]) as conn:
            assert conn.execute("select count(*) from orders").fetchone() == (1000,)
        assert cli("audit", "verify")["verdict"] == "whole"

        check_that_the_trial_is_found(cli)
        check_that_a_second_one_is_refused(place, environment)
        with psycopg.connect(found[1]) as conn:
            assert conn.execute("select count(*) from orders").fetchone() == (1000,)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert "Traceback" not in log.read_text()
    assert re.search(r'"part": "proxy", .*"event": "listening"', log.read_text()), log.read_text()
