"""One agent frozen: by a human, and by being refused again and again, through real proxies with several workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from support.control import ENVIRONMENTS, agents_of, registered, tables_database
from support.servers import Server
from support.shield import ENVIRONMENT, Shield, prepared_shield, started
from support.waiting import until

from dbshield.config import Config, EnvironmentConfig
from dbshield.control.alerts import COUNT_EVERY, Watch
from dbshield.control.audit_store import Entry, append
from dbshield.control.freezes import Freezes
from dbshield.control.refusals import Refusals
from dbshield.errors import Refused
from dbshield.model import AccessLevel
from dbshield.store.database import Database

PATIENCE = 6
"""Refusals after which the agent is frozen."""
WRITE = "update shop.products set stock = stock where id = 4"


@contextmanager
def patient_shield(server: Server, folder: Path, **environment: Any) -> Iterator[Shield]:
    with prepared_shield(server, f"frozen_{folder.name}"[:40].lower(), folder, agents=["write", "migrate"], workers=2) as shield:
        shield.write_config({"freeze_after_refusals": PATIENCE, **environment})
        with started(shield):
            yield shield


def refusal(connection: psycopg.Connection[Any], statement: str) -> str:
    """What the shield says of a statement; empty where it passes."""
    try:
        connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return f"{error.diag.message_detail} {error.diag.message_hint}"
    return ""


def freezes_of(shield: Shield, agent: str) -> list[dict[str, Any]]:
    listed = json.loads(shield.cli("agent", "list", "--json"))
    return next(list(one["freezes"]) for one in listed if one["agent"] == agent)


def test_an_agent_that_is_refused_again_and_again_writes_nothing_until_it_is_thawed(server18: Server, tmp_path: Path) -> None:
    with patient_shield(server18, tmp_path) as shield:
        with shield.connect("write") as standing, shield.connect("write") as other, shield.connect("migrate") as somebody:
            assert refusal(standing, WRITE) == ""
            for number in range(PATIENCE):
                assert "DS" in refusal((standing, other)[number % 2], "create role intruder")
            assert until(lambda: "DS313" in refusal(standing, WRITE))
            # Each worker hears of it for itself, and two sessions may be of two.
            assert until(lambda: "this agent is frozen (6 statements refused within 10 minutes)" in refusal(other, WRITE))
            assert standing.execute("select count(*) from shop.products").fetchone() is not None
            assert refusal(somebody, WRITE) == "", "the other agents of the environment go on"
            (freeze,) = freezes_of(shield, "write")
            assert (freeze["frozen_by"], freeze["until"]) == ("dbshield", None)
            assert freezes_of(shield, "migrate") == []
            # Being refused because it is frozen does not freeze it further.
            for _ in range(PATIENCE * 2):
                assert "DS313" in refusal(standing, WRITE)
            assert len(freezes_of(shield, "write")) == 1
            out = shield.cli("agent", "thaw", "write", "--environment", ENVIRONMENT)
            assert out == "write in test is thawed: 1 freeze is lifted.\n"
            assert until(lambda: refusal(standing, WRITE) == "")
            assert until(lambda: refusal(other, WRITE) == "")
            # What it was refused before the thaw is forgiven.
            assert "DS" in refusal(standing, "create role intruder")
            assert refusal(other, WRITE) == ""
        found = shield.cli("audit", "search", "--json", "--kind", "agent-frozen").splitlines()
        assert [json.loads(line)["entry"]["by"] for line in found] == ["dbshield"]
        shield.cli("agent", "thaw", "write", "--environment", ENVIRONMENT, fails=True)


def test_a_human_freezes_one_agent(server18: Server, tmp_path: Path) -> None:
    with patient_shield(server18, tmp_path) as shield:
        with shield.connect("write") as connection, shield.connect("migrate") as somebody:
            assert refusal(connection, WRITE) == ""
            out = shield.cli("agent", "freeze", "write", "-e", ENVIRONMENT, "--reason", "odd things", "--for", "1h")
            assert out.startswith("write in test is frozen until ")
            assert until(lambda: "this agent is frozen (odd things)" in refusal(connection, WRITE))
            assert refusal(somebody, WRITE) == ""
            shield.cli("environment", "freeze", ENVIRONMENT, "--reason", "release", "--for", "2h")
            assert until(lambda: "this environment is frozen (release)" in refusal(somebody, WRITE))
            # The one that holds longer is said.
            assert until(lambda: "this environment is frozen (release)" in refusal(connection, WRITE))
            shield.cli("environment", "thaw", ENVIRONMENT)
            assert until(lambda: refusal(somebody, WRITE) == "")
            # Lifting one lifts not the other.
            assert until(lambda: "this agent is frozen" in refusal(connection, WRITE))
            assert "odd things" in shield.cli("policy", "show", "-e", ENVIRONMENT, "--agent", "write")
            assert "odd things" not in shield.cli("policy", "show", "-e", ENVIRONMENT, "--agent", "migrate")
            shield.cli("agent", "thaw", "write", "-e", ENVIRONMENT)
            assert until(lambda: refusal(connection, WRITE) == "")
        shield.cli("agent", "freeze", "nobody", "-e", ENVIRONMENT, "--reason", "r", fails=True)


NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def control(server18: Server) -> Iterator[Database]:
    with tables_database(server18) as dsn, registered(dsn) as database:
        yield database


def settings(most: int = 3, minutes: float = 10) -> dict[str, EnvironmentConfig]:
    patient = {"freeze_after_refusals": most, "freeze_window_minutes": minutes}
    return {name: each.model_copy(update=patient) for name, each in ENVIRONMENTS.items()}


def refuse(
    database: Database, agent: str, times: int = 1, *, at: datetime, rules: tuple[str, ...] = ("DS301",), **more: str
) -> None:
    fields = {"environment": "staging", "agent": agent, "verdict": "deny", "rules": list(rules), **more}
    with database.transaction() as connection:
        append(connection, [Entry(at=at, kind="statement", fields=fields)] * times)


def test_what_counts_as_a_refusal(control: Database) -> None:
    now = datetime.now(UTC)
    refusals = Refusals(control, settings())
    refuse(control, "asks", 5, at=now, verdict="hold")
    refuse(control, "reads", 5, at=now, verdict="allow")
    refuse(control, "frozen", 5, at=now, rules=("DS313",))
    refuse(control, "unaudited", 5, at=now, rules=("DS701", "DS313"))
    refuse(control, "slow", 2, at=now - timedelta(minutes=11))
    refuse(control, "slow", 2, at=now)
    refuse(control, "elsewhere", 5, at=now, environment="unconfigured")
    assert refusals.freeze_offenders(now) == []
    refuse(control, "mixed", 3, at=now, rules=("DS313", "DS301"))
    refuse(control, "slow", at=now)
    frozen = refusals.freeze_offenders(now)
    assert [freeze.agent for freeze in frozen] == ["mixed", "slow"]
    assert frozen[0].reason == "3 statements refused within 10 minutes"
    assert refusals.freeze_offenders(now) == [], "it is frozen already"


def test_the_watch_counts_when_a_refusal_has_come_and_not_for_what_passed(control: Database) -> None:
    now = datetime.now(UTC)
    refusals = Refusals(control, settings())
    assert refusals.news(0, now) == (0, False)
    refuse(control, "reads", 2, at=now, verdict="allow")
    assert refusals.news(0, now) == (2, False)
    refuse(control, "slow", at=now - timedelta(minutes=11))
    assert refusals.news(2, now) == (3, False), "older than what is counted"
    refuse(control, "claude", 2, at=now)
    assert refusals.news(3, now) == (5, True)
    assert refusals.news(5, now) == (5, False)
    freezes, standing = Freezes(control, settings()), [0.0]
    watch = Watch(control, Config(environments=settings()), clock=lambda: standing[0])
    watch.look()
    assert freezes.agents_in_force(now) == {}
    refuse(control, "claude", at=now)
    watch.look()
    assert [len(found) for found in freezes.agents_in_force(now).values()] == [1], "the clock has not moved"


def test_the_watch_counts_again_what_was_refused_while_a_freeze_held(control: Database, tmp_path: Path) -> None:
    now, standing = datetime.now(UTC), [0.0]
    agents, _ = agents_of(control, tmp_path)
    agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=now, by="test")
    freezes = Freezes(control, settings())
    freezes.freeze("staging", agent="claude", reason="r", by="ann", now=now - timedelta(hours=1), until=now + timedelta(hours=1))
    watch = Watch(control, Config(environments=settings()), clock=lambda: standing[0])
    refuse(control, "claude", 3, at=now)
    watch.look()
    watch.look()
    with control.transaction() as connection:
        connection.execute(text("update dbshield.freezes set until = now()"))
    refuse(control, "claude", at=now, verdict="allow")
    watch.look()
    assert freezes.agents_in_force(datetime.now(UTC)) == {}
    standing[0] = COUNT_EVERY
    refuse(control, "claude", at=now, verdict="allow")
    watch.look()
    assert [len(found) for found in freezes.agents_in_force(datetime.now(UTC)).values()] == [1]


def test_a_thaw_begins_a_new_count(control: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    agents, _ = agents_of(control, tmp_path)
    agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=now, by="test")
    refusals, freezes = Refusals(control, settings()), Freezes(control, settings())
    refuse(control, "claude", 3, at=now)
    assert len(refusals.freeze_offenders(now)) == 1
    assert [len(found) for found in freezes.agents_in_force(now).values()] == [1]
    assert freezes.in_force(now) == {}
    freezes.thaw("staging", agent="claude", by="ann", now=now + timedelta(seconds=1))
    refuse(control, "claude", 2, at=now + timedelta(seconds=2))
    assert refusals.freeze_offenders(now + timedelta(seconds=3)) == []
    refuse(control, "claude", 1, at=now + timedelta(seconds=4))
    assert len(refusals.freeze_offenders(now + timedelta(seconds=5))) == 1


def test_off_is_off_and_others_are_not_counted(control: Database) -> None:
    now = datetime.now(UTC)
    refuse(control, "claude", 50, at=now)
    assert Refusals(control, settings(most=0)).freeze_offenders(now) == []
    assert Refusals(control, {"production": settings()["production"]}).freeze_offenders(now) == []


def test_an_agent_and_its_environment_are_thawed_apart(control: Database, tmp_path: Path) -> None:
    agents, _ = agents_of(control, tmp_path)
    agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=NOW, by="test")
    freezes = Freezes(control, ENVIRONMENTS)
    freezes.freeze("staging", reason="one", by="ann", now=NOW, agent="claude")
    with pytest.raises(Refused, match="nobody froze staging"):
        freezes.thaw("staging", by="ann", now=NOW)
    freezes.freeze("staging", reason="all", by="ann", now=NOW)
    assert freezes.thaw("staging", by="ann", now=NOW) == 1
    assert list(freezes.agents_in_force(NOW)) == ["claude.staging"]
    assert freezes.thaw("staging", agent="claude", by="ann", now=NOW) == 1
    with suppress(Refused):
        freezes.freeze("staging", reason="one", by="ann", now=NOW, agent="nobody")
        pytest.fail("there is no such agent")
