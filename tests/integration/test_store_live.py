"""What the control database tells running workers, and what they write down: freezes, hourly budgets, the audit of both."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, running_shield
from support.waiting import until

WORKERS = 2
CONNECTIONS = 12
"""Enough that both workers have some."""


@pytest.fixture
def shield(server18: Server, worker_id: str) -> Iterator[Shield]:
    folder = servers.here() / f"live-{worker_id}"
    with running_shield(server18, f"live_{worker_id}", folder, workers=WORKERS, drain_timeout=5.0) as running:
        yield running
    (folder / "state" / "audit.jsonl").unlink()


def audited(shield: Shield, event: str) -> list[dict[str, Any]]:
    file = shield.folder / "state" / "audit.jsonl"
    # A proxy takes connections before its workers have opened it; the last line may be under way.
    lines = file.read_text(encoding="ascii").rpartition("\n")[0].splitlines() if file.exists() else []
    return [found for found in map(json.loads, lines) if found["event"] == event]


def reload(shield: Shield, environment: dict[str, Any]) -> None:
    before = shield.text().count("configuration reloaded")
    shield.write_config(environment)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") >= before + WORKERS), shield.text()


def refused(connection: psycopg.Connection[tuple[Any, ...]], statement: str) -> str:
    """The rule that refuses a statement; empty where it runs."""
    try:
        connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return (error.diag.message_detail or "").split(" ")[0].removeprefix("rule=")
    return ""


def test_every_worker_writes_down_what_changes(shield: Shield) -> None:
    shield.cli("environment", "freeze", "test", "--reason", "release 4.2", "--for", "2h")
    assert until(lambda: len(audited(shield, "frozen")) == WORKERS)
    shield.cli("environment", "thaw", "test")
    assert until(lambda: len(audited(shield, "thawed")) == WORKERS)
    (begun,) = {(line["environment"], line["reason"], line["freeze"]) for line in audited(shield, "frozen")}
    (ended,) = {(line["environment"], line["reason"], line["freeze"]) for line in audited(shield, "thawed")}
    assert begun == ended
    assert begun[:2] == ("test", "release 4.2")
    reload(shield, {"mode": "observe", "max_rows": 50})
    assert until(lambda: len(audited(shield, "policy-changed")) == WORKERS)
    for line in audited(shield, "policy-changed"):
        assert (line["environment"], line["changed"]) == ("test", {"mode": ["enforce", "observe"], "max_rows": [100, 50]})
    with shield.connect() as connection:
        assert refused(connection, "delete from shop.settings where key = key and false") == ""
    assert until(lambda: [line for line in audited(shield, "statement") if "observed" in line])
    (line,) = (line for line in audited(shield, "statement") if "observed" in line)
    assert (line["verdict"], line["observed"], line["rules"]) == ("allow", "hold", ["DS201"])


def test_the_rows_of_counted_statements_are_written_down(shield: Shield) -> None:
    with shield.connect() as connection:
        connection.execute("update shop.customers set name = 'x' where id in (11, 12)")
    assert until(lambda: audited(shield, "rows"))
    (line,) = audited(shield, "rows")
    assert (line["agent"], line["environment"], line["changed"]) == ("write", "test", {"shop.customers": 2})


def change(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
    return refused(connection, "update shop.customers set name = 'x' where id in (11, 12)")


def elsewhere(shield: Shield) -> set[str]:
    """What becomes of the same change on many connections at once."""
    connections = [shield.connect() for _ in range(CONNECTIONS)]
    try:
        return {change(connection) for connection in connections}
    finally:
        for connection in connections:
            connection.close()


def test_an_hour_is_counted_over_all_workers_and_past_their_end(shield: Shield) -> None:
    """Two rows of three are gone: no connection may change two more, whichever worker it has and whenever it started."""
    shield.stop()
    shield.write_config({"max_rows_per_hour": 3})
    shield.start()
    with shield.connect() as first:
        assert change(first) == ""
        assert change(first) == "DS221"
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
        kept = "select agent, table_name, sum(rows) from dbshield.changed_rows group by 1, 2"
        assert until(lambda: control.execute(kept.encode()).fetchall() == [("write", "shop.customers", 2)])
    assert until(lambda: elsewhere(shield) == {"DS221"})
    shield.stop()
    shield.start()
    assert elsewhere(shield) == {"DS221"}
    with shield.connect() as other:
        assert refused(other, "update shop.products set title = title where id = 1") == "", "another table has rows left"
