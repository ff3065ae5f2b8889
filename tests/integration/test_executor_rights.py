"""Executors that are no superuser, and executors under a guard, on real servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support import servers
from support.executing import ENVIRONMENT, Stage, control_of, stage
from support.servers import Server

from dbshield.control.approval import State
from dbshield.guard.install import Options, install
from dbshield.guard.verify import verify

pytestmark = pytest.mark.one_server(by="module")


@pytest.fixture(scope="module")
def control(server: Server) -> Iterator[str]:
    with control_of(server) as dsn:
        yield dsn


@pytest.fixture
def here(server: Server, control: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(server, control, tmp_path) as made:
        yield made


@pytest.fixture
def plain(here: Stage) -> Iterator[Stage]:
    """With an executor that is no superuser: a member of the tables' owner that may make roles."""
    role = f"operator_{here.database}"
    here.sql(
        f"create role {role} login createrole password 'p' in role app_owner; grant all on database {here.database} to {role}"
    )
    executor = here.settings.executor.replace("user=postgres", f"user={role}")
    settings = here.settings.model_copy(update={"executor": executor, "executor_password_env": "EXECUTOR_PASSWORD"})
    try:
        yield dataclasses.replace(here, settings=settings)
    finally:
        here.sql(f"drop owned by {role} cascade; drop role {role}")


@pytest.mark.parametrize(
    "statement",
    ["drop table shop.orders cascade", "delete from shop.customers", "truncate shop.events", "drop view shop.active_customers"],
)
def test_an_executor_needs_to_be_no_superuser(plain: Stage, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    before = plain.facts()
    done = plain.run(statement, preview=True)
    assert done.state is State.DONE, done.error
    assert done.preview is not None
    assert done.preview["notes"] == []
    assert plain.lost(before)
    plain.undo(done)
    assert plain.lost(before) == []


@pytest.mark.parametrize(
    "statement",
    ["select lo_put(424242, 0, 'x')", "alter role {role} connection limit 7", "delete from shop.secrets where id = 1"],
)
def test_what_its_role_may_not_see_is_not_passed_over(plain: Stage, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    role = f"made_{plain.database}"
    plain.sql("alter table shop.secrets force row level security")
    with psycopg.connect(plain.settings.executor_dsn(plain.database), autocommit=True) as connection:
        connection.execute(f"create role {role}".encode())
    try:
        before = plain.facts()
        failed = plain.run(statement.format(role=role))
        assert failed.state is State.FAILED
        assert failed.error is not None
        assert "may not read it" in failed.error["message"] or "row-level security" in failed.error["message"]
        assert plain.facts() == before
    finally:
        plain.sql(f"drop role {role}")


@pytest.fixture
def guard_roles(server: Server) -> Iterator[None]:
    """The guard makes roles, which belong to the whole server; they go when the database has gone. So other workers wait: one's
    roles would go while the other's guard is made."""
    with servers.locked(f"guard-{server.major}.lock"):
        yield
        with server.connect() as admin:
            for role in ("dbshield_owner", "dbshield_agents"):
                admin.execute(f"drop role if exists {role}".encode())


@pytest.mark.parametrize(
    "statement", ["drop table shop.orders cascade", "drop table shop.events_2026_01", "delete from shop.customers"]
)
def test_the_guard_is_on_what_comes_back(guard_roles: None, here: Stage, statement: str) -> None:
    with here.server.connect(here.database) as connection:
        install(connection, Options(environment=ENVIRONMENT))
    before = here.facts()
    done = here.run(statement)
    assert done.state is State.DONE, done.error
    assert here.lost(before)
    here.undo(done)
    assert here.lost(before) == []
    with here.server.connect(here.database) as connection:
        assert verify(connection) == ()


def test_the_guard_of_another_environment_stops_the_executor(guard_roles: None, here: Stage) -> None:
    with here.server.connect(here.database) as connection:
        install(connection, Options(environment="staging"))
    failed = here.run("delete from shop.settings")
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "belongs to staging" in failed.error["message"]
    assert here.sql("select count(*) from shop.settings") == [(3,)]


def test_a_plain_executor_works_under_a_guard_that_stands_afterwards(
    guard_roles: None, plain: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no right in the guard's schema, which `guard verify` would call a change."""
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    with plain.server.connect(plain.database) as connection:
        install(connection, Options(environment=ENVIRONMENT))
        before = plain.facts()
        done = plain.run("drop table shop.order_items")
        assert done.state is State.DONE, done.error
        plain.undo(done)
        assert plain.lost(before) == []
        assert verify(connection) == ()
