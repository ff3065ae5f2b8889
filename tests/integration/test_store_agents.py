"""Agents and tokens in a real control database."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from support.control import NOW, STAGING, agents_of

from dbshield.control.agents import Agents, IssuedToken
from dbshield.control.notes import FIRST_USE, Notes
from dbshield.control.pins import Pins
from dbshield.control.scopes import ANYWHERE, make_scope
from dbshield.control.tokens import Verifier, matches, parse_token
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

LATER = NOW + timedelta(days=1)


@pytest.fixture
def agents(control: Database, tmp_path: Path) -> Agents:
    return agents_of(control, tmp_path)[0]


def create(agents: Agents, name: str = "claude", environment: str = "staging", **more: object) -> IssuedToken:
    return agents.create(name=name, environment=environment, access=AccessLevel.WRITE, now=NOW, by="ann", **more)  # type: ignore[arg-type]


def test_a_new_agent_has_a_token_of_which_only_the_verifier_is_kept(control: Database, agents: Agents) -> None:
    issued = create(agents)
    assert parse_token(issued.token.text) == issued.token
    assert issued.token.environment == "staging"
    assert issued.expires_at == NOW + timedelta(days=30)
    with control.transaction() as connection:
        row = connection.execute(
            text("select a.salt, a.iterations, t.* from dbshield.tokens t join dbshield.agents a on a.id = t.agent")
        ).one()
        everything = connection.scalars(
            text("select t::text from dbshield.tokens t union all select a::text from dbshield.agents a")
        ).all()
    assert issued.token.secret not in "".join(everything)
    verifier = Verifier(stored_key=row.stored_key, server_key=row.server_key)
    assert matches(issued.token, verifier, salt=row.salt, iterations=row.iterations)


def test_agents_are_listed_with_their_live_tokens(agents: Agents) -> None:
    create(agents)
    create(agents, environment="production", role="agent_read", role_password="pw")
    agents.issue_token(name="claude", environment="staging", now=NOW, by="bob", ttl=timedelta(days=2))
    listed = [(agent.user, agent.access, agent.role, agent.live_tokens) for agent in agents.list_agents(now=NOW)]
    assert listed == [("claude.production", "write", "agent_read", 1), ("claude.staging", "write", "", 2)]
    assert [agent.live_tokens for agent in agents.list_agents(now=NOW + timedelta(days=3), environment="staging")] == [1]
    with pytest.raises(ConfigError, match='"stagin" is not configured') as caught:
        agents.list_agents(now=NOW, environment="stagin")
    assert caught.value.hint == 'Did you mean "staging"?'


def test_a_name_is_used_once_until_it_is_removed(agents: Agents) -> None:
    first = create(agents)
    with pytest.raises(Refused, match="there is an agent claude in staging already") as caught:
        create(agents)
    assert "token issue claude --environment staging" in caught.value.hint
    assert agents.remove(name="claude", environment="staging", now=LATER) == 1
    with pytest.raises(Refused, match="there is no agent claude in staging"):
        agents.remove(name="claude", environment="staging", now=LATER)
    with pytest.raises(Refused, match="there is no agent"):
        agents.issue_token(name="claude", environment="staging", now=LATER, by="ann")
    second = create(agents)
    assert [token.id for token in agents.list_tokens()] == [second.token.id]
    assert first.token.id != second.token.id


@pytest.mark.parametrize(
    ("name", "environment", "ttl", "error", "expected"),
    [
        ("Claude", "staging", None, ConfigError, '"Claude" is not a name'),
        ("claude.x", "staging", None, ConfigError, "is not a name"),
        ("claude", "nowhere", None, ConfigError, '"nowhere" is not configured'),
        ("claude", "production", timedelta(days=15), Refused, "a token of production lives at most 14 days"),
    ],
)
def test_what_no_agent_can_be(
    agents: Agents, name: str, environment: str, ttl: timedelta | None, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        create(agents, name, environment, ttl=ttl)
    assert agents.list_agents(now=NOW) == []


def test_the_environment_says_how_long_a_token_lives(agents: Agents) -> None:
    assert create(agents, environment="production").expires_at == NOW + timedelta(days=7)
    longest = agents.issue_token(name="claude", environment="production", now=NOW, by="ann", ttl=timedelta(days=14))
    assert longest.expires_at == NOW + timedelta(days=14)
    with pytest.raises(Refused, match="at most 14 days"):
        agents.issue_token(name="claude", environment="production", now=NOW, by="ann", ttl=timedelta(days=14, minutes=1))


def test_a_token_is_revoked_once(agents: Agents) -> None:
    first = create(agents)
    second = agents.issue_token(name="claude", environment="staging", now=LATER, by="bob")
    assert agents.revoke_token(token_id=first.token.id, now=LATER) is True
    assert agents.revoke_token(token_id=first.token.id, now=NOW + timedelta(days=5)) is False
    listed = agents.list_tokens(name="claude", environment="staging")
    assert [(token.id, token.state(LATER), token.created_by, token.revoked_at) for token in listed] == [
        (first.token.id, "revoked", "ann", LATER),
        (second.token.id, "live", "bob", None),
    ]
    assert listed[1].state(second.expires_at) == "expired"
    with pytest.raises(Refused, match="there is no token aaaaaaaaaaaa"):
        agents.revoke_token(token_id="aaaaaaaaaaaa", now=LATER)
    with pytest.raises(Refused, match="there is no agent gpt in staging"):
        agents.list_tokens(name="gpt", environment="staging")


def test_a_role_password_is_sealed_for_its_agent_alone(control: Database, tmp_path: Path) -> None:
    agents, vault = agents_of(control, tmp_path)
    create(agents, "one", role="agent_one", role_password="hunter2")
    with control.transaction() as connection:
        row = connection.execute(text("select id, sealed_password from dbshield.agents")).one()
    assert b"hunter2" not in row.sealed_password
    assert vault.unseal(row.sealed_password, identity=f"agents/{row.id}/password") == "hunter2"


def test_no_key_is_needed_where_no_password_is_stored(control: Database) -> None:
    def no_vault() -> Vault:
        raise AssertionError("the vault was asked for")

    agents = Agents(control, {"staging": STAGING}, no_vault)
    assert create(agents, role="agent_read").agent == "claude"


SCOPE = make_scope(access=AccessLevel.READ, databases=["shop"], networks=["10.0.0.0/8"], hours="daily 08:00-18:00 UTC")


def test_a_scope_is_kept_and_never_wider_than_the_agent(agents: Agents) -> None:
    create(agents)
    agents.issue_token(name="claude", environment="staging", now=LATER, by="ann", scope=SCOPE)
    assert [token.scope for token in agents.list_tokens()] == [ANYWHERE, SCOPE]
    for wider, says in (
        (make_scope(access=AccessLevel.MIGRATE), "a token may not have more"),
        (make_scope(databases=["elsewhere"]), "has no database elsewhere"),
    ):
        with pytest.raises(Refused, match=says):
            agents.issue_token(name="claude", environment="staging", now=LATER, by="ann", scope=wider)


def test_a_rotation_keeps_the_scope_and_ends_the_old_one(agents: Agents) -> None:
    create(agents)
    first = agents.issue_token(name="claude", environment="staging", now=NOW, by="ann", scope=SCOPE)
    rotated = agents.rotate_token(token_id=first.token.id, now=NOW, by="bob", overlap=timedelta(hours=2), ttl=timedelta(days=3))
    assert (rotated.issued.scope, rotated.issued.expires_at) == (SCOPE, NOW + timedelta(days=3))
    assert (rotated.old, rotated.old_ends_at) == (first.token.id, NOW + timedelta(hours=2))
    listed = {token.id: token for token in agents.list_tokens()}
    assert listed[first.token.id].expires_at == NOW + timedelta(hours=2)
    assert (listed[rotated.issued.token.id].replaces, listed[rotated.issued.token.id].scope) == (first.token.id, SCOPE)
    at_once = agents.rotate_token(token_id=rotated.issued.token.id, now=LATER, by="bob")
    assert {token.id: token.state(LATER) for token in agents.list_tokens()}[rotated.issued.token.id] == "revoked"
    for over in (first, rotated.issued):
        with pytest.raises(Refused, match="so there is nothing to rotate"):
            agents.rotate_token(token_id=over.token.id, now=LATER, by="bob")
    with pytest.raises(Refused, match="there is no token"):
        agents.rotate_token(token_id="aaaaaaaaaaaa", now=LATER, by="bob")
    with pytest.raises(Refused, match="lives at most"):
        agents.rotate_token(token_id=at_once.issued.token.id, now=LATER, by="bob", ttl=timedelta(days=1000))
    assert {token.id: token.state(LATER) for token in agents.list_tokens()}[at_once.issued.token.id] == "live", (
        "nothing half done"
    )


def test_an_overlap_never_makes_a_token_live_longer(agents: Agents) -> None:
    create(agents)
    brief = agents.issue_token(name="claude", environment="staging", now=NOW, by="ann", ttl=timedelta(hours=1))
    rotated = agents.rotate_token(token_id=brief.token.id, now=NOW, by="ann", overlap=timedelta(days=3))
    assert rotated.old_ends_at == brief.expires_at


async def test_the_last_use_is_kept_and_an_unused_token_is_stale(control_dsn: str, agents: Agents) -> None:
    used, unused = create(agents), create(agents, "gpt")
    notes = Notes(control_dsn)
    notes.used(used.token.id, "10.0.0.7", LATER.timestamp())
    notes.used("aaaaaaaaaaaa", "10.0.0.7", LATER.timestamp())
    await notes.flush(LATER.timestamp())
    notes.used(used.token.id, "10.0.0.8", LATER.timestamp() + 5)
    await notes.flush(LATER.timestamp() + 5)
    listed = {token.id: token for token in agents.list_tokens()}
    assert (listed[used.token.id].last_used_at, listed[used.token.id].last_used_from) == (LATER, "10.0.0.7"), "once a minute"
    await notes.flush(LATER.timestamp() + 61)
    listed = {token.id: token for token in agents.list_tokens()}
    assert listed[used.token.id].last_used_from == "10.0.0.8"
    assert listed[unused.token.id].last_used_at is None
    days = timedelta(days=14)
    assert [token.stale(NOW + timedelta(days=14, hours=12), days) for token in listed.values()] == [False, True]
    assert [token.stale(NOW + timedelta(days=16), days) for token in listed.values()] == [True, True]
    assert [token.stale(NOW + timedelta(days=40), days) for token in listed.values()] == [False, False], "expired"


async def test_notes_are_kept_while_the_control_database_is_away(control: Database, control_dsn: str, agents: Agents) -> None:
    issued = create(agents)
    notes = Notes("host=127.0.0.1 port=1 user=nobody dbname=none")
    notes.used(issued.token.id, "10.0.0.7", LATER.timestamp())
    notes.pin("staging", 7, LATER.timestamp())
    with structlog.testing.capture_logs() as logs:
        await notes.flush(LATER.timestamp())
        await notes.flush(LATER.timestamp())
    assert [entry["event"] for entry in logs] == ["notes.kept"]
    notes._dsn = control_dsn
    await notes.flush(LATER.timestamp())
    assert [token.last_used_at for token in agents.list_tokens()] == [LATER]
    pin = Pins(control, {"staging": STAGING}).all()["staging"]
    assert (pin.system_identifier, pin.pinned_by, pin.pinned_at) == (7, FIRST_USE, LATER)
    notes.pin("staging", 8, LATER.timestamp())
    await notes.flush(LATER.timestamp())
    assert Pins(control, {"staging": STAGING}).all()["staging"].system_identifier == 7, "the first one stays"


def test_what_happens_to_tokens_is_audited(control: Database, agents: Agents) -> None:
    issued = create(agents)
    rotated = agents.rotate_token(token_id=issued.token.id, now=LATER, by="bob", overlap=timedelta(hours=1))
    assert agents.revoke_token(token_id=issued.token.id, now=LATER, by="eve") is True
    assert agents.revoke_token(token_id=issued.token.id, now=LATER, by="eve") is False
    with control.transaction() as connection:
        rows = connection.execute(
            text("select kind, person, entry as detail from dbshield.audit where kind like 'token-%' order by id")
        ).all()
    assert [(row.kind, row.person) for row in rows] == [
        ("token-issued", "ann"),
        ("token-rotated", "bob"),
        ("token-revoked", "eve"),
    ]
    assert all(secret.token.secret not in row.detail for row in rows for secret in (issued, rotated.issued))
    assert issued.token.id in rows[1].detail
