"""The directory that proxies look agents up in, following a real control database through changes and outages."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from support.control import ENVIRONMENTS, PRODUCTION, STAGING, agents_of, control_database, empty_database
from support.servers import Server
from support.waiting import seconds_until

from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import EnvironmentConfig
from dbshield.control import directory as module
from dbshield.control.agents import Agents, IssuedToken
from dbshield.control.directory import Directory
from dbshield.control.pins import Pins
from dbshield.control.scopes import make_scope
from dbshield.control.tokens import Verifier, matches
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, StoreError
from dbshield.model import AccessLevel, AgentLogin
from dbshield.store.database import Database
from dbshield.store.living import LivingRow
from dbshield.store.schema import REVISION

pytestmark = pytest.mark.one_server

BACKENDS = text("select pid from pg_stat_activity where application_name = 'dbshield directory' and datname = current_database()")

PROPAGATION = 1.0
"""Seconds within which a revocation reaches every proxy: what is promised."""


class Clock:
    """The seconds of a machine that go by when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def agents(control: Database, tmp_path: Path) -> Agents:
    return agents_of(control, tmp_path)[0]


@pytest.fixture
async def directory(control: Database, control_dsn: str, tmp_path: Path) -> AsyncIterator[Directory]:
    _, vault = agents_of(control, tmp_path)
    directory = Directory(control_dsn=control_dsn, environments=ENVIRONMENTS, vault=vault)
    await directory.start()
    yield directory
    await directory.stop()


def create(agents: Agents, name: str = "claude", environment: str = "staging", **more: object) -> IssuedToken:
    now = datetime.now(UTC)
    return agents.create(name=name, environment=environment, access=AccessLevel.READ, now=now, by="ann", **more)  # type: ignore[arg-type]


def found(directory: Directory, user: str) -> AgentLogin:
    login = directory.find(user)
    assert login is not None
    return login


async def test_a_new_agent_is_found_with_all_that_a_login_needs(agents: Agents, directory: Directory) -> None:
    assert directory.find("claude.staging") is None
    issued = create(agents)
    create(agents, environment="production", role="agent_read", role_password="hunter2")
    assert await seconds_until(lambda: directory.find("claude.production")) < PROPAGATION
    login = found(directory, "claude.staging")
    assert (login.user, login.access, login.databases) == ("claude.staging", AccessLevel.READ, ("shop",))
    assert (login.upstream.user, login.upstream.password, login.upstream.sslmode) == ("app", None, "verify-full")
    (token,) = login.tokens
    assert token.token_id == issued.token.id
    assert token.expires_at == pytest.approx(issued.expires_at.timestamp(), abs=1e-3)
    verifier = Verifier(stored_key=token.stored_key, server_key=token.server_key)
    assert matches(issued.token, verifier, salt=login.salt, iterations=login.iterations)
    other = found(directory, "claude.production").upstream
    assert (other.host, other.user, other.password) == ("/run/postgresql", "agent_read", "hunter2")
    assert "hunter2" not in repr(found(directory, "claude.production"))


async def test_a_revoked_token_is_gone_within_a_second(agents: Agents, directory: Directory) -> None:
    first = create(agents)
    second = agents.issue_token(name="claude", environment="staging", now=datetime.now(UTC), by="ann")
    await seconds_until(lambda: (login := directory.find("claude.staging")) and len(login.tokens) == 2)
    agents.revoke_token(token_id=first.token.id, now=datetime.now(UTC))
    took = await seconds_until(lambda: len(found(directory, "claude.staging").tokens) == 1)
    assert took < PROPAGATION
    assert found(directory, "claude.staging").tokens[0].token_id == second.token.id


async def test_a_removed_agent_is_gone_within_a_second(agents: Agents, directory: Directory) -> None:
    create(agents)
    await seconds_until(lambda: directory.find("claude.staging"))
    agents.remove(name="claude", environment="staging", now=datetime.now(UTC))
    assert await seconds_until(lambda: directory.find("claude.staging") is None) < PROPAGATION


