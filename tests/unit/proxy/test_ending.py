"""When a session that stands is over: its token, its agent, its hours, and what cannot be told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from dbshield.control.scopes import make_scope
from dbshield.errors import Refused
from dbshield.model import AccessLevel, AgentLogin, TokenScope, TokenVerifier, Upstream
from dbshield.proxy.ending import check_standing
from dbshield.proxy.sessions import Session

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
"""A Monday."""
LOGIN = AgentLogin(
    agent="claude",
    environment="staging",
    access=AccessLevel.WRITE,
    databases=("shop",),
    salt=b"",
    iterations=4096,
    tokens=(),
    upstream=Upstream(host="db", port=5432, user="role"),
)
TOKEN = TokenVerifier(token_id="abc", stored_key=b"", server_key=b"", expires_at=(NOON + timedelta(hours=1)).timestamp())


@dataclass
class Memory:
    """What a directory remembers."""

    tokens: dict[str, TokenVerifier] = field(default_factory=lambda: {"abc": TOKEN})
    agents: dict[str, AccessLevel] = field(default_factory=lambda: {"claude.staging": AccessLevel.WRITE})
    environments: tuple[str, ...] = ("staging",)
    configured: tuple[str, ...] = ("shop",)

    def serves(self, environment: str) -> bool:
        return environment in self.environments

    def databases(self, environment: str) -> tuple[str, ...]:
        return self.configured

    def token(self, token_id: str) -> TokenVerifier | None:
        return self.tokens.get(token_id)

    def access(self, user: str) -> AccessLevel | None:
        return self.agents.get(user)


def why_over(memory: Memory, *, now: datetime = NOON, token_id: str = "abc", login: AgentLogin = LOGIN) -> str:
    session = Session(number=1, login=login, database="shop", client="here", pair=None, token_id=token_id)  # type: ignore[arg-type]
    refused: Refused | None = None
    try:
        check_standing(session, memory, now)
    except Refused as error:
        refused = error
    if refused is None:
        return ""
    assert (refused.sqlstate, bool(refused.hint)) == ("57P01", True)
    return refused.message


def scoped(scope: TokenScope) -> Memory:
    return Memory(tokens={"abc": replace(TOKEN, scope=scope)})


def test_a_good_token_keeps_its_session() -> None:
    assert why_over(Memory()) == ""
    assert why_over(Memory(agents={"claude.staging": AccessLevel.MIGRATE})) == ""
    assert why_over(Memory(), login=replace(LOGIN, access=AccessLevel.READ)) == ""
    assert why_over(scoped(make_scope(hours="Mon 08:00-18:00 UTC"))) == ""
    assert why_over(scoped(make_scope(access=AccessLevel.WRITE, databases=["shop", "books"]))) == ""
    assert why_over(scoped(make_scope(access=AccessLevel.READ)), login=replace(LOGIN, access=AccessLevel.READ)) == ""


@pytest.mark.parametrize(
    ("memory", "now", "says"),
    [
        (Memory(tokens={}), NOON, "token abc was revoked"),
        (Memory(tokens={}, agents={}), NOON, "the agent claude.staging was removed"),
        (Memory(), NOON + timedelta(hours=1), "token abc expired"),
        (Memory(agents={"claude.staging": AccessLevel.READ}), NOON, "may do less than when this session began"),
        (scoped(make_scope(hours="Mon 08:00-12:00 UTC")), NOON, "does not work at this hour"),
        (scoped(make_scope(access=AccessLevel.READ)), NOON, "token abc may do less than when this session began"),
        (scoped(make_scope(databases=["books"])), NOON, "token abc is not for the database 'shop' any more"),
        (Memory(configured=("books",)), NOON, "the environment staging has no database 'shop' any more"),
        (scoped(TokenScope(hours="now and then")), NOON, "the hours of token abc cannot be read"),
    ],
)
def test_what_ends_a_session(memory: Memory, now: datetime, says: str) -> None:
    assert says in why_over(memory, now=now)


def test_a_session_without_a_token_is_over() -> None:
    assert "was revoked" in why_over(Memory(), token_id="")


def test_an_environment_that_is_gone_is_another_ones_business() -> None:
    """Judges.follow ends it, and says which environment."""
    assert why_over(Memory(tokens={}, agents={}, environments=())) == ""
