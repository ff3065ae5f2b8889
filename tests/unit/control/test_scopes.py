"""What a token narrows: never more than the agent has, and refused outside of it with a sentence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.scopes import (
    ANYWHERE,
    ORDER,
    canonical_network,
    check_hours,
    check_use,
    check_within,
    comes_from,
    make_scope,
    narrowed,
)
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel, AgentLogin, TokenScope, Upstream

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
"""A Monday."""


def login(access: AccessLevel = AccessLevel.WRITE, databases: tuple[str, ...] = ("shop", "books")) -> AgentLogin:
    return AgentLogin(
        agent="claude",
        environment="staging",
        access=access,
        databases=databases,
        salt=b"",
        iterations=4096,
        tokens=(),
        upstream=Upstream(host="db", port=5432, user="role"),
    )


@given(st.sampled_from(ORDER), st.none() | st.sampled_from(ORDER), st.sets(st.sampled_from(["shop", "books", "live"])))
def test_a_token_never_gives_more_than_its_agent_has(access: AccessLevel, most: AccessLevel | None, databases: set[str]) -> None:
    has = login(access)
    got = narrowed(has, TokenScope(access=most, databases=tuple(databases)))
    assert ORDER.index(got.access) <= ORDER.index(access)
    assert most is None or ORDER.index(got.access) <= ORDER.index(most)
    assert set(got.databases) <= set(has.databases)
    assert not databases or set(got.databases) <= databases
    assert got.upstream == has.upstream


def test_no_scope_narrows_nothing() -> None:
    assert make_scope() == ANYWHERE
    assert narrowed(login(), ANYWHERE) == login()
    check_use(ANYWHERE, token_id="t", source="", database="any", now=NOON)


@pytest.mark.parametrize(
    ("source", "networks", "inside"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("11.1.2.3", ["10.0.0.0/8", "11.1.2.3/32"], True),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("::ffff:10.1.2.3", ["::ffff:10.0.0.0/104"], True),
        ("10.1.2.3", ["::ffff:10.0.0.0/104"], True),
        ("11.1.2.3", ["::ffff:10.0.0.0/104"], False),
        ("10.1.2.3", ["::/0"], False),
        ("fd00::7", ["fd00::/8"], True),
        ("fd00::7", ["10.0.0.0/8"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("socket", ["socket"], True),
        ("socket", ["0.0.0.0/0", "::/0"], False),
        ("127.0.0.1", ["socket"], False),
        ("", ["0.0.0.0/0"], False),
        ("unknown", ["0.0.0.0/0"], False),
        ("10.1.2.3", ["no network"], False),
        ("10.1.2.3", [], False),
    ],
)
def test_where_a_client_comes_from(source: str, networks: list[str], inside: bool) -> None:
    assert comes_from(source, networks) is inside


def test_networks_are_kept_in_one_form() -> None:
    assert make_scope(networks=["10.0.0.0/8", " 10.0.0.0/255.0.0.0", "Socket", "10.0.0.7"]).networks == (
        "10.0.0.0/8",
        "socket",
        "10.0.0.7/32",
    )
    assert make_scope(networks=["::ffff:10.0.0.0/104", "::ffff:0:0/96", "::/0"]).networks == ("10.0.0.0/8", "0.0.0.0/0", "::/0")
    for wrong in ("10.0.0.1/8", "10.0.0.0/33", "example.com", ""):
        with pytest.raises(ConfigError, match="is no network"):
            canonical_network(wrong)


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        (make_scope(databases=["books"]), "token t is not for the database 'shop'"),
        (make_scope(networks=["10.0.0.0/8"]), "token t may not be used from 192.0.2.1"),
        (make_scope(hours="Tue 08:00-18:00 UTC"), "token t does not work at this hour"),
        (TokenScope(hours="whenever"), "the hours of token t cannot be read"),
    ],
)
def test_a_use_outside_the_scope_is_refused_with_a_sentence(scope: TokenScope, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        check_use(scope, token_id="t", source="192.0.2.1", database="shop", now=NOON)
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("28000", True)


def test_a_use_inside_the_scope_passes() -> None:
    scope = make_scope(databases=["shop"], networks=["192.0.2.0/24"], hours="Mon 12:00-12:01 UTC")
    check_use(scope, token_id="t", source="192.0.2.1", database="shop", now=NOON)
    check_hours(scope, token_id="t", now=NOON)
    with pytest.raises(Refused, match="hour"):
        check_hours(scope, token_id="t", now=NOON.replace(minute=1))


def test_a_scope_beyond_the_agents_rights_is_not_made() -> None:
    check_within(make_scope(access=AccessLevel.READ, databases=["shop"]), agent="a", access=AccessLevel.WRITE, databases=["shop"])
    with pytest.raises(Refused, match="a token may not have more"):
        check_within(make_scope(access=AccessLevel.MIGRATE), agent="a", access=AccessLevel.WRITE, databases=["shop"])
    with pytest.raises(Refused, match="has no database live"):
        check_within(make_scope(databases=["live"]), agent="a", access=AccessLevel.WRITE, databases=["shop"])
