"""No agent of one environment meets another one's server: two real clusters, and the proxy between with the wrong address."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

import psycopg
import pytest
from support import servers
from support.raw import raw_client
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

from dbshield.guard.identity import IDENTITY_QUERY, read_identity
from dbshield.guard.install import Options, install, uninstall
from dbshield.wire.report import ErrorResponse

pytestmark = pytest.mark.one_server

DATABASE = "identity"


@pytest.fixture(scope="module")
def production() -> Iterator[Server]:
    """A cluster of its own, with a database of the same name and roles that let the same passwords in."""
    with servers.own_server(18, "production") as server:
        yield server


@contextmanager
def staging(server: Server, production: Server, worker_id: str) -> Iterator[Shield]:
    """In front of a server, not started; `test` is the environment that is meant."""
    name = f"{DATABASE}_{worker_id}"
    # A new one each time: a test looks at all that its proxy has written down.
    folder = servers.here() / f"identity-{worker_id}-{token_hex(4)}"
    production.clone(name)
    with prepared_shield(server, name, folder, agents=["write"], drain_timeout=5.0) as prepared:
        with production.connect() as admin:
            admin.execute(f"alter role agent_write password '{server.passwords['write']}'")
        yield prepared
    production.drop(name)


@pytest.fixture
def shield(server18: Server, production: Server, worker_id: str) -> Iterator[Shield]:
    with staging(server18, production, worker_id) as prepared:
        yield prepared


@pytest.fixture
def each_shield(server: Server, production: Server, worker_id: str) -> Iterator[Shield]:
    """In front of each server in turn."""
    with staging(server, production, worker_id) as prepared:
        yield prepared


def identifier(server: Server) -> int:
    with server.connect() as admin:
        return read_identity([tuple(map(str, row)) for row in admin.execute(IDENTITY_QUERY).fetchall()]).system_identifier


def lead_to(shield: Shield, server: Server) -> None:
    """Give the environment another server's address; every cluster has its own socket folder and port."""
    text = shield.config.read_text()
    wanted = Shield(server, shield.database, shield.folder)
    shield.config.write_text(re.sub(r"(?m)^upstream = .*$", f"upstream = {json.dumps(wanted.upstream())}", text))


def refusal(shield: Shield) -> psycopg.OperationalError | None:
    try:
        shield.connect("write").close()
    except psycopg.OperationalError as error:
        return error
    return None


def pinned(shield: Shield) -> dict[str, Any]:
    with psycopg.connect(shield.server.dsn(shield.control)) as control:
        return dict(
            control.execute(
                "select name, system_identifier from dbshield.environments where system_identifier is not null"
            ).fetchall()
        )


def audited(shield: Shield, event: str) -> list[dict[str, Any]]:
    # Up to the last line that is whole: the proxy may be writing the next one.
    lines = (shield.folder / "state" / "audit.jsonl").read_text(encoding="ascii").rpartition("\n")[0].splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def connections(server: Server, database: str) -> list[str]:
    """The statements that agents' sessions ran there last."""
    with server.connect() as admin:
        found = admin.execute("select query from pg_stat_activity where datname = %s and usename like 'agent%%'", [database])
        return [str(query) for (query,) in found.fetchall()]


def test_the_first_server_is_pinned_and_another_one_behind_the_address_is_refused(
    each_shield: Shield, server: Server, production: Server
) -> None:
    shield = each_shield
    with started(shield):
        assert refusal(shield) is None
        assert until(lambda: pinned(shield) == {"test": identifier(server)})
        assert until(lambda: [entry["environment"] for entry in audited(shield, "environment-pinned")] == ["test"])
        assert "is pinned to the cluster that was found at its address first" in shield.text()
    lead_to(shield, production)
    with started(shield):
        error = refusal(shield)
        assert f"environment test is the cluster {identifier(server)}" in str(error)
        assert f"at its address is the cluster {identifier(production)} now" in str(error)
        assert "dbshield environment pin test" in str(error)
        assert until(lambda: any("is the cluster" in entry["reason"] for entry in audited(shield, "refused")))
        entry = next(entry for entry in audited(shield, "refused") if "is the cluster" in entry["reason"])
        assert (entry["user"], len(entry["token"])) == ("write.test", 12)
        assert until(lambda: not connections(production, shield.database))
        assert pinned(shield) == {"test": identifier(server)}, "no proxy exchanges a pin"
        # A human does, and every proxy hears of it at once.
        asked = ("environment", "pin", "test", "--dsn", production.dsn(shield.database))
        assert shield.cli(*asked, fails=True).startswith("test is pinned to the cluster")
        shown = json.loads(shield.cli(*asked, "--yes", "--json"))
        assert shown["before"] == str(identifier(server))
        assert (shown["system_identifier"], shown["changed"]) == (str(identifier(production)), True)
        assert until(lambda: refusal(shield) is None)
        assert json.loads(shield.cli(*asked, "--json"))["changed"] is False


