"""The incident, replayed: an agent on a staging task meets a mismatch, looks for another credential, and uses what it finds.

Two clusters with the same tables, the same names and, as happens, the same password for the same role. Each of the agent's ways
into production is closed by something else; each leaves an entry in the audit that names it, and the chain of all is whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from support import servers
from support.company import CODE, Company, Place
from support.ports import free_port
from support.receivers import HttpReceiver, http_receiver
from support.roles import keep_to_itself
from support.servers import Server
from support.waiting import until

DATABASE = "incident"
AGENT, OTHER = "claude", "deployer"
"""The one of the staging task, and the one whose tokens lie around in production."""
PASSWORD = "the same everywhere"


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, Server]]:
    with servers.own_server(18, "staging") as staging, servers.own_server(18, "production") as production:
        found = {"staging": staging, "production": production}
        for server in found.values():
            keep_to_itself(server)
            with server.connect() as admin:
                admin.execute(sql.SQL("alter role agent_write password {}").format(PASSWORD))
        yield found


@pytest.fixture(scope="module")
def phone() -> Iterator[HttpReceiver]:
    """Where people are told at once."""
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def company(clusters: dict[str, Server], server18: Server, phone: HttpReceiver) -> Iterator[Company]:
    """Tokens of production live three seconds where nothing else is said."""
    control = f"incident_{uuid4().hex}"
    with server18.connect() as admin:
        admin.execute(f"create database {control}")
    own = {"staging": {}, "production": {"token_ttl_days": 3 / 86_400, "approval_wait": 0.0}}
    places = {name: Place(server=server, database=DATABASE, settings=own[name]) for name, server in clusters.items()}
    for place in places.values():
        place.prepare()
    company = Company(servers.here() / control, server18.dsn(control), places, alerts=phone.url)
    company.set_up("ann")
    company.agent(AGENT, "write", "staging")
    company.agent(OTHER, "migrate", "production", "--ttl", "1d")
    with company.at_work():
        yield company
    server18.drop(control)


@pytest.fixture(scope="module")
def before(company: Company) -> dict[str, Any]:
    return {name: place.facts() for name, place in company.places.items()}


@pytest.fixture(autouse=True)
def unharmed(company: Company, before: dict[str, Any]) -> Iterator[None]:
    """Whatever a test tries, no environment has lost anything after it."""
    yield
    assert {name: place.lost(before[name]) for name, place in company.places.items()} == {"staging": [], "production": []}


def issue(company: Company, *options: str) -> tuple[str, str]:
    """A token of production that somebody left lying around, known to both proxies: its text and its id."""
    made = company.cli("token", "issue", OTHER, "-e", "production", *options)
    token = str(conninfo_to_dict(made["dsn"])["password"])
    for proxy in (0, 1):
        assert until(lambda proxy=proxy: "authentication failed" not in company.refusal(OTHER, proxy, password=token))  # type: ignore[misc]
    return token, made["token_id"]


def refused(company: Company, **fields: str) -> list[dict[str, Any]]:
    """The refused logins in the control database that have these fields."""
    found = company.audited("--kind", "refused")
    return [entry for entry in found if all(entry.get(name) == value for name, value in fields.items())]


def told(phone: HttpReceiver, *words: str) -> bool:
    """Whether people were sent a message that has all of these words."""
    return any(all(word in f"{each['title']} {each['message']}" for word in words) for each in list(phone.messages))


def reached(server: Server) -> list[str]:
    """Agents' sessions that the server has now."""
    with server.connect() as admin:
        query = "select usename from pg_stat_activity where datname = %s and usename ~ '^(agent_|dbshield_production)'"
        return [str(name) for (name,) in admin.execute(query, [DATABASE]).fetchall()]


def test_the_agent_does_its_task_in_staging(company: Company) -> None:
    with company.connect(AGENT) as conn:
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)
        assert conn.execute("update shop.settings set value = value where key = 'vat'").rowcount == 1


@pytest.mark.parametrize("user", [f"{OTHER}.production", f"{AGENT}.production"])
@pytest.mark.parametrize("proxy", [0, 1])
def test_its_own_token_opens_nothing_in_production(company: Company, phone: HttpReceiver, user: str, proxy: int) -> None:
    """Nor does it tell which of the two names exists there."""
    said = company.refusal(AGENT, proxy, user=user)
    assert f'password authentication failed for user "{user}"' in said
    assert until(lambda: refused(company, user=user))
    assert until(lambda: told(phone, f"a login as {user} was refused")), phone.text


