"""The way of a held statement by the command line alone: asked, previewed, approved with a code, executed, undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyotp
import pytest
from support.cases import oracle
from support.commands import Command, run_command
from support.servers import Server
from support.shield import ENVIRONMENT, Shield, prepared_shield
from support.waiting import until

from dbshield.control.approval import State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.model import AccessLevel
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server(by="module")

CODE = "TEST_CODE"


class Desk:
    """A shield that names an executor, and a person with a second factor."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.database = Database(shield.server.dsn(shield.control))
        self.approvals = Approvals(self.database)
        self._secret = ""

    def cli(self, *words: str, code: bool = False) -> tuple[int, str, str]:
        env = {**os.environ, **({CODE: self.code()} if code else {})}
        done = run_command([*words, "--config", str(self.shield.config)], env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def code(self) -> str:
        """The one of now. It works again, as if half a minute had gone by since it was used."""
        with self.database.transaction() as connection:
            connection.exec_driver_sql("update dbshield.people set last_step = 0")
        return pyotp.TOTP(self._secret).now()

    def enrol(self) -> None:
        _, out, _ = self.cli("user", "add", "ann", "--json")
        made = json.loads(out)
        self._secret = pyotp.parse_uri(made["uri"]).secret
        status, out, error = self.cli("user", "confirm", "ann", "--code-env", CODE, code=True)
        assert status == 0, out + error

    def ask(self, statement: str) -> str:
        ask = Ask(
            environment=ENVIRONMENT, agent="write", access=AccessLevel.WRITE, database=self.shield.database, statement=statement
        )
        return self.approvals.request(ask, now=datetime.now(UTC), ttl=timedelta(hours=1), needed=1).id

    def facts(self) -> Any:
        with self.shield.server.connect(self.shield.database) as connection:
            return oracle.snapshot(connection)


@pytest.fixture
def desk(server: Server, worker_id: str, tmp_path: Path) -> Iterator[Desk]:
    with prepared_shield(server, f"undo_cli_{worker_id}", tmp_path / "shield", agents=()) as shield:
        executor = f"host={server.cluster.socket_folder} port={server.cluster.port} user=postgres dbname={shield.database}"
        shield.write_config({"executor": executor})
        made = Desk(shield)
        made.enrol()
        try:
            yield made
        finally:
            made.database.close()


def test_a_table_is_dropped_by_approval_and_comes_back_by_a_command(desk: Desk) -> None:
    before = desk.facts()
    approval = desk.ask("drop table shop.orders cascade")
    daemon = Command(["executor", "--config", str(desk.shield.config)], stderr=subprocess.PIPE, text=True)
    try:
        assert until(lambda: desk.approvals.get(approval).preview is not None)
        _, shown, _ = desk.cli("approvals", "show", approval)
        assert "shop.sales_by_day" in shown
        assert "6,000 rows" in shown
        status, out, error = desk.cli(
            "approvals", "approve", approval, "--person", "ann", "--code-env", CODE, "--wait", "--json", code=True
        )
        assert status == 0, out + error
        assert json.loads(out)["state"] == "done"
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, log = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, log
    assert "Traceback" not in log

    status, out, _ = desk.cli("undo", "list")
    assert (status, approval in out, "can be undone until " in out) == (0, True, True)
    status, out, error = desk.cli("undo", approval, "--person", "ann", "--code-env", "NOTHING_IN_IT")
    assert status == 2, error

    status, out, error = desk.cli("undo", approval, "--person", "ann", "--code-env", CODE, "--json", code=True)
    assert status == 0, error
    assert json.loads(out)["rows"]["shop.orders"] == 6000
    assert oracle.losses(before, desk.facts(), row_limit=0) == []

    status, _, error = desk.cli("undo", approval, "--person", "ann", "--code-env", CODE, code=True)
    assert status == 1
    assert "undone already, by ann" in error
    with desk.database.transaction() as connection:
        kinds = connection.exec_driver_sql("select kind from dbshield.audit order by id").scalars().all()
    for kind in ("approval-requested", "approval-decided", "executed", "undone"):
        assert kind in kinds


def test_what_is_in_the_way_is_told_with_exit_code_1(desk: Desk) -> None:
    with desk.shield.server.connect(desk.shield.database) as connection:
        connection.execute("insert into shop.settings values (E'\\x1b[2J', 'a key that a terminal obeys')")
    approval = desk.ask("delete from shop.settings")
    assert desk.cli("approvals", "approve", approval, "--person", "ann", "--code-env", CODE, code=True)[0] == 0
    assert desk.cli("executor", "--once")[0] == 0
    assert desk.approvals.get(approval).state is State.DONE
    with desk.shield.server.connect(desk.shield.database) as connection:
        connection.execute("insert into shop.settings values ('vat', 'mine')")
        connection.execute("insert into shop.settings values (E'\\x1b[2J', 'mine')")
    status, _, error = desk.cli("undo", approval, "--person", "ann", "--code-env", CODE, code=True)
    assert status == 1
    assert "keys of shop.settings are taken again" in error
    assert "(vat)" in error
    assert "(\\x1b[2J)" in error
    assert "\x1b" not in error
    status, out, _ = desk.cli("undo", approval, "--person", "ann", "--code-env", CODE, "--json", code=True)
    assert (status, json.loads(out)["undone"]) == (1, False)
    wrong = {**os.environ, CODE: "000000"}
    words = ["undo", approval, "--person", "ann", "--code-env", CODE, "--config", str(desk.shield.config)]
    done = run_command(words, env=wrong)
    assert done.returncode == 1
    assert "vat" not in done.stderr


def test_an_executor_without_an_environment_says_what_to_set(desk: Desk) -> None:
    desk.shield.write_config()
    status, _, error = desk.cli("executor", "--once")
    assert status == 2
    assert 'executor = "postgresql://' in error
    status, _, error = desk.cli("undo", "apr-aaaaaaaa")
    assert status == 1
    assert "no undo point" in error


def test_up_runs_an_executor_and_takes_it_along(desk: Desk) -> None:
    approval = desk.ask("delete from shop.settings where key = 'vat'")
    assert desk.cli("approvals", "approve", approval, "--person", "ann", "--code-env", CODE, code=True)[0] == 0
    log = desk.shield.folder / "up.log"
    with log.open("wb") as stream:
        process = Command(["up", "--config", str(desk.shield.config)], stdout=stream, stderr=stream)
    try:
        assert until(lambda: desk.approvals.get(approval).state is State.DONE), log.read_text()
        assert until(lambda: "password" in answered(desk.shield.port)), log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    # Other workers' executors are on this server as well.
    query = "select count(*) from pg_stat_activity where application_name = 'dbshield executor' and datname = %s"
    with desk.shield.server.connect() as admin:
        assert until(lambda: admin.execute(query, [desk.shield.database]).fetchone() == (0,))


def answered(port: int) -> str:
    """What somebody whom the proxy does not know is told, which it says when it is ready."""
    try:
        psycopg.connect(host="127.0.0.1", port=port, user="nobody.test", password="none", dbname="x", sslmode="disable").close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""
