"""All parts at once, as a team runs them: two proxies, an executor, a guard in the database, and people who type commands.

An agent with a role of least privilege asks for something that destroys. What becomes of it is told by the data.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support import servers
from support.background import Background
from support.company import CODE, Company, Place, silent_until
from support.roles import keep_to_itself
from support.waiting import MachineClock, until

ENVIRONMENT, DATABASE, CONTROL = "production", "flow", "flow_control"
AGENT = "claude"
PROMISED = 1.0
"""Seconds within which every proxy ends the sessions of a revoked token."""


NEWEST = [
    pytest.param(major, id=f"pg{major}", marks=[] if major == max(servers.majors()) else [pytest.mark.long])
    for major in servers.majors()
]
"""The parts are tried one by one on every version; all of them together on the newest, and in the long run on every one."""


@pytest.fixture(scope="module", params=NEWEST)
def company(request: pytest.FixtureRequest) -> Iterator[Company]:
    """On a server of its own, because the guard's and the agents' roles belong to the whole cluster."""
    with servers.own_server(request.param, f"flow-{request.param}") as server:
        keep_to_itself(server)
        with server.connect() as admin:
            admin.execute(f"create database {CONTROL}")
        place = Place(server=server, database=DATABASE, settings={"approval_wait": 120.0, "denial_memory_minutes": 0})
        place.prepare()
        company = Company(servers.here() / f"{server.cluster.folder.name}-company", server.dsn(CONTROL), {ENVIRONMENT: place})
        company.set_up("ann", "bob")
        company.agent(AGENT, "migrate", ENVIRONMENT, "--owner", "bob")
        with company.at_work():
            yield company


@pytest.fixture
def place(company: Company) -> Iterator[Place]:
    """The protected database, where nothing waits, before and after."""
    assert company.waiting() == []
    yield company.places[ENVIRONMENT]
    assert company.waiting() == []


def ask(company: Company, statement: str, proxy: int = 0, notices: list[str] | None = None) -> Background[str | None]:
    """The agent sends it and waits; the command tag that it gets. What it is told meanwhile is put to `notices`."""
    told = [] if notices is None else notices

    def wait() -> str | None:
        with company.connect(AGENT, proxy) as conn:
            conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
            return conn.execute(statement.encode()).statusmessage

    return Background(wait)


def kinds(company: Company, approval: str) -> list[str]:
    """What the audit has of it, in order."""
    return [entry["event"] for entry in company.audited() if entry.get("approval") == approval]


@pytest.mark.parametrize(
    ("statement", "tag", "gone"),
    [
        ("DROP TABLE shop.orders CASCADE", "DROP TABLE", "relation shop.orders is gone"),
        ("DELETE FROM shop.customers", "DELETE 2000", "table shop.orders: 6000 rows gone"),
        ("TRUNCATE shop.customers CASCADE", "TRUNCATE TABLE", "table shop.order_items: 12000 rows gone"),
    ],
)
def test_what_a_human_let_happen_is_answered_and_brought_back(
    company: Company, place: Place, statement: str, tag: str, gone: str
) -> None:
    before = place.facts()
    waits = ask(company, statement)
    asked = company.asked(previewed=True)
    assert (asked["statement"], asked["agent"], asked["destructive"]) == (statement, AGENT, True)
    assert place.lost(before) == [], "nothing happens before a human has decided"
    shown = company.run("approvals", "show", asked["id"]).stdout
    assert statement in shown
    assert "shop.order_items" in shown
    held = [line for line in shown.splitlines() if line.startswith("held by")]
    assert held
    assert all(line.count("DS") == 1 for line in held), "each rule is named once"
    done = company.decide("approvals", "approve", asked["id"], "--digest", asked["digest"], "--wait")
    assert (done["state"], done["tag"], done["undo"]) == ("done", tag, asked["id"])
    assert waits.result() == tag
    assert any(gone in loss for loss in place.lost(before))
    undone = company.decide("undo", asked["id"])
    assert undone["undone"] is True
    assert place.lost(before) == []
    verified = company.run("guard", "verify", "--dsn", place.server.dsn(place.database))
    assert verified.returncode == 0, verified.stdout
    assert kinds(company, asked["id"]) == ["approval-requested", "approval-decided", "executed", "undone"]


def test_two_agents_on_two_proxies_get_one_answer(company: Company, place: Place) -> None:
    statement = "delete from shop.settings"
    told: tuple[list[str], list[str]] = ([], [])
    waits = [ask(company, statement, proxy, told[proxy]) for proxy in (0, 1)]
    assert until(lambda: all(told))
    asked = company.asked(previewed=True)
    assert all(asked["id"] in notice for notices in told for notice in notices)
    company.decide("approvals", "approve", asked["id"])
    assert [each.result() for each in waits] == ["DELETE 3", "DELETE 3"]
    company.decide("undo", asked["id"])


def test_denied(company: Company, place: Place) -> None:
    before = place.facts()
    waits = ask(company, "drop table shop.secrets", 1)
    asked = company.asked()
    company.decide("approvals", "deny", asked["id"], "--reason", "these are our keys", person="bob")
    error = waits.error()
    assert isinstance(error, errors.InsufficientPrivilege)
    assert "bob: these are our keys" in str(error)
    assert place.lost(before) == []
    again = company.run("approvals", "approve", asked["id"], "--person", "ann", "--code-env", "NONE")
    assert (again.returncode, "it is denied" in again.stderr) == (1, True)


def test_two_people(company: Company, place: Place) -> None:
    before = place.facts()
    with company.configured(approvals_needed=2):
        waits = ask(company, "drop table shop.secrets")
        asked = company.asked(previewed=True)
        assert asked["needed"] == 2
        first = company.decide("approvals", "approve", asked["id"], "--wait")
        assert first["state"] == "waiting"
        twice = company.run(
            *("approvals", "approve", asked["id"], "--person", "ann", "--code-env", CODE),
            code=company.code("ann"),
        )
        assert twice.returncode == 1, twice.stdout
        assert place.lost(before) == []
        assert not waits.done
        second = company.decide("approvals", "approve", asked["id"], "--wait", person="bob")
        assert second["state"] == "done"
        assert waits.result() == "DROP TABLE"
    company.decide("undo", asked["id"])
    assert place.lost(before) == []


def test_nobody_approves_for_an_agent_of_their_own(company: Company, place: Place) -> None:
    with company.configured(owners_may_approve=False):
        waits = ask(company, "drop table shop.secrets")
        asked = company.asked()
        refused = company.run(*("approvals", "approve", asked["id"], "--person", "bob", "--code-env", CODE), code="000000")
        assert (refused.returncode, "bob" in refused.stderr) == (1, True)
        company.decide("approvals", "deny", asked["id"], "--reason", "no")
        assert isinstance(waits.error(), errors.InsufficientPrivilege)


def test_expired(company: Company, place: Place) -> None:
    before = place.facts()
    with company.configured(approval_ttl_minutes=0.02):
        error = ask(company, "drop table shop.secrets").error()
    assert isinstance(error, errors.InsufficientPrivilege)
    assert "state=expired" in (error.diag.message_detail or "")
    approval = detail(error)["approval"]
    late = company.run("approvals", "approve", approval, "--person", "ann", "--code-env", "NONE")
    assert (late.returncode, "expired" in late.stderr) == (1, True)
    assert place.lost(before) == []


def detail(error: psycopg.Error) -> dict[str, str]:
    """DETAIL's words, by what stands in front of `=`."""
    return dict(word.split("=", 1) for word in (error.diag.message_detail or "").split())


