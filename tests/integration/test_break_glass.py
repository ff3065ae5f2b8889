"""Break-glass on real servers: who gets it, what it opens, that everybody hears of it, and that it ends."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import text
from support.background import Background
from support.commands import run_command
from support.control import tables_database
from support.people import Phone, enrol, vault_in
from support.receivers import HttpReceiver
from support.servers import Server
from support.waiting import until

from dbshield.cli.break_glass import end_due, make_role
from dbshield.config import Config, load_config
from dbshield.control.alerts import Watch
from dbshield.control.audit_read import Filter, newest, verify
from dbshield.control.emergency import Emergencies, Emergency
from dbshield.control.people import People
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

ENVIRONMENT = "test"


class House:
    """An installation with one person, who may break the glass of one environment: `protected` is the database there, `owner` the
    role that everything in it belongs to."""

    def __init__(self, server: Server, database: Database, folder: Path, protected: str) -> None:
        self.server = server
        self.database = database
        self.protected = protected
        self.owner = f"owner_of_{protected}"
        self.file = folder / "dbshield.toml"
        self.settings: Config = load_config(self.file)
        self.vault = vault_in(self.settings.state)
        self.people = People(database, self.vault)
        self.ann: Phone = enrol(self.people, "ann", datetime.now(UTC))
        self.emergencies = Emergencies(database, self.settings.environments)

    def cli(self, *words: str, code: str = "") -> subprocess.CompletedProcess[str]:
        return run_command([*words, "--config", str(self.file)], env={**os.environ, "CODE": code})

    def begin(self, **changed: Any) -> Emergency:
        now = datetime.now(UTC)
        values: dict[str, Any] = {"person": "ann", "code": self.ann.code(now), "reason": "fire", "lasting": timedelta(minutes=5)}
        return self.emergencies.begin(self.people, ENVIRONMENT, now=now, by="test", **(values | changed))

    def kinds(self) -> list[str]:
        return [link.kind for link in newest(self.database, Filter(environment=ENVIRONMENT), 100)]

    def roles(self) -> list[str]:
        """Of emergencies; not those of other workers, whose roles act as other owners."""
        with self.server.connect() as admin:
            found = admin.execute(
                "select rolname::text from pg_roles r where rolname like 'dbshield_emergency_%%' and not exists ("
                " select from pg_auth_members m join pg_roles o on o.oid = m.roleid"
                " where m.member = r.oid and o.rolname like 'owner_of_%%' and o.rolname <> %s) order by 1",
                [self.owner],
            )
            return [str(name) for (name,) in found.fetchall()]

    def dsn(self, emergency: Emergency, password: str) -> str:
        """As the role of an emergency, straight to the server."""
        cluster = self.server.cluster
        return make_conninfo(host=cluster.host, port=cluster.port, dbname=self.protected, user=emergency.role, password=password)


@pytest.fixture
def house(server: Server, receiver: HttpReceiver, tmp_path: Path, worker_id: str) -> Iterator[House]:
    protected = f"glass_{worker_id}"
    owner = sql.Identifier(f"owner_of_{protected}")
    server.clone(protected)
    with server.connect(protected) as admin:
        admin.execute(sql.SQL("create role {}").format(owner))
        admin.execute("create table valuables (id integer primary key)")
        admin.execute(sql.SQL("alter table valuables owner to {}").format(owner))
        admin.execute(sql.SQL("grant create on schema public to {}").format(owner))
    upstream = make_conninfo(host=server.cluster.host, port=server.cluster.port, user="agent_read", dbname=protected)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "team.url").write_text(receiver.url)
    with tables_database(server) as dsn:
        (tmp_path / "dbshield.toml").write_text(
            f'state = "state"\n[control]\nurl = "{dsn}"\n[alerts.team]\nurl_file = "team.url"\n'
            f'[environments.{ENVIRONMENT}]\nupstream = "{upstream}"\nadministrator = "{server.dsn(protected)}"\n'
            f'emergency_role = "owner_of_{protected}"\n'
        )
        database = Database(dsn)
        try:
            yield House(server, database, tmp_path, protected)
            # A watch leaves a sender to itself that takes its time.
            pool: Any = database.engine.pool
            assert until(lambda: pool.checkedout() == 0)
        finally:
            database.close()
            server.drop(protected)
            with server.connect() as admin:
                left = "select member::regrole::text from pg_auth_members where roleid = to_regrole(%s)"
                for (name,) in admin.execute(left, [f"owner_of_{protected}"]).fetchall():
                    admin.execute(sql.SQL("drop role {}").format(sql.SQL(str(name))))
                admin.execute(sql.SQL("drop role {}").format(owner))


def test_the_whole_way(house: House, receiver: HttpReceiver) -> None:
    watch, stop = Watch(house.database, house.settings), threading.Event()
    watch.look()
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    begin = ("break-glass", "-e", ENVIRONMENT, "--person", "ann", "--reason", "orders are locked", "--code-env", "CODE", "--json")
    try:
        wrong = house.cli(*begin, code="000000")
        assert wrong.returncode == 1
        assert "the code is not the one of ann" in wrong.stderr
        assert house.roles() == []
        code = house.ann.code(datetime.now(UTC))
        done = house.cli(*begin, code=code)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        # At once: half a minute later it would be no code any more, used or not.
        again = house.cli(*begin, code=code)
        assert again.returncode == 1
        assert "was used before" in again.stderr
        assert until(lambda: "ann goes around the shield in test" in receiver.text)
        assert "Why: orders are locked" in receiver.text
    finally:
        stop.set()
        thread.join(30)
    assert house.roles() == [made["role"]]
    session = psycopg.connect(made["dsn"], autocommit=True)
    assert session.execute("select current_user::text, session_user::text").fetchone() == (house.owner, made["role"])
    session.execute("drop table valuables")
    session.execute("create table rescued as select 1 as one")
    living = json.loads(house.cli("break-glass", "--list", "--json").stdout)
    assert [(one["emergency"], one["state"]) for one in living] == [(made["emergency"], "living")]
    findings = json.loads(house.cli("doctor", "--json").stdout)["findings"]
    assert [one["subjects"] for one in findings if one["check"] == "emergency.living"] != []
    ended = house.cli("break-glass", "--end", made["emergency"])
    assert ended.returncode == 0, ended.stderr
    assert "is over: its sessions are ended" in ended.stdout
    with pytest.raises(psycopg.OperationalError):
        session.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(made["dsn"]).close()
    assert house.roles() == []
    with house.server.connect(house.protected) as admin:
        assert admin.execute("select tableowner from pg_tables where tablename = 'rescued'").fetchone() == (house.owner,)
    assert house.cli("break-glass", "--end", made["emergency"]).returncode == 1
    assert [kind for kind in house.kinds() if "glass" in kind] == ["break-glass", "break-glass-over"]
    assert verify(house.database).faults == ()
    password = psycopg.conninfo.conninfo_to_dict(made["dsn"])["password"]
    assert str(password) not in str([link.entry for link in newest(house.database, Filter(), 100)]) + receiver.text


def test_when_its_time_is_over_the_watch_ends_its_sessions(house: House) -> None:
    emergency = house.begin()
    password = make_role(house.database, house.settings, emergency)
    session = psycopg.connect(house.dsn(emergency, password), autocommit=True)
    with house.server.connect() as admin:
        until_then = "select rolvaliduntil from pg_roles where rolname = %s"
        assert admin.execute(until_then, [emergency.role]).fetchone() == (emergency.expires_at,)
    # Only now, since nobody gets in afterwards.
    with house.database.transaction() as connection:
        ends = connection.scalar(
            text("update dbshield.emergencies set expires_at = clock_timestamp() + interval '0.5 seconds' returning expires_at")
        )
    watch = Watch(house.database, house.settings, also=lambda: end_due(house.database, house.settings))
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    try:
        assert until(lambda: house.roles() == [])
    finally:
        stop.set()
        thread.join(30)
    assert datetime.now(UTC) >= ends
    with pytest.raises(psycopg.OperationalError):
        session.execute("select 1")
    (found,) = house.emergencies.list_()
    assert (found.state(datetime.now(UTC)), found.ended_by) == ("over", "the end of its time")


def test_what_cannot_be_removed_lets_nobody_in_is_said_once_and_tried_again(house: House) -> None:
    emergency = house.begin()
    password = make_role(house.database, house.settings, emergency)
    elsewhere = f"elsewhere_{house.protected}"
    house.server.clone(elsewhere)
    try:
        with house.server.connect(elsewhere) as admin:
            admin.execute("create table left_behind (id integer)")
            admin.execute(sql.SQL("alter table left_behind owner to {}").format(sql.Identifier(emergency.role)))
        house.emergencies.end(emergency.id, by="ann", now=datetime.now(UTC))
        (tried,) = end_due(house.database, house.settings)
        assert tried.removed_at is None
        assert tried.error == f"the role {emergency.role} owns something in {elsewhere}"
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            psycopg.connect(house.dsn(emergency, password)).close()
        assert end_due(house.database, house.settings) == [], "not again at once"
        house.emergencies.end(emergency.id, by="ann", now=datetime.now(UTC))
        assert len(end_due(house.database, house.settings)) == 1
    finally:
        house.server.drop(elsewhere)
    house.emergencies.end(emergency.id, by="ann", now=datetime.now(UTC))
    (done,) = end_due(house.database, house.settings)
    assert done.removed_at is not None
    assert [kind for kind in house.kinds() if "glass" in kind] == ["break-glass", "break-glass-stuck", "break-glass-over"]


def test_regression_who_ends_one_while_a_watch_removes_it_waits_for_that(house: House) -> None:
    """Or else the command says that the role is still there."""
    emergency = house.begin()
    house.emergencies.end(emergency.id, by="ann", now=datetime.now(UTC))
    began, go_on = threading.Event(), threading.Event()

    def slowly(_: Emergency) -> int:
        began.set()
        assert go_on.wait(60)
        return 0

    def waits() -> bool:
        query = "select count(*) from pg_stat_activity where datname = current_database() and pg_blocking_pids(pid) <> '{}'"
        with house.database.transaction() as connection:
            return bool(connection.scalar(text(query)) == 1)

    watch = Background(lambda: house.emergencies.remove_due(slowly, datetime.now(UTC)))
    try:
        assert began.wait(60)
        assert end_due(house.database, house.settings) == [], "nobody removes it twice"
        found = Background(lambda: house.emergencies.settled(emergency.id))
        assert until(lambda: waits() or found.done)
    finally:
        go_on.set()
    assert found.result().removed_at is not None
    assert [one.id for one in watch.result()] == [emergency.id]


def test_a_command_that_died_before_the_role_was_made_leaves_nothing(house: House) -> None:
    emergency = house.begin(lasting=timedelta(seconds=0.1))
    assert until(lambda: datetime.now(UTC) > emergency.expires_at)
    (done,) = end_due(house.database, house.settings)
    assert done.removed_at is not None
    assert done.made_at is None


def test_who_may_not(house: House) -> None:
    with pytest.raises(ConfigError, match="needs a reason"):
        house.begin(reason=" ")
    with pytest.raises(ConfigError, match="60 minutes at most"):
        house.begin(lasting=timedelta(hours=2))
    with pytest.raises(Refused, match="there is no person bob"):
        house.begin(person="bob")
    done = house.cli("break-glass", "-e", ENVIRONMENT, "--person", "ann", "--reason", "x")
    assert done.returncode == 2
    assert "--code-stdin" in done.stderr
    assert house.cli("break-glass").returncode == 2
    without = house.file.read_text().replace(f'emergency_role = "{house.owner}"\n', "")
    house.file.write_text(without)
    done = house.cli("break-glass", "-e", ENVIRONMENT, "--person", "ann", "--reason", "x", "--code-env", "CODE", code="1")
    assert done.returncode == 2
    assert "names no emergency_role" in done.stderr
    house.file.write_text(without + 'emergency_role = "nobody_there"\n')
    code = house.ann.code(datetime.now(UTC))
    done = house.cli("break-glass", "-e", ENVIRONMENT, "--person", "ann", "--reason", "x", "--code-env", "CODE", code=code)
    assert done.returncode == 1
    assert "there is no role nobody_there" in done.stderr
    assert house.roles() == []
    (found,) = house.emergencies.list_()
    assert found.ended_by == "a role that could not be made"