def test_the_sqlstate_is_that_of_a_server_that_rejects(shield: Shield) -> None:
    """For pools: 08004 is a connection that cannot be had, not a wrong password."""
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
        control.execute("update dbshield.environments set system_identifier = 7 where name = 'test'")
    parts = shield.parameters("write")
    with started(shield), raw_client(shield) as client:
        heard = client.log_in(parts["user"], parts["password"], parts["dbname"])
        (error,) = (message for message in heard if isinstance(message, ErrorResponse))
        assert (error.severity, error.sqlstate) == ("FATAL", "08004")
        assert "environment test is the cluster 7" in error.message


def test_staging_with_productions_address_is_refused_at_first_sight(shield: Shield, production: Server) -> None:
    """Nothing is pinned for the environment that is configured wrongly; the other one's server is known."""
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
        control.execute(
            "insert into dbshield.environments (name, system_identifier) values ('other', %s)"
            " on conflict (name) do update set system_identifier = excluded.system_identifier",
            [identifier(production)],
        )
    lead_to(shield, production)
    with started(shield):
        assert "environment test is configured with the address of the server of other" in str(refusal(shield))
        assert pinned(shield) == {"other": identifier(production)}
    lead_to(shield, shield.server)
    with started(shield):
        assert refusal(shield) is None


def test_the_guards_word_counts_where_nothing_is_pinned(shield: Shield, production: Server) -> None:
    with psycopg.connect(production.dsn(shield.database), autocommit=True) as admin:
        install(admin, Options(environment="production"))
    try:
        lead_to(shield, production)
        with started(shield):
            said = str(refusal(shield))
            assert "environment test is configured with the address of a server that says it is production" in said
            assert pinned(shield) == {}
            words = ("environment", "pin", "test", "--yes", "--dsn", production.dsn(shield.database))
            assert shield.cli(*words, fails=True) == ""
            with psycopg.connect(production.dsn(shield.database), autocommit=True) as admin:
                install(admin, Options(environment="test"))
            assert refusal(shield) is None
    finally:
        with psycopg.connect(production.dsn(shield.database), autocommit=True) as admin:
            uninstall(admin)


def test_installing_the_guard_pins_the_environment(shield: Shield, production: Server) -> None:
    words = ("guard", "install", "--environment", "test", "--dsn", production.dsn(shield.database), "--json")
    try:
        shield.cli(*words)
        assert pinned(shield) == {"test": identifier(production)}
        listed = json.loads(shield.cli("environment", "list", "--json"))
        found = {entry["environment"]: entry["system_identifier"] for entry in listed}
        assert found == {"test": str(identifier(production)), "other": None, "brief": None}
        with started(shield):
            assert "is the cluster" in str(refusal(shield)), "the configured address leads elsewhere"
    finally:
        with psycopg.connect(production.dsn(shield.database), autocommit=True) as admin:
            uninstall(admin)


def test_a_server_that_does_not_tell_is_refused(shield: Shield, production: Server) -> None:
    lead_to(shield, production)
    with psycopg.connect(production.dsn(shield.database), autocommit=True) as admin:
        admin.execute("revoke execute on function pg_control_system() from public")
        try:
            with started(shield):
                said = str(refusal(shield))
                assert "does not tell the agent's role which cluster it is" in said
                assert "grant execute on function pg_catalog.pg_control_system()" in said
                admin.execute("grant execute on function pg_control_system() to agent_write")
                assert refusal(shield) is None
        finally:
            admin.execute("grant execute on function pg_control_system() to public")
            admin.execute("revoke execute on function pg_control_system() from agent_write")


def test_sessions_that_stand_go_on_when_a_pin_changes(shield: Shield) -> None:
    """They are with the server that they began with; who comes is refused."""
    change = "update dbshield.environments set system_identifier = %s where name = 'test'"
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
        control.execute(change, [identifier(shield.server)])
        with started(shield), shield.connect("write") as standing:
            control.execute(change, [7])
            assert until(lambda: refusal(shield) is not None)
            assert standing.execute("select 1").fetchone() == (1,)
