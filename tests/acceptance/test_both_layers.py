"""The proxy and the guard at once: the agents of a live proxy, in a database where the guard is installed.

Every case must lose nothing, also those of which the proxy or the guard alone knows too little, and harmless work must not notice
that there are two. What comes first, the proxy, does the refusing; the guard must let through what the proxy's own counting does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support import servers
from support.arena import Arena
from support.cases import Case, load
from support.guarded import GuardedArena
from support.shield import Shield, running_shield

from dbshield.guard.install import Options, install, set_limit
from dbshield.guard.verify import verify

ATTACKS = load("attacks.jsonl")
OWN = load("own.jsonl")
HARMLESS = load("harmless.jsonl")
UNSUPPORTED = {(18, "query-xml"): "unsupported XML feature"}
"""Cases that a server itself cannot do, with its words: the embedded one is built without libxml."""
EVERYWHERE = [pytest.param(major, id=f"pg{major}") for major in servers.majors()]
NEWEST = [
    pytest.param(major, id=f"pg{major}", marks=[] if major == max(servers.majors()) else [pytest.mark.long])
    for major in servers.majors()
]
"""The layers are tried one by one on every version; both together on the newest, and in the long run on every one."""

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def guarded(request: pytest.FixtureRequest) -> Iterator[GuardedArena]:
    """A server of a worker's own with a proxy in front of it and the guard inside."""
    with servers.own_server(request.param, f"both-{request.param}") as server:
        control = servers.shared_server(18)
        with running_shield(
            server, "both", servers.here() / f"{server.cluster.folder.name}-shield", control_server=control
        ) as shield:
            with server.connect("both") as admin:
                install(admin, Options(environment="test"))
                admin.execute("grant dbshield_agents to agent_read, agent_write, agent_migrate")
                set_limit(admin, "agent_read", 0)
                assert verify(admin) == ()
            arena = GuardedArena(shield)
            yield arena
            arena.close()
            arena.fixture.admin.close()


def destroys_nothing(arena: Arena, case: Case) -> None:
    lost, refused = arena.run(case)
    assert lost == []
    assert any(refused), "nothing was refused"
    if case["proof"] == "capability":
        assert refused[-1], "the capability was used"


@pytest.mark.parametrize("guarded", NEWEST, indirect=True)
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["id"])
def test_an_attack_destroys_nothing(guarded: GuardedArena, case: Case) -> None:
    destroys_nothing(guarded, case)


@pytest.mark.long
@pytest.mark.parametrize("guarded", EVERYWHERE, indirect=True)
@pytest.mark.parametrize("case", OWN, ids=lambda case: case["id"])
def test_one_of_our_own_destroys_nothing(guarded: GuardedArena, case: Case) -> None:
    destroys_nothing(guarded, case)


@pytest.mark.parametrize("guarded", NEWEST, indirect=True)
@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_passes(guarded: GuardedArena, case: Case) -> None:
    lost, refused = guarded.run(case)
    assert lost == []
    if (guarded.shield.server.major, case["id"]) in UNSUPPORTED:
        assert UNSUPPORTED[guarded.shield.server.major, case["id"]] in str(refused)
    else:
        assert [error for error in refused if error] == []


@pytest.fixture
def shield(guarded: GuardedArena) -> Iterator[Shield]:
    """The shield over a fresh, guarded database; the next case gets a fresh one too."""
    with guarded.cleared():
        yield guarded.shield


@pytest.fixture
def agent(shield: Shield) -> Iterator[Connection]:
    with shield.connect("write") as conn:
        yield conn


def lines(shield: Shield) -> int:
    """How many of 12,000 order lines are left, as the server sees it."""
    with shield.server.connect(shield.database) as admin:
        row = admin.execute("select count(*) from shop.order_items").fetchone()
    assert row is not None
    return int(str(row[0]))


def delete(conn: Connection, first: int, orders: int) -> None:
    """Each order has two lines."""
    conn.execute("delete from shop.order_items where order_id between %s and %s", [first, first + orders - 1])


BOTH = pytest.mark.parametrize("guarded", EVERYWHERE, indirect=True)


@BOTH
def test_both_count_each_transaction_from_zero(shield: Shield, agent: Connection) -> None:
    for first in (1, 51, 101):
        delete(agent, first, 50)
    with agent.transaction():
        delete(agent, 151, 20)
        delete(agent, 171, 30)
    with agent.transaction(force_rollback=True):
        delete(agent, 201, 50)
    with agent.pipeline() as pipeline:
        for first in (201, 251, 301):
            delete(agent, first, 50)
            pipeline.sync()
    assert lines(shield) == 12_000 - 700


@BOTH
@pytest.mark.parametrize(("limit", "stops"), [(50, "dbshield: agent_write may not change"), (100, ""), (1000, "rule=DS220")])
def test_the_lower_limit_stops(shield: Shield, agent: Connection, limit: int, stops: str) -> None:
    """The guard's limit beside the proxy's, which is 100."""
    with shield.server.connect(shield.database) as admin:
        set_limit(admin, "agent_write", limit)
    most = min(limit, 100)
    for orders in (most // 2 + 1, most):
        with pytest.raises(errors.InsufficientPrivilege) as refused:
            delete(agent, 1, orders)
        assert stops in f"{refused.value.diag.message_primary} {refused.value.diag.message_detail}"
        assert lines(shield) == 12_000
        with pytest.raises(errors.InsufficientPrivilege), agent.transaction():
            delete(agent, 1, orders // 2)
            delete(agent, orders // 2 + 1, orders - orders // 2)
        assert lines(shield) == 12_000
    delete(agent, 1, most // 2)
    assert lines(shield) == 12_000 - most // 2 * 2


@BOTH
def test_what_cascades_is_counted_by_both_and_by_neither_twice(shield: Shield, agent: Connection) -> None:
    """A customer has three orders with two lines each: ten rows."""
    agent.execute("delete from shop.customers where id between 1 and 10")
    assert lines(shield) == 12_000 - 60
    with pytest.raises(errors.InsufficientPrivilege):
        agent.execute("delete from shop.customers where id between 11 and 21")
    assert lines(shield) == 12_000 - 60
