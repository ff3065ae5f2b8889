"""Agents and tokens in a real control database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from support.control import NOW, STAGING, agents_of, control_database, empty_database
from support.servers import Server

from dbshield.control.agents import Agents, IssuedToken
from dbshield.control.tokens import Verifier, matches, parse_token
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel
from dbshield.store.database import Database

LATER = NOW + timedelta(days=1)


@pytest.fixture
def control(server: Server) -> Iterator[Database]:
    with empty_database(server) as dsn, control_database(dsn) as database:
        yield database


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
