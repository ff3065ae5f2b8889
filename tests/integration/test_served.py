"""A configuration that was changed while nothing ran is told at the next start, once for each place, and without its secrets."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import structlog
from support import servers
from support.background import Background
from support.control import NOW, all_heard, registered, tables_database
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

from dbshield.cli import scheduler
from dbshield.config import Config
from dbshield.control import audit_read
from dbshield.control.audit import AuditLog
from dbshield.control.audit_read import Filter
from dbshield.control.picture import picture_of
from dbshield.control.served import PROXY, SCHEDULER, Place, Served
from dbshield.proxy.serving import Serving
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server
HERE = Place(host="one", file="/etc/dbshield/dbshield.toml", state="/var/lib/dbshield")
WORKERS = 2
KINDS = ("policy-changed", "configuration-changed", "configuration-served")


@pytest.fixture(scope="module")
def control(server18: Server) -> Iterator[Database]:
    with tables_database(server18) as dsn, registered(dsn) as database:
        yield database


@pytest.fixture(autouse=True)
def _nothing_served(control: Database) -> None:
    with control.transaction() as connection:
        connection.exec_driver_sql("truncate dbshield.served_configurations")


def config(password: str = "hunter2", max_rows: int = 7, **more: Any) -> Config:
    upstream = f"postgresql://app:{password}@db.example.com/shop?sslmode=verify-full"
    return Config.model_validate({"environments": {"staging": {"upstream": upstream, "max_rows": max_rows}}, **more})


def look(
    control: Database, settings: Config, place: Place = HERE, *, part: str = PROXY, days: int = 0, key: bytes | None = b"key"
) -> list[tuple[str, dict[str, Any]]]:
    """The entries of a start: their kinds and what changed."""
    found = Served(control, place, part).look(picture_of(settings, key), NOW + timedelta(days=days))
    said = [json.loads(entry.line()) for entry in found]
    assert all(entry["host"] == place.host and entry["part"] == part for entry in said)
    return [(entry["event"], entry.get("changed") or entry.get("policies")) for entry in said]


def other(host: str, **changed: str) -> Place:
    return Place(**({"host": host, "file": HERE.file, "state": HERE.state} | changed))


def test_what_changed_since_is_told_once(control: Database) -> None:
    # No other test's file: what they have told stays in the audit.
    place = other("one", file="/etc/dbshield/once.toml")
    [(kind, policies)] = look(control, config(), place)
    assert (kind, policies["staging"]["max_rows"]) == ("configuration-served", 7)
    assert look(control, config(), place) == []
    changed = config("hunter3", 9, proxy={"login_failures": 5})
    assert look(control, changed, place, days=1) == [
        ("policy-changed", {"max_rows": [7, 9]}),
        ("configuration-changed", {"environments.staging.upstream": None, "proxy.login_failures": [20, 5]}),
    ]
    assert look(control, changed, place) == []
    entries = [json.loads(link.entry) for link in audit_read.stream(control, Filter(kind="policy-changed"))]
    (said,) = [entry for entry in entries if entry["file"] == place.file]
    assert (said["environment"], said["before"]["host"]) == ("staging", "one")
    with control.transaction() as connection:
        kept = str(connection.exec_driver_sql("select picture from dbshield.served_configurations").all())
        written = str(connection.exec_driver_sql("select entry from dbshield.audit").all())
    assert "hunter" not in kept + written
    assert audit_read.verify(control).faults == ()


def test_a_reload_keeps_what_it_has_told(control: Database) -> None:
    look(control, config())
    Served(control, HERE, PROXY).keep(picture_of(config(max_rows=9), b"key"), NOW + timedelta(hours=1))
    assert look(control, config(max_rows=9), days=1) == []


def test_a_host_that_lags_behind_tells_nothing_until_it_changes(control: Database) -> None:
    """Two hosts, one of them with the older file: each start is compared with its own, and nothing goes to and fro."""
    look(control, config())
    assert look(control, config(), other("two")) == [], "the same file as elsewhere"
    assert look(control, config(max_rows=9), days=1) == [("policy-changed", {"max_rows": [7, 9]})]
    for _ in range(2):
        assert look(control, config(), other("two"), days=2) == []
        assert look(control, config(max_rows=9), days=2) == []
    assert look(control, config(max_rows=9), other("two"), days=3) == [("policy-changed", {"max_rows": [7, 9]})]


def test_machines_with_new_names_are_compared_with_the_newest_of_their_file(control: Database) -> None:
    look(control, config(), other("pod-1"))
    assert look(control, config(max_rows=9), other("pod-2"), days=1) == [("policy-changed", {"max_rows": [7, 9]})]
    assert look(control, config(max_rows=9), other("pod-3"), days=2) == []
    assert look(control, config(), other("pod-4"), days=3) == [("policy-changed", {"max_rows": [9, 7]})], "back again"
    [(kind, _)] = look(control, config(), other("pod-5", file="/elsewhere.toml"), days=4)
    assert kind == "configuration-served"


def test_places_that_are_gone_are_forgotten_and_the_newest_of_a_file_is_not(control: Database) -> None:
    for host in ("pod-1", "pod-2"):
        look(control, config(), other(host))
    look(control, config(), other("one", file="/elsewhere.toml"))
    look(control, config(), other("pod-3"), days=91)
    with control.transaction() as connection:
        left = connection.exec_driver_sql("select host from dbshield.served_configurations order by 1").scalars().all()
    assert left == ["one", "pod-3"]


def test_of_proxy_and_scheduler_one_tells(control: Database) -> None:
    look(control, config())
    assert look(control, config(), part=SCHEDULER) == []
    plan: dict[str, Any] = {"schedule": {"overdue_minutes": 7}}
    before = config().schedule.overdue_minutes
    told = [("configuration-changed", {"schedule.overdue_minutes": [before, 7]})]
    assert look(control, config(max_rows=9, **plan), part=SCHEDULER, days=1) == told
    assert look(control, config(max_rows=9, **plan), days=2) == [("policy-changed", {"max_rows": [7, 9]})]
    assert look(control, config(max_rows=9), days=3) == [("configuration-changed", {"schedule.overdue_minutes": [7, before]})]
    assert look(control, config(max_rows=9), part=SCHEDULER, days=4) == []
    assert look(control, config(max_rows=9, **plan), part=SCHEDULER, days=5, key=None) == told, "a machine without the key"
    assert look(control, config(), other("three", file="/alone.toml"), part=SCHEDULER) == []


def test_of_many_that_start_at_once_one_tells(control: Database) -> None:
    look(control, config())
    starts = [Background(lambda: look(control, config(max_rows=9), days=1)) for _ in range(6)]
    told = [start.result() for start in starts]
    assert sorted(told) == [[]] * 5 + [[("policy-changed", {"max_rows": [7, 9]})]]


def test_what_somebody_has_spoilt_counts_as_nothing(control: Database) -> None:
    look(control, config())
    with control.transaction() as connection:
        connection.exec_driver_sql("update dbshield.served_configurations set picture = '{}'")
    [(kind, _)] = look(control, config())
    assert kind == "configuration-served"


def test_a_scheduler_tells_what_changed_while_it_was_down(control: Database, tmp_path: Path) -> None:
    """It has no key here, which a machine that only makes backups needs not have."""
    file, stop = tmp_path / "dbshield.toml", threading.Event()
    stop.set()
    with control.transaction() as connection:
        dsn = connection.connection.driver_connection.info.dsn  # type: ignore[union-attr]
    for minutes in (5, 9, 9):
        file.write_text(f'state = "{tmp_path}"\n[schedule]\nprune = "0 3 * * *"\noverdue_minutes = {minutes}\n')
        scheduler.serve(file, dsn, stop, threading.Event())
    found = [json.loads(link.entry) for link in audit_read.stream(control, Filter(kind="configuration-changed"))]
    changed = [entry["changed"] for entry in found if entry["file"] == str(file)]
    assert changed == [{"schedule.overdue_minutes": [5, 9]}]


@pytest.fixture
def shield(server18: Server, worker_id: str) -> Iterator[Shield]:
    folder = servers.here() / f"served-{worker_id}"
    with prepared_shield(server18, f"served_{worker_id}", folder, agents=("write",), workers=WORKERS) as prepared:
        yield prepared
    (folder / "state" / "audit.jsonl").unlink()
    # What a worker that was killed had not brought to that control database is none of the next one's.
    for left in (folder / "state" / "audit").glob("*"):
        left.unlink()


def told(shield: Shield) -> list[dict[str, Any]]:
    """What the control database has of the configuration; the file has the same."""
    query = "select entry from dbshield.audit where kind = any(%s) order by id"
    with psycopg.connect(shield.server.dsn(shield.control)) as connection:
        found = [json.loads(entry) for (entry,) in connection.execute(query, [list(KINDS)])]
    written = map(json.loads, (shield.folder / "state" / "audit.jsonl").read_text(encoding="ascii").splitlines())
    assert [entry for entry in written if entry["event"] in KINDS] == found
    return found


def test_a_proxy_tells_what_changed_while_it_was_down(shield: Shield) -> None:
    """Two workers that start at once tell it once; a start without a change tells nothing."""
    for environment in ({}, {"mode": "observe", "max_rows": 50}, {"mode": "observe", "max_rows": 50}):
        shield.write_config(environment)
        with started(shield), shield.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    first, changed = told(shield)
    assert (first["event"], first["policies"]["test"]["mode"]) == ("configuration-served", "enforce")
    assert (changed["event"], changed["environment"]) == ("policy-changed", "test")
    assert changed["changed"] == {"mode": ["enforce", "observe"], "max_rows": [100, 50]}
    assert changed["file"] == str(shield.config)


def test_regression_a_worker_that_is_started_again_has_what_the_others_reloaded(shield: Shield) -> None:
    """It began with what the proxy had read at its start: a policy made stricter since was none for its sessions."""
    shield.write_config({"mode": "observe"})
    with started(shield):
        # A worker that has not begun hears no signal.
        all_heard(shield.server.dsn(shield.control), workers=WORKERS)
        shield.write_config({"mode": "enforce"})
        shield.signal(signal.SIGHUP)
        assert until(lambda: shield.text().count("configuration reloaded") == WORKERS)
        assert shield._process is not None
        workers = psutil.Process(shield._process.pid).children()
        for worker in workers:
            worker.kill()
        assert until(lambda: not any(psutil.pid_exists(worker.pid) for worker in workers))
        with shield.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            connection.execute("delete from shop.settings")
        assert "rule=DS201" in (caught.value.diag.message_detail or "")


def test_a_start_that_cannot_look_goes_on_and_looks_later(server18: Server, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with tables_database(server18) as dsn, registered(dsn) as database:
        look(database, config())
        database.close()
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]

        async def serve() -> None:
            log = AuditLog(file)
            served = Served(Database(dsn), HERE, PROXY)
            serving = Serving(served, log, structlog.get_logger(), config(max_rows=9), b"key")
            with server18.connect() as admin:
                admin.execute(f'alter database "{name}" with allow_connections false')
                await serving.flush()
                admin.execute(f'alter database "{name}" with allow_connections true')
            await serving.flush()
            serving.reloaded(config(max_rows=11), 1_777_777_777.0)
            await serving.flush()
            log.close()

        asyncio.run(serve())
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(entry["changed"], "before" in entry) for entry in found] == [
            ({"max_rows": [7, 9]}, True),
            ({"max_rows": [9, 11]}, False),
        ]
        assert look(database, config(max_rows=11)) == []
