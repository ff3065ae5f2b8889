"""Which credentials lead around the proxy."""

from __future__ import annotations

import pytest

from dbshield.scan.connections import find_connections
from dbshield.scan.found import Found, Power, Target
from dbshield.scan.reach import Protected, Surroundings, Way, reach

PRODUCTION = Protected(
    environment="production", host="db.example.com", port=5432, databases=("shop",), user="owner", password="s3cr3t-Pa55"
)
LOCAL = Protected(environment="local", host="/run/postgresql", port=5432, databases=("dev",), user="me")
AROUND = Surroundings(environments=(PRODUCTION, LOCAL), proxies=(("0.0.0.0", 6432), ("proxy.example.com", 6432)))


def url(text: str) -> Found:
    (found,) = find_connections(text, 1)
    return found


@pytest.mark.parametrize(
    ("text", "way", "environment"),
    [
        ("postgres://a:b@db.example.com/shop", Way.AROUND, "production"),
        ("postgres://a:b@DB.Example.com.:5432/other", Way.AROUND, "production"),
        ("postgres://a:b@x,db.example.com/shop", Way.AROUND, "production"),
        ("postgres://a:b@127.0.0.1:5432/x", Way.AROUND, "local"),
        ("postgres://a:b@[::1]/x", Way.AROUND, "local"),
        ("host=/tmp user=a password=b dbname=x", Way.AROUND, "local"),
        ("postgres://a:s3cr3t-Pa55@elsewhere/x", Way.AROUND, "production"),
        ("*:5432:shop:a:b", Way.AROUND, "production"),
        ("postgres://a:b@db.example.com:6543/shop", Way.MAYBE, "production"),
        ("postgres://a:b@/dev", Way.MAYBE, "local"),
        ("alter role owner password 'b'", Way.MAYBE, "production"),
        ("postgres://a.production:b@localhost:6432/shop", Way.PROXY, "production"),
        ("postgres://a.production:b@proxy.example.com:6432/shop", Way.PROXY, "production"),
        ("postgres://a:b@db.example.org/shop", Way.ELSEWHERE, ""),
        ("*:5433:shop:a:b", Way.ELSEWHERE, ""),
        ("alter role somebody password 'b'", Way.ELSEWHERE, ""),
    ],
)
def test_where_a_credential_leads(text: str, way: Way, environment: str) -> None:
    found = reach(url(text), AROUND)
    assert (found.way, found.environment) == (way, environment)


def test_an_address_behind_another_name_is_found_where_names_are_looked_up() -> None:
    names = {"db.example.com": frozenset({"192.0.2.1"}), "alias": frozenset({"192.0.2.1", "192.0.2.2"})}
    looked_up = Surroundings(environments=(PRODUCTION,), resolve=lambda host: names.get(host, frozenset()))
    found = url("postgres://a:b@alias/shop")
    assert reach(found, looked_up).way is Way.AROUND
    assert reach(found, AROUND).way is Way.ELSEWHERE


@pytest.mark.parametrize(
    ("power", "way"), [(Power.PROXY, Way.PROXY), (Power.INFRASTRUCTURE, Way.MAYBE), (Power.OTHER, Way.ELSEWHERE)]
)
def test_tokens_lead_where_their_kind_leads(power: Power, way: Way) -> None:
    assert reach(Found(line=1, what="token", power=power, secret="x"), AROUND).way is way


def test_without_an_environment_nothing_is_told_to_reach_one() -> None:
    found = Found(line=1, what="x", power=Power.DATABASE, secret="x", target=Target(hosts=("db.example.com",)))
    assert reach(found, Surroundings()).way is Way.ELSEWHERE
