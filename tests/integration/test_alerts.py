"""Alerts from an entry of the audit to a receiver that is really there: grouped, rate limited, tried again, never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.commands import Command
from support.control import ENVIRONMENTS, control_database, tables_database
from support.receivers import SECRET, HttpReceiver, smtp_receiver
from support.servers import Server
from support.waiting import until

from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import Config
from dbshield.config.alerts import EVENTS, AlertsConfig
from dbshield.config.console import ConsoleConfig
from dbshield.control.alert_store import AT_ONCE as AT_ONCE_MOST
from dbshield.control.alert_store import READ_LOCK, AlertStore
from dbshield.control.alerts import AWAY_AFTER, Watch
from dbshield.control.audit_store import record
from dbshield.store.database import Database

AT_ONCE: Mapping[str, Any] = {"group_seconds": 0, "min_interval": 0, "timeout": 60}
"""An attempt that is given up on a busy machine may have arrived, and comes again."""


@pytest.fixture
def control_dsn(server18: Server) -> Iterator[str]:
    with tables_database(server18) as dsn:
        yield dsn


def config(folder: Path, url: str, *, name: str = "team", **channel: Any) -> Config:
    """A channel that is told of everything at once, unless `channel` says otherwise."""
    file = folder / f"{name}.url"
    file.write_text(url + "\n")
    made = AlertsConfig(url_file=file, **{"events": tuple(EVENTS), **AT_ONCE, **channel})
    return Config(environments=ENVIRONMENTS, alerts={name: made})


@contextmanager
def watching(database: Database, settings: Config) -> Iterator[Watch]:
    """A watch that has begun to listen."""
    watch, stop = Watch(database, settings), threading.Event()
    watch.look()
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        # It leaves a sender to itself that takes its time, and what that holds of the database is to be closed with the rest.
        pool: Any = database.engine.pool
        assert until(lambda: pool.checkedout() == 0)


def refused(database: Database, agent: str = "claude", rule: str = "DS301", verdict: str = "deny", **fields: Any) -> None:
    record(
        database,
        kind="statement",
        agent=agent,
        environment="staging",
        database="shop",
        session=7,
        client="10.0.0.9:5000",
        application="",
        statement="DROP TABLE orders WHERE secret = 'hunter2'",
        verdict=verdict,
        rules=[rule],
        effects=["drop table orders"],
        **fields,
    )


def states(database: Database, settings: Config) -> list[tuple[str, int]]:
    return [(one.state, one.count) for one in AlertStore(database, settings.alerts).list_()]


def everything(database: Database) -> dict[str, str]:
    """One entry of each kind that is told of; what each leads to, as a piece of text."""
    refused(database)
    refused(database, verdict="hold", rule="DS101")
    shared = {"environment": "staging", "agent": "claude", "database": "shop", "approval": "apr-abcdefgh"}
    happened: dict[str, dict[str, Any]] = {
        "approval-requested": {**shared, "state": "waiting", "statement": "delete from t where a = 'hunter2'"},
        "approval-decided": {**shared, "person": "ann", "verdict": "approve", "reason": "fine"},
        "executed": {**shared, "state": "done", "statement": "delete from t"},
        "undone": {**shared, "person": "ann"},
        "refused": {"user": "claude.staging", "client": "10.0.0.9:5000", "reason": "the token has expired"},
        "code-refused": {"person": "bob", "reason": "the code is not the one of bob"},
        "agent-frozen": {"environment": "staging", "agent": "claude", "freeze": 1, "reason": "r", "by": "ann", "until": None},
        "environment-thawed": {"environment": "staging", "by": "ann"},
        "agent-created": {"environment": "staging", "agent": "new", "access": "read", "role": "", "person": "ann"},
        "token-revoked": {"environment": "staging", "agent": "claude", "person": "ann", "token": "abcdefghijkl"},
        "person-reset": {"person": "carl", "by": "ann", "vouched_by": "ann"},
        "policy-changed": {"environment": "staging", "changed": {"max_rows": [1, 2]}},
        "environment-pinned": {"environment": "staging", "system_identifier": "7", "person": "ann"},
        "guard-tampered": {"environment": "staging", "database": "shop", "problems": 2},
        "backup-key-trusted": {"key": "0123456789abcdef", "person": "ann"},
        "guard-changed": {"environment": "staging", "database": "shop", "change": "removed", "person": "ann"},
        "audit-gap": {"lost": 3},
        "backup": {"plan": "nightly", "environment": "staging", "outcome": "failed", "error": "disk full"},
        "backup-tampered": {"person": "", "environment": "staging", "plan": "nightly", "snapshot": "s-1", "error": "hidden"},
        "backup-overdue": {"environment": "production", "plan": "weekly"},
        "drill": {"environment": "staging", "snapshot": "s-1", "verdict": "failed", "problems": ["rows"]},
        "drill-overdue": {"environment": "production"},
        "job-failed": {"job": "prune"},
        "break-glass": {
            "environment": "staging", "person": "ann", "emergency": "brk-abcdefgh", "reason": "fire", "role": "r",
            "acts_as": "owner", "until": "soon",
        },
    }  # fmt: skip
    for kind, fields in happened.items():
        record(database, kind=kind, **fields)
    return {
        "refused": "agent claude was refused in staging: DS301",
        "held": "agent claude is held in staging: DS101",
        "approval": "agent claude waits for a human in staging: approval apr-abcdefgh",
        "decided": "ann approved apr-abcdefgh of agent claude in staging",
        "executed": "approval apr-abcdefgh of agent claude in staging was run: done",
        "undone": "approval apr-abcdefgh in staging was undone by ann",
        "login-refused": "a login as claude.staging was refused",
        "code-refused": "a code of bob was not taken",
        "frozen": "agent claude in staging is frozen",
        "thawed": "the environment staging was thawed by ann",
        "agents": "ann created the agent new in staging",
        "tokens": "ann revoked a token of claude in staging",
        "people": "carl was given a new second factor by ann",
        "policy-changed": "what agents may do in staging was changed",
        "environment-pinned": "staging was pinned to a cluster by ann",
        "guard-tampered": "the guard in staging is not as it was installed",
        "backup-key": "snapshots signed by the key 0123456789abcdef are believed from now on, by ann",
        "guard-changed": "the guard in staging was removed by ann",
        "audit-damaged": "the audit lost 3 entries",
        "backup-failed": "the backup nightly failed",
        "backup-tampered": "somebody wrote over backups of staging, or hid them",
        "backup-overdue": "a backup of production is overdue",
        "drill-failed": "the restore drill of s-1 ended with failed",
        "drill-overdue": "a restore drill of production is overdue",
        "job-failed": "the job prune failed",
        "break-glass": "ann goes around the shield in staging",
    }


def test_each_event_arrives_once_and_holds_no_constant(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url, events=tuple(EVENTS))
    # Shown one by one: a channel for each event.
    (channel,) = settings.alerts.values()
    names = {event: f"c-{event}" for event in EVENTS}
    settings = Config(
        environments=ENVIRONMENTS,
        alerts={name: channel.model_copy(update={"events": (event,)}) for event, name in names.items()},
    )
    with watching(control, settings):
        expected = everything(control)
        assert until(lambda: len(receiver.messages) >= len(expected)), receiver.titles
        assert until(lambda: {state for state, _ in states(control, settings)} == {"sent"})
    assert {event for event in EVENTS if event not in expected} == {"control-away"}
    for event, words in expected.items():
        assert receiver.text.count(f"dbshield: {words}") == 1, f"{event}: {receiver.text}"
    assert len(receiver.messages) == len(expected)
    assert "hunter2" not in receiver.text


def test_what_passed_and_what_was_before_is_no_news(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    refused(control, agent="before")
    settings = config(tmp_path, receiver.url)
    with watching(control, settings):
        refused(control, agent="passed", verdict="allow")
        record(control, kind="connected", agent="claude", environment="staging")
        record(control, kind="backup", environment="staging", outcome="complete", snapshot="s-1")
        refused(control, agent="after")
        assert until(lambda: receiver.messages)
        assert until(lambda: states(control, settings) == [("sent", 1)])
    assert "agent after" in receiver.text
    assert "agent passed" not in receiver.text
    assert "agent before" not in receiver.text


def test_alike_ones_are_one_message_with_their_number(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url, group_seconds=3600)
    with watching(control, settings):
        for _ in range(2):
            refused(control)
        assert until(lambda: states(control, settings) == [("pending", 2)])
        for _ in range(3):
            refused(control)
        refused(control, agent="other")
        assert until(lambda: states(control, settings) == [("pending", 5), ("pending", 1)])
        assert receiver.messages == []
        waits = "select extract(epoch from due_at - created_at)::int from dbshield.alerts"
        with control.transaction() as connection:
            assert set(connection.exec_driver_sql(waits).scalars()) == {3600}
        due(control)
        assert until(lambda: states(control, settings) == [("sent", 5), ("sent", 1)])
    assert receiver.text.count("agent claude was refused in staging: DS301 (5 times)\n") == 1
    assert receiver.text.count("agent other was refused in staging: DS301\n") == 1
    assert receiver.text.count("When:") == 2


def due(database: Database) -> None:
    """As if what waits had waited long enough, and as if who has claimed it were gone for long."""
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "update dbshield.alerts set due_at = now(), claimed_at = claimed_at - interval '1 hour' where state = 'pending'"
        )


def test_a_channel_is_not_told_too_often_unless_it_is_urgent(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url, min_interval=3600)
    with watching(control, settings):
        refused(control, agent="first")
        assert until(lambda: states(control, settings) == [("sent", 1)])
        refused(control, agent="second")
        assert until(lambda: len(states(control, settings)) == 2)
        record(control, kind="audit-gap", lost=9)
        assert until(lambda: len(receiver.messages) == 2)
        assert until(lambda: states(control, settings) == [("sent", 1), ("pending", 1), ("sent", 1)])
    assert receiver.titles == ["dbshield: agent first was refused in staging: DS301", "dbshield: the audit lost 9 entries"]


def test_what_is_urgent_is_told_at_once_however_much_waits(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url, min_interval=3600)
    with watching(control, settings):
        refused(control, agent="first")
        assert until(lambda: states(control, settings) == [("sent", 1)])
        with control.transaction() as connection:
            connection.exec_driver_sql(
                "insert into dbshield.alerts (channel, event, subject, title, body, count, first_at, last_at, urgent, state,"
                " created_at, due_at) select 'team', 'login-refused', i::text, 'guess ' || i, '', 1, now(), now(), false,"
                f" 'pending', now(), now() from generate_series(1, {2 * AT_ONCE_MOST}) i"
            )
        record(control, kind="audit-gap", lost=9)
        assert until(lambda: len(receiver.messages) == 2)
    assert receiver.titles[1] == "dbshield: the audit lost 9 entries"


def test_it_is_tried_again_while_the_receiver_fails_or_is_away(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url)
    store = AlertStore(control, settings.alerts)
    receiver.status = 500
    with capture_logs() as logs, watching(control, settings):
        refused(control)
        assert until(lambda: receiver.tries >= 2)
        assert until(lambda: (kept := store.list_()[0]).attempts >= 2 and kept.error)
        assert store.list_()[0].error == "the service answered with status 500"
        receiver.stop()
        tried = store.list_()[0].attempts
        assert until(
            lambda: (kept := store.list_()[0]).attempts > tried and kept.error == "the service was not reached, or refused it"
        )
        receiver.status = 200
        receiver.start()
        due(control)
        assert until(lambda: states(control, settings) == [("sent", 1)])
    assert len(receiver.messages) == 1
    assert any("not delivered" in line["event"] for line in logs)
    assert SECRET not in str(logs)
    assert SECRET not in str(store.list_())


def test_what_is_about_an_approval_leads_to_it(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    plain = config(tmp_path, receiver.url)
    settings = plain.model_copy(update={"console": ConsoleConfig(address="https://shield.example.com")})
    with watching(control, settings):
        record(control, kind="approval-requested", environment="staging", agent="claude", approval="apr-abcdefgh", statement="x")
        record(control, kind="approval-requested", environment="staging", agent="claude", approval="../x y", statement="x")
        assert until(lambda: states(control, settings) == [("sent", 1), ("sent", 1)])
    assert receiver.text.count("Open: https://shield.example.com/approvals/apr-abcdefgh") == 1
    assert receiver.text.count("Open: ") == 1


def test_two_watches_tell_nothing_twice(control: Database, control_dsn: str, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url)
    other = Database(control_dsn)
    try:
        with watching(control, settings), watching(other, settings):
            for number in range(30):
                refused(control, agent=f"agent{number:02}")
            assert until(lambda: len(found := states(control, settings)) == 30 and {state for state, _ in found} == {"sent"})
    finally:
        other.close()
    # A message shows ten and counts the rest.
    told = sum(int(title.split()[1]) if "alerts:" in title else 1 for title in receiver.titles)
    assert told == 30, receiver.titles


def test_what_another_watch_was_reading_when_it_died_is_read(control: Database, tmp_path: Path) -> None:
    """It may have been past the last look for what is new, with nobody to read that but those who look again."""
    settings = config(tmp_path, "json://127.0.0.1:1/")
    watch = Watch(control, settings)
    watch.look()
    with control.transaction() as other:
        other.exec_driver_sql("select pg_advisory_xact_lock(%(lock)s)", {"lock": READ_LOCK})
        refused(control)
        watch.look()
        assert states(control, settings) == []
    watch.look()
    assert states(control, settings) == [("pending", 1)]


def test_a_killed_watch_leaves_nothing_untold(
    control_dsn: str, control: Database, receiver: HttpReceiver, tmp_path: Path
) -> None:
    settings = config(tmp_path, receiver.url)
    file = tmp_path / "dbshield.toml"
    file.write_text(
        f'state = "{tmp_path / "state"}"\n[control]\nurl = "{control_dsn}"\n'
        f'[alerts.team]\nurl_file = "team.url"\ngroup_seconds = 0\nmin_interval = 0\ntimeout = 60\n'
    )
    command = ["alerts", "run", "--config", str(file)]
    log = (tmp_path / "log").open("wb")
    receiver.gate.clear()
    first = Command(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        store = AlertStore(control, settings.alerts)
        assert until(lambda: (tmp_path / "log").exists() and position_known(control)), (tmp_path / "log").read_text()
        refused(control)
        assert until(lambda: receiver.tries == 1), (tmp_path / "log").read_text()
        assert store.list_()[0].state == "pending"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        receiver.gate.set()
        assert until(lambda: len(receiver.messages) == 1)
        assert store.claim("team") is None, "for a while it is the dead one's"
        due(control)
        second = Command(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            assert until(lambda: store.list_()[0].state == "sent"), (tmp_path / "log").read_text()
        finally:
            second.terminate()
            assert second.wait(30) == 0
    finally:
        first.kill()
        first.wait()
        log.close()
    assert len(receiver.messages) == 2, "the killed one had sent it, and nobody could know"
    assert SECRET not in (tmp_path / "log").read_text()


def position_known(database: Database) -> bool:
    with database.transaction() as connection:
        return bool(connection.exec_driver_sql("select count(*) from dbshield.alert_position").scalar_one())


def test_mail_arrives(control: Database, tmp_path: Path) -> None:
    with smtp_receiver() as (mail, url):
        settings = config(tmp_path, url)
        with watching(control, settings):
            refused(control)
            assert until(lambda: states(control, settings) == [("sent", 1)])
    assert mail.subjects == ["dbshield: agent claude was refused in staging: DS301"]
    assert "What: drop table orders" in mail.text
    assert "Look: dbshield audit search -e staging --agent claude --verdict deny" in mail.text


def test_an_outage_of_the_control_database_is_told_once_and_its_end(receiver: HttpReceiver, tmp_path: Path) -> None:
    cluster = Cluster(temporary_folder(), settings={"fsync": "off", "shared_buffers": "1MB"})
    cluster.start(tethered=True, throwaway=True)
    try:
        with control_database(cluster.dsn()) as database:
            settings = config(tmp_path, receiver.url)
            with watching(database, settings):
                began = datetime.now(UTC)
                cluster.kill()
                assert until(lambda: receiver.messages)
                assert (datetime.now(UTC) - began).total_seconds() >= AWAY_AFTER
                assert "cannot reach the control database" in receiver.titles[0]
                cluster.start(tethered=True, throwaway=True)
                assert until(lambda: len(receiver.messages) == 2)
                refused(database)
                assert until(lambda: len(receiver.messages) == 3)
                assert until(lambda: {state for state, _ in states(database, settings)} == {"sent"})
            events = [(one.event, one.title) for one in AlertStore(database, settings.alerts).list_()]
    finally:
        cluster.remove()
    assert "reaches the control database again" in receiver.titles[1]
    assert [event for event, _ in events] == ["control-away", "control-away", "refused"]
    assert "cannot reach" in events[0][1]


def test_a_flood_of_one_kind_hides_no_other(control: Database, receiver: HttpReceiver, tmp_path: Path) -> None:
    settings = config(tmp_path, receiver.url)
    store = AlertStore(control, settings.alerts)
    store.read()
    for number in range(40):
        record(control, kind="refused", user=f"guess{number}.staging", client=f"10.0.0.{number}:1", reason="no such user")
    record(control, kind="approval-requested", agent="claude", environment="staging", approval="apr-abcdefgh", statement="x")
    while store.read():
        pass
    message = store.claim("team")
    assert message is not None
    assert message.title == "dbshield: 41 alerts: 40 login-refused, 1 approval"
    assert message.body.startswith("agent claude waits for a human in staging: approval apr-abcdefgh\n")
    assert message.body.endswith("and 31 more (31 login-refused): dbshield alerts list")
    assert store.claim("team") is None, "whoever claimed it has it"
    store.sent(message)
    assert {one.state for one in store.list_(limit=100)} == {"sent"}