async def test_a_token_that_expired_lately_is_known_and_an_old_one_is_not(agents: Agents, directory: Directory) -> None:
    create(agents)
    now = datetime.now(UTC)
    for days in (3, 30):
        agents.issue_token(name="claude", environment="staging", now=now - timedelta(days=days), by="ann", ttl=timedelta(hours=1))
    await seconds_until(lambda: (login := directory.find("claude.staging")) and len(login.tokens) == 2)
    expired = [token for token in found(directory, "claude.staging").tokens if token.expires_at < now.timestamp()]
    assert len(expired) == 1


async def test_callbacks_hear_of_changes_and_of_nothing_else(control: Database, agents: Agents, directory: Directory) -> None:
    heard: list[bool] = []
    directory.on_change(lambda: heard.append(directory.available))
    with control.transaction() as connection:
        connection.execute(text("insert into dbshield.environments (name) values ('unrelated')"))
    create(agents)
    await seconds_until(lambda: directory.find("claude.staging"))
    assert set(heard) == {True}
    assert len(heard) == 1
    await directory.stop()
    assert heard[-1] is False


async def test_a_burst_of_changes_leads_to_few_loads(
    agents: Agents, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0
    publish = directory._publish

    def counted(rows: list[LivingRow]) -> None:
        nonlocal loads
        loads += 1
        publish(rows)

    monkeypatch.setattr(directory, "_publish", counted)

    def burst() -> None:
        for number in range(30):
            create(agents, f"agent-{number}")

    begin = time.monotonic()
    await asyncio.to_thread(burst)
    await seconds_until(lambda: directory.find("agent-29.staging"))
    # Where a burst takes seconds it is none.
    assert loads < max(20, (time.monotonic() - begin) / module.GATHER + 2)


async def test_settings_are_exchanged_without_a_load(agents: Agents, directory: Directory, tmp_path: Path) -> None:
    create(agents)
    create(agents, environment="production")
    await seconds_until(lambda: directory.find("claude.production"))
    (tmp_path / "password").write_text("rotated\n", encoding="utf-8")
    changed = EnvironmentConfig(upstream=STAGING.upstream, databases=("shop", "stock"), password_file=tmp_path / "password")
    directory.reconfigure({"staging": changed})
    assert found(directory, "claude.staging").databases == ("shop", "stock")
    assert found(directory, "claude.staging").upstream.password == "rotated"
    assert directory.find("claude.production") is None
    directory.reconfigure({"staging": changed, "production": PRODUCTION})
    assert found(directory, "claude.production").upstream.user == "shield"


async def test_an_agent_whose_password_cannot_be_read_is_left_out_and_named(
    agents: Agents, directory: Directory, tmp_path: Path
) -> None:
    create(agents, "one")
    create(agents, "two", role="agent_two", role_password="pw")
    create(agents, "three", environment="production")
    await seconds_until(lambda: directory.find("three.production"))
    gone = EnvironmentConfig(upstream=PRODUCTION.upstream, password_file=tmp_path / "gone")
    with structlog.testing.capture_logs() as logs:
        directory.reconfigure({"staging": STAGING, "production": gone})
        directory.reconfigure({"staging": STAGING, "production": gone})
    assert [(entry["event"], entry["user"]) for entry in logs] == [("directory.agent_left_out", "three.production")]
    assert directory.find("three.production") is None
    assert found(directory, "two.staging").upstream.password == "pw"
    other = Directory(control_dsn=directory._dsn, environments=ENVIRONMENTS, vault=Vault.create(tmp_path / "other.key"))
    with structlog.testing.capture_logs() as logs:
        await other.start()
    assert other.find("two.staging") is None
    assert other.find("one.staging") is not None
    assert "sealed with another key" in logs[0]["reason"]
    await other.stop()


async def test_nobody_is_found_before_the_start_and_after_the_stop(agents: Agents, directory: Directory) -> None:
    create(agents)
    await seconds_until(lambda: directory.find("claude.staging"))
    await directory.stop()
    assert not directory.available
    with pytest.raises(StoreError, match="does not answer"):
        directory.find("claude.staging")


async def test_a_first_load_that_fails_is_said(server: Server, tmp_path: Path) -> None:
    vault = Vault.create(tmp_path / "key")
    with empty_database(server) as dsn:
        directory = Directory(control_dsn=dsn, environments=ENVIRONMENTS, vault=vault)
        with pytest.raises(StoreError, match="is empty"):
            await directory.start()
        assert not directory.available
    with pytest.raises(StoreError, match="does not answer"):
        await Directory(control_dsn="host=127.0.0.1 port=1", environments={}, vault=vault).start()


async def test_an_outage_is_noticed_and_so_is_its_end(tmp_path: Path) -> None:
    cluster = Cluster(temporary_folder(), settings={"fsync": "off", "shared_buffers": "1MB"})
    cluster.start(tethered=True, throwaway=True)
    try:
        with control_database(cluster.dsn()) as database:
            agents, vault = agents_of(database, tmp_path)
            issued = create(agents)
            directory = Directory(control_dsn=cluster.dsn(), environments=ENVIRONMENTS, vault=vault)
            await directory.start()
            heard: list[bool] = []
            directory.on_change(lambda: heard.append(directory.available))
            await asyncio.to_thread(cluster.kill)
            assert await seconds_until(lambda: not directory.available) < PROPAGATION
            with pytest.raises(StoreError, match="does not answer"):
                directory.find("claude.staging")
            await asyncio.to_thread(cluster.start, tethered=True, throwaway=True)
            await seconds_until(lambda: directory.available)
            assert found(directory, "claude.staging").tokens[0].token_id == issued.token.id
            agents.revoke_token(token_id=issued.token.id, now=datetime.now(UTC))
            assert await seconds_until(lambda: not found(directory, "claude.staging").tokens) < PROPAGATION
            assert heard[:2] == [False, True]
            await directory.stop()
    finally:
        cluster.remove()


async def test_what_is_in_memory_is_believed_for_a_while_after_the_control_database_went_away(
    agents: Agents, control: Database, control_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(agents)
    monkeypatch.setattr(module, "RETRY_FIRST", 30.0)
    monkeypatch.setattr(module, "RETRY_MOST", 30.0)
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    _, vault = agents_of(control, tmp_path)
    patient = Directory(control_dsn=control_dsn, environments=ENVIRONMENTS, vault=vault, grace=60.0)
    with pytest.raises(StoreError):
        patient.find("claude.staging")
    await patient.start()
    known = found(patient, "claude.staging")
    with control.transaction() as connection:
        for pid in connection.scalars(BACKENDS).all():
            connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
    await seconds_until(lambda: not patient.available)
    clock.now += 59.0
    assert patient.find("claude.staging") == known
    assert patient.find("nobody.staging") is None
    clock.now += 1.0
    with pytest.raises(StoreError, match="does not answer"):
        patient.find("claude.staging")
    assert patient.token(known.tokens[0].token_id) == known.tokens[0], "for sessions that stand"
    await patient.stop()


async def test_a_tokens_scope_and_what_ends_it_reach_the_proxies(agents: Agents, directory: Directory) -> None:
    create(agents)
    now = datetime.now(UTC)
    scope = make_scope(
        access=AccessLevel.READ, databases=["shop"], networks=["10.0.0.0/8", "socket"], hours="Mon-Fri 08:00-18:00 UTC"
    )
    issued = agents.issue_token(name="claude", environment="staging", now=now, by="ann", scope=scope)
    await seconds_until(lambda: directory.token(issued.token.id))
    known = directory.token(issued.token.id)
    assert known is not None
    assert known.scope == scope
    assert known in found(directory, "claude.staging").tokens
    assert directory.access("claude.staging") is AccessLevel.READ
    rotated = agents.rotate_token(token_id=issued.token.id, now=now, by="ann", overlap=timedelta(hours=1))
    await seconds_until(lambda: directory.token(rotated.issued.token.id))
    ends, successor = directory.token(issued.token.id), directory.token(rotated.issued.token.id)
    assert ends is not None
    assert successor is not None
    assert ends.expires_at == pytest.approx((now + timedelta(hours=1)).timestamp(), abs=1e-3)
    assert successor.scope == scope
    agents.revoke_token(token_id=issued.token.id, now=now)
    assert await seconds_until(lambda: directory.token(issued.token.id) is None) < PROPAGATION
    agents.remove(name="claude", environment="staging", now=now)
    assert await seconds_until(lambda: directory.access("claude.staging") is None) < PROPAGATION
    assert directory.token(rotated.issued.token.id) is None
    assert (directory.serves("staging"), directory.serves("elsewhere")) == (True, False)


async def test_a_tokens_end_is_heard_of_an_agent_whose_password_cannot_be_read(
    agents: Agents, directory: Directory, tmp_path: Path
) -> None:
    """Its sessions stand, and must end with their token all the same."""
    issued = create(agents)
    await seconds_until(lambda: directory.token(issued.token.id))
    directory.reconfigure({"staging": EnvironmentConfig(upstream=STAGING.upstream, password_file=tmp_path / "gone")})
    assert directory.find("claude.staging") is None
    assert directory.token(issued.token.id) is not None
    heard: list[bool] = []
    directory.on_change(lambda: heard.append(True))
    agents.revoke_token(token_id=issued.token.id, now=datetime.now(UTC))
    assert await seconds_until(lambda: heard) < PROPAGATION
    assert directory.token(issued.token.id) is None


async def test_a_pin_reaches_the_proxies(control: Database, agents: Agents, directory: Directory) -> None:
    pins = Pins(control, ENVIRONMENTS)
    huge = (1 << 63) - 1
    assert pins.pin("staging", system_identifier=7, by="ann", now=datetime.now(UTC)) is None
    assert await seconds_until(lambda: directory.pins == {"staging": 7}) < PROPAGATION
    assert pins.pin("staging", system_identifier=8, by="bob", now=datetime.now(UTC), only_first=True) == 7
    assert pins.all()["staging"].pinned_by == "ann"
    assert pins.pin("staging", system_identifier=huge, by="bob", now=datetime.now(UTC)) == 7
    assert await seconds_until(lambda: directory.pins == {"staging": huge}) < PROPAGATION
    with pytest.raises(ConfigError, match="is not configured"):
        pins.pin("stagin", system_identifier=7, by="ann", now=datetime.now(UTC))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that are started from now on look soon whether their connection lives."""
    monkeypatch.setattr(module, "POLL", 0.5)


async def test_a_connection_that_goes_silent_is_noticed(
    agents: Agents, control: Database, often: None, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server process stops without a word: nothing arrives, nothing is refused."""
    monkeypatch.setattr(module, "QUERY_TIMEOUT", 0.2)
    heard: list[bool] = []
    directory.on_change(lambda: heard.append(directory.available))
    with control.transaction() as connection:
        (pid,) = connection.scalars(BACKENDS).all()
    os.kill(pid, signal.SIGSTOP)
    try:
        # Not after psycopg has given up on cancelling the query, which takes it seconds.
        assert await seconds_until(lambda: heard) < module.POLL + 1
        # So short a time suits nobody who answers but has much to do.
        monkeypatch.undo()
        await seconds_until(lambda: heard == [False, True])
    finally:
        os.kill(pid, signal.SIGCONT)
    create(agents)
    assert await seconds_until(lambda: directory.find("claude.staging")) < PROPAGATION


async def test_a_newer_revision_makes_it_unavailable(control: Database, directory: Directory) -> None:
    with control.transaction() as connection:
        connection.execute(text("update dbshield.alembic_version set version_num = '9999'"))
    with control.transaction() as connection:
        for pid in connection.scalars(BACKENDS).all():
            connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
    await seconds_until(lambda: not directory.available)
    with control.transaction() as connection:
        connection.execute(text("update dbshield.alembic_version set version_num = :revision"), {"revision": REVISION})
    await seconds_until(lambda: directory.available)
