"""The server and the store as one: what fails between their two commits is put back, on real servers of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.control import tables_database
from support.roles import ENVIRONMENT, keep_to_itself, login
from support.servers import Server

from dbshield.cli import agent_roles
from dbshield.cli.agent_roles import Administrator, NewAgent
from dbshield.config import Config, EnvironmentConfig
from dbshield.control.agents import Agents, IssuedToken, register_environments
from dbshield.control.vault import Vault, password_identity
from dbshield.errors import DbshieldError, Refused, StoreError
from dbshield.guard.install import Options, install
from dbshield.model import AccessLevel
from dbshield.store.database import Database
from dbshield.store.schema import agents as agents_table

pytestmark = pytest.mark.one_server(by="module")

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
DATABASE = "role_store"
ROLE = "dbshield_test_claude"


class Unlucky(Agents):
    """The registry, and behind each of its commits a server that ends the administrator's session."""

    server: Server
    armed = False

    def create(self, **values: Any) -> IssuedToken:
        issued = super().create(**values)
        self._strike()
        return issued

    def change_role_password(self, *values: Any, **named: Any) -> bytes | None:
        before = super().change_role_password(*values, **named)
        self._strike()
        return before

    def _strike(self) -> None:
        if self.armed:
            with self.server.connect() as admin:
                admin.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'dbshield agent'"
                )


class Office:
    """An administrator's connection, a registry and a vault."""

    def __init__(self, server: Server, database: Database, vault: Vault) -> None:
        self.server = server
        self.vault = vault
        self.database = database
        section = EnvironmentConfig(upstream=f"host=/nowhere user=app dbname={DATABASE}", max_rows=50)
        self.settings = Config(environments={ENVIRONMENT: section})
        self.agents = Unlucky(database, self.settings.environments, lambda: vault)
        self.agents.server = server
        self.admin = Administrator(dsn=server.dsn(DATABASE), databases=(DATABASE,))

    def create(self, access: AccessLevel = AccessLevel.WRITE) -> IssuedToken:
        new = NewAgent(
            name="claude",
            environment=ENVIRONMENT,
            access=access,
            now=NOW,
            by="anna",
            ttl=None,
            owner=None,
            schemas=(),
        )
        return agent_roles.create(self.agents, self.settings, self.admin, new)[0]

    def rotate(self) -> None:
        agent = self.agents.find(name="claude", environment=ENVIRONMENT, now=NOW)
        agent_roles.rotate(self.agents, self.settings, self.admin, agent, now=NOW, by="anna")

    def password(self) -> str:
        """What the proxy would log in with."""
        with self.database.transaction() as connection:
            row = connection.execute(
                agents_table.select().where(agents_table.c.name == "claude", agents_table.c.removed_at.is_(None))
            ).one()
        assert row.role == ROLE
        return self.vault.unseal(row.sealed_password, identity=password_identity(row.id))

    def roles(self) -> list[str]:
        with self.server.connect() as admin:
            return [str(name) for (name,) in admin.execute("select rolname from pg_roles where rolname = %s", [ROLE]).fetchall()]


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module's own, with a guarded database."""
    with servers.own_server(request.param, f"role-store-{request.param}") as server:
        keep_to_itself(server)
        server.clone(DATABASE)
        with server.connect(DATABASE) as admin:
            install(admin, Options(environment=ENVIRONMENT))
        yield server


@pytest.fixture
def office(own_server: Server, tmp_path: Path) -> Iterator[Office]:
    with tables_database(own_server) as dsn:
        database = Database(dsn)
        register_environments(database, [ENVIRONMENT])
        yield Office(own_server, database, Vault.create(tmp_path / "secret.key"))
        database.close()
    with own_server.connect(DATABASE) as admin:
        if admin.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone():
            admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(ROLE)))
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(ROLE)))


def test_the_sealed_password_is_the_roles(office: Office) -> None:
    office.create()
    first = office.password()
    login(office.server, ROLE, DATABASE, first).close()
    office.rotate()
    second = office.password()
    assert len(first) == len(second) == 43
    assert first != second
    login(office.server, ROLE, DATABASE, second).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        login(office.server, ROLE, DATABASE, first)
    with office.server.connect(DATABASE) as admin:
        assert admin.execute("select max_rows from dbshield.limits where role_name = %s", [ROLE]).fetchone() == (50,)


def test_a_server_that_does_not_commit_leaves_no_agent_behind(office: Office) -> None:
    office.agents.armed = True
    with pytest.raises(StoreError):
        office.create()
    assert office.roles() == []
    assert office.agents.list_agents(now=NOW) == []
    assert [token.state(NOW) for token in office.agents.list_tokens()] == []
    office.agents.armed = False
    office.create()
    login(office.server, ROLE, DATABASE, office.password()).close()


def test_a_server_that_does_not_commit_a_rotation_leaves_the_old_password(office: Office) -> None:
    office.create()
    before = office.password()
    office.agents.armed = True
    with pytest.raises(StoreError):
        office.rotate()
    assert office.password() == before
    login(office.server, ROLE, DATABASE, before).close()


def test_a_password_that_the_server_does_not_know_is_mended_by_the_next_rotation(office: Office) -> None:
    """As after a crash between the two commits."""
    office.create()
    agent = office.agents.find(name="claude", environment=ENVIRONMENT, now=NOW)
    office.agents.change_role_password(agent, "never sent", now=NOW, by="anna")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        login(office.server, ROLE, DATABASE, office.password())
    office.rotate()
    login(office.server, ROLE, DATABASE, office.password()).close()


def test_an_agent_whose_role_is_gone_can_be_removed(office: Office) -> None:
    """As after a crash between the two commits of its creation."""
    office.create()
    with office.server.connect(DATABASE) as admin:
        admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(ROLE)))
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(ROLE)))
    agent = office.agents.find(name="claude", environment=ENVIRONMENT, now=NOW)
    with pytest.raises(Refused, match="there is no role"):
        office.rotate()
    assert agent_roles.remove(office.agents, office.admin, agent, now=NOW, by="anna", heir=None) == (1, False)
    assert office.agents.list_agents(now=NOW) == []


def test_an_administrator_who_is_not_let_in_changes_nothing(office: Office) -> None:
    office.admin = Administrator(dsn=f"{office.server.dsn(DATABASE)} user=nobody", databases=(DATABASE,))
    with pytest.raises(DbshieldError, match="no password supplied"):
        office.create()
    assert office.agents.list_agents(now=NOW) == []


def test_what_was_done_stands_in_the_audit(office: Office) -> None:
    office.create()
    office.rotate()
    password = office.password()
    agent = office.agents.find(name="claude", environment=ENVIRONMENT, now=NOW)
    agent_roles.remove(office.agents, office.admin, agent, now=NOW, by="anna", heir=None)
    with office.database.transaction() as connection:
        found = connection.exec_driver_sql("select kind, person, entry from dbshield.audit order by id").all()
    assert [kind for kind, _, _ in found] == ["token-issued", "agent-created", "role-password-changed", "agent-removed"]
    assert {person for _, person, _ in found} == {"anna"}
    assert password not in str(found)