def test_a_client_that_goes_takes_it_back(company: Company, place: Place) -> None:
    before = place.facts()
    conn = company.connect(AGENT, 1)
    conn.pgconn.send_query(b"drop table shop.secrets")
    asked = company.asked()
    conn.close()
    assert until(lambda: company.state(asked["id"]) == "withdrawn")
    late = company.run("approvals", "approve", asked["id"], "--person", "ann", "--code-env", "NONE")
    assert (late.returncode, "withdrawn" in late.stderr) == (1, True)
    assert place.lost(before) == []


def test_a_revoked_token_ends_sessions_on_both_proxies_within_a_second(company: Company, place: Place) -> None:
    """Counted from the moment at which the control database tells everybody."""
    made = company.agent("leaver", "write", ENVIRONMENT)
    assert until(lambda: company.refusal("leaver", 0) == company.refusal("leaver", 1) == "")
    connections = [company.connect("leaver", proxy) for proxy in (0, 1, 0, 1)]
    listening = threading.Event()

    def told() -> float:
        with psycopg.connect(company.control, autocommit=True) as control:
            control.execute("listen dbshield")
            listening.set()
            for notice in control.notifies(timeout=30):
                if notice.payload == "tokens":  # a proxy may pin the environment meanwhile, which is told as well
                    return clock.seconds
        raise AssertionError("nobody was told")

    with MachineClock() as clock:
        heard = Background(told)
        assert listening.wait(30)
        revoking = Background(lambda: company.cli("token", "revoke", made["token_id"]))
        silent_until(connections, deadline=30)
        took = clock.seconds - heard.result()
    revoking.result()
    assert took < PROMISED, f"the last session ended {took:.3f} s after the revocation"
    for conn in connections:
        with pytest.raises(psycopg.OperationalError, match="was revoked"):
            conn.execute("select 1")
        conn.close()
    assert "authentication failed" in company.refusal("leaver") or "revoked" in company.refusal("leaver")


def test_the_audit_of_all_of_it_is_whole(company: Company, place: Place) -> None:
    """The last one of the module: everything before it is in the chain. Where it is the only one, that is what it does itself."""
    with company.connect(AGENT) as conn:
        assert conn.execute("select count(*) from shop.settings").fetchone() == (3,)
    assert until(lambda: company.audited("--kind", "disconnected"))
    written = company.audited()
    assert {"token-issued", "connected", "statement", "disconnected"} <= {entry["event"] for entry in written}
    verified = company.run("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    told: dict[str, Any] = json.loads(verified.stdout)
    assert (told["verdict"], told["faults"]) == ("whole", [])
    assert told["entries"] == told["last"] >= len(written)
    [guard] = company.audited("--kind", "guard-changed")
    assert (guard["environment"], guard["database"], guard["change"]) == (ENVIRONMENT, DATABASE, "installed")
