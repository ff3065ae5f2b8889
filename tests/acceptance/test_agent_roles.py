"""`dbshield agent` with an administrator's connection: a role made, used through the proxy, rotated under load, and dropped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from support import servers
from support.roles import ENVIRONMENT, keep_to_itself
from support.servers import Server
from support.shield import Shield, running_shield
from support.waiting import until

from dbshield.guard.install import Options, install

pytestmark = pytest.mark.one_server(by="module")

CLIENTS = 3
ROTATIONS = 4


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def shield(request: pytest.FixtureRequest) -> Iterator[Shield]:
    """A proxy with two workers in front of a guarded database on a server of its own, and no agent yet."""
    with servers.own_server(request.param, f"made-roles-{request.param}") as server:
        keep_to_itself(server)
        folder = servers.here() / f"{server.cluster.folder.name}-shield"
        with running_shield(server, "made_roles", folder, agents=(), workers=2) as shield:
            with server.connect("made_roles") as admin:
                install(admin, Options(environment=ENVIRONMENT))
            yield shield


def as_administrator(shield: Shield, *words: str, fails: bool = False) -> Any:
    """`dbshield agent WORDS -e test --json --dsn …`; what it said."""
    dsn = shield.server.dsn(shield.database)
    out = shield.cli("agent", *words, "--environment", ENVIRONMENT, "--json", "--dsn", dsn, fails=fails)
    return json.loads(out) if out else None


def create(shield: Shield, name: str, access: str) -> dict[str, Any]:
    made: dict[str, Any] = as_administrator(shield, "create", name, "--access", access)
    shield._dsn[name] = made["dsn"]
    return made


def roles(server: Server) -> set[str]:
    with server.connect() as admin:
        found = admin.execute("select rolname from pg_roles where rolname like 'dbshield\\_test\\_%'").fetchall()
    return {str(name) for (name,) in found}


def user(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute("select session_user").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("access", ["read", "write", "migrate"])
def test_an_agent_works_as_its_own_role_and_nothing_stays_of_it(shield: Shield, access: str) -> None:
    made = create(shield, f"a-{access}", access)
    role = f"dbshield_test_a-{access}"
    assert made["role"] == role
    assert made["closed"] == []
    assert {left["what"] for left in made["open"]} >= {"taking EXECUTE on shop.wipe_customers() from everybody"}
    listed = {agent["agent"]: agent["role"] for agent in json.loads(shield.cli("agent", "list", "--json"))}
    assert listed[f"a-{access}"] == role
    # A proxy hears of a new agent a moment later.
    assert until(lambda: _lets_in(shield, f"a-{access}"))
    with shield.connect(f"a-{access}") as conn:
        assert user(conn) == role
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)
        if access == "write":
            conn.execute("update shop.customers set name = 'x' where id = 1")
        if access == "migrate":
            conn.execute("alter table shop.customers add column phone text")
        gone = as_administrator(shield, "remove", f"a-{access}", "--yes")
        assert (gone["revoked_tokens"], gone["dropped_role"]) == (1, role)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    assert role not in roles(shield.server)


def _lets_in(shield: Shield, agent: str) -> bool:
    try:
        shield.connect(agent).close()
    except psycopg.OperationalError:
        return False
    return True


def test_nobody_notices_a_rotation(shield: Shield) -> None:
    create(shield, "busy", "write")
    assert until(lambda: _lets_in(shield, "busy"))
    over = threading.Event()
    failures: list[str] = []
    logins = [0] * CLIENTS

    def keep_logging_in(place: int) -> None:
        while not over.is_set():
            try:
                with shield.connect("busy") as conn:
                    user(conn)
                logins[place] += 1
            except psycopg.Error as error:
                failures.append(str(error))

    threads = [threading.Thread(target=keep_logging_in, args=(place,)) for place in range(CLIENTS)]
    with shield.connect("busy") as session:
        for thread in threads:
            thread.start()
        try:
            for _ in range(ROTATIONS):
                before = sum(logins)
                rotated = as_administrator(shield, "rotate", "busy")
                assert rotated["role"] == "dbshield_test_busy"
                assert until(partial(_more_than, before + CLIENTS, logins, failures))
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert user(session) == "dbshield_test_busy"
    as_administrator(shield, "remove", "busy", "--yes")


def _more_than(number: int, logins: list[int], failures: list[str]) -> bool:
    return sum(logins) > number or bool(failures)


def test_the_store_that_fails_leaves_no_role_and_no_agent(shield: Shield) -> None:
    with shield.server.connect(shield.control) as control:
        control.execute(
            "create function dbshield.fail() returns trigger language plpgsql as $$ begin raise 'the disk is full'; end $$;"
            "create trigger fail before insert on dbshield.tokens for each row execute function dbshield.fail()"
        )
        try:
            as_administrator(shield, "create", "unlucky", "--access", "read", fails=True)
        finally:
            control.execute("drop function dbshield.fail() cascade")
    assert "dbshield_test_unlucky" not in roles(shield.server)
    assert "unlucky" not in {agent["agent"] for agent in json.loads(shield.cli("agent", "list", "--json"))}


def test_an_agent_that_is_there_is_not_given_another_role(shield: Shield) -> None:
    create(shield, "twice", "read")
    with shield.server.connect() as admin:
        query = "select rolpassword from pg_authid where rolname = 'dbshield_test_twice'"
        before = admin.execute(query).fetchone()
        as_administrator(shield, "create", "twice", "--access", "write", fails=True)
        assert admin.execute(query).fetchone() == before
    assert until(lambda: _lets_in(shield, "twice"))
    as_administrator(shield, "remove", "twice", "--yes")


def test_a_role_that_owns_something_keeps_its_agent(shield: Shield) -> None:
    create(shield, "maker", "migrate")
    assert until(lambda: _lets_in(shield, "maker"))
    with shield.connect("maker") as conn:
        conn.execute("create table shop.made_by_agent (id int)")
    as_administrator(shield, "remove", "maker", "--yes", fails=True)
    assert _lets_in(shield, "maker"), "nothing was removed"
    gone = as_administrator(shield, "remove", "maker", "--yes", "--heir", "app_owner")
    assert gone["dropped_role"] == "dbshield_test_maker"
    with shield.server.connect(shield.database) as admin:
        admin.execute("drop table shop.made_by_agent")


def test_an_agent_without_a_role_of_its_own_is_not_rotated(shield: Shield) -> None:
    shield.cli("agent", "create", "shared", "--environment", ENVIRONMENT, "--access", "read", "--json")
    as_administrator(shield, "rotate", "shared", fails=True)
    as_administrator(shield, "remove", "shared", "--yes")


def test_a_role_that_a_human_made_is_kept(shield: Shield) -> None:
    shield.agent("given", "write")
    as_administrator(shield, "rotate", "given", fails=True)
    assert as_administrator(shield, "remove", "given", "--yes")["dropped_role"] is None
    with shield.server.connect() as admin:
        assert admin.execute("select 1 from pg_roles where rolname = 'agent_write'").fetchone() == (1,)