def test_a_leaked_token_past_its_expiry(company: Company, clusters: dict[str, Server], phone: HttpReceiver) -> None:
    token, token_id = issue(company)
    assert until(lambda: "expired" in company.refusal(OTHER, password=token)), "it works for three seconds"
    assert until(lambda: not reached(clusters["production"]))
    for proxy in (0, 1):
        assert "the token has expired" in company.refusal(OTHER, proxy, password=token)
    assert reached(clusters["production"]) == []
    assert until(lambda: len(refused(company, token=token_id, user=f"{OTHER}.production")) >= 2)
    assert until(lambda: told(phone, f"{OTHER}.production", "expired", f"with the token {token_id}")), phone.text


def test_a_leaked_token_from_the_wrong_network(company: Company, clusters: dict[str, Server], phone: HttpReceiver) -> None:
    token, token_id = issue(company, "--ttl", "1d", "--network", "10.20.0.0/16")
    for proxy in (0, 1):
        assert f"token {token_id} may not be used from 127.0.0.1" in company.refusal(OTHER, proxy, password=token)
    assert reached(clusters["production"]) == []
    assert until(lambda: len(refused(company, token=token_id)) >= 2)
    assert until(lambda: told(phone, "may not be used from", token_id)), phone.text


@pytest.mark.parametrize(
    "text",
    ["drop table shop.customers cascade", "truncate shop.orders cascade", "delete from shop.orders", "drop schema shop cascade"],
)
def test_a_token_for_reading_that_destroys(company: Company, phone: HttpReceiver, text: str) -> None:
    """Its agent may migrate; the token may not."""
    token, _ = issue(company, "--ttl", "1d", "--access", "read")
    with company.connect(OTHER, password=token) as conn:
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)
        with pytest.raises(errors.InsufficientPrivilege, match="dbshield"):
            conn.execute(text.encode())
        assert conn.execute("select 1").fetchone() == (1,)
    entries: list[dict[str, Any]] = []

    def written() -> bool:
        """What only reads, or is refused, is written down a moment later."""
        found = company.audited("--agent", OTHER, "--kind", "statement")
        entries[:] = [entry for entry in found if entry["statement"] == text]
        return bool(entries)

    assert until(written)
    assert all(entry["verdict"] in {"hold", "deny"} and entry["rules"] for entry in entries)
    if entries[-1]["verdict"] == "deny":
        assert until(lambda: told(phone, f"{OTHER} was refused in production: ", *entries[-1]["rules"])), phone.text


def test_the_password_of_a_role_around_the_proxy(clusters: dict[str, Server]) -> None:
    """The agents' own roles have passwords that stand nowhere; a role that people share is held by the guard."""
    server = clusters["production"]
    with server.connect() as admin:
        admin.execute("grant dbshield_agents to agent_write")
    with psycopg.connect(_direct(server), autocommit=True) as conn:
        for text in ("delete from shop.orders", "truncate shop.orders cascade", "drop table shop.orders cascade"):
            with pytest.raises(psycopg.Error):
                conn.execute(text.encode())
    with server.connect() as admin:
        admin.execute("revoke dbshield_agents from agent_write")


def _direct(server: Server) -> str:
    return psycopg.conninfo.make_conninfo(server.agent_dsn("write", DATABASE), password=PASSWORD)


def test_staging_that_leads_to_production_by_mistake(company: Company, clusters: dict[str, Server], phone: HttpReceiver) -> None:
    """A proxy whose configuration has production's address under staging's name, with a role that is let in there."""
    role = ("--role", "agent_write", "--role-password-env", CODE)
    made = company.cli("agent", "create", "intern", "-e", "staging", "-a", "write", *role, code=PASSWORD)
    with company.mistaken("staging", company.places["production"], free_port()) as port:
        said = ""
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(company.dsn(AGENT, port=port)).close()
            said = "let in"
        assert said == ""
        with pytest.raises(psycopg.OperationalError) as error:
            psycopg.connect(made["dsn"], port=port).close()
        assert "production" in str(error.value)
        assert "staging" in str(error.value)
        assert until(lambda: not reached(clusters["production"]))
        assert until(lambda: any("production" in entry["reason"] for entry in refused(company, user="intern.staging")))
    assert until(lambda: told(phone, "a login as intern.staging was refused", "production")), phone.text


def test_all_of_it_stands_in_a_chain_that_is_whole(company: Company, phone: HttpReceiver) -> None:
    """The last one of the module; what it looks for is there where it is the only one, too."""
    with company.connect(AGENT) as conn:
        conn.execute("update shop.settings set value = value where key = 'vat'")
    assert company.refusal(AGENT, user=f"{AGENT}.production")
    for kind in ("token-issued", "connected", "refused", "statement", "disconnected"):
        assert until(lambda kind=kind: company.audited("--kind", kind)), kind  # type: ignore[misc]
    verified = company.run("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    told = json.loads(verified.stdout)
    assert (told["verdict"], told["faults"]) == ("whole", [])
    for secret in company.agents.values():
        token = conninfo_to_dict(secret)["password"]
        assert not company.audited("--text", str(token)), "no token stands in the audit"
        assert str(token) not in phone.text
