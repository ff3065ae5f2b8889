"""Every case sent straight to the server, with no proxy in between, by roles that the guard alone holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support import servers
from support.arena import Arena
from support.cases import Case, live, load
from support.servers import ACCESS, Server
from support.shield import Shield

from dbshield.guard.install import Options, install, set_limit

ATTACKS = load("attacks.jsonl")
OWN = load("own.jsonl")
"""Mostly roads to a setting of the session, or past a lock: the guard lets them be, because they lose nothing by themselves."""
HARMLESS = load("harmless.jsonl")

OWNS = "the agent is a member of the owner, no trigger sees it, and taking EXECUTE from everybody would stop applications"
NOT_SEEN: dict[str, str] = {
    "privileges-own-password": "every role may change its own password, and no trigger sees it; the next rotation mends it",
    "privileges-own-setting": "every role may change its own settings, and no trigger sees it",
    "privileges-reassign-owned": "REASSIGN OWNED between two roles of which the agent is a member; no trigger sees it",
    "availability-lock-table": "whoever may write a table may lock it; the lock ends with the session",
    "availability-vacuum-full": "an owner may, and no trigger sees it",
    "availability-cluster": "an owner may, and no trigger sees it",
    "availability-terminate": "a role may end its own sessions",
    "transaction-prepared-left": "PREPARE TRANSACTION takes no right, and no trigger sees it; the rows are within the limit",
    "availability-prepared-in-text": "PREPARE TRANSACTION, as above",
    "sequence-and-objects-setval": OWNS,
    "sequence-and-objects-setval-third-argument": OWNS,
    "sequence-and-objects-setval-from": OWNS,
    "sequence-and-objects-setval-lateral": OWNS,
    "sequence-and-objects-setval-in-default": OWNS,
    "protocol-function-call-setval": OWNS,
    "sequence-and-objects-lo-unlink": OWNS,
    "sequence-and-objects-lo-put": OWNS,
    "sequence-and-objects-lo-truncate": OWNS,
    "sequence-and-objects-lo-open-parameter": OWNS,
    "sequence-and-objects-lo-open-both": OWNS,
    "sequence-and-objects-lo-function-calls": OWNS,
    "sequence-and-objects-lo-truncate-function-call": OWNS,
    "sequence-and-objects-lo-put-function-call": OWNS,
    "protocol-function-call-lo-unlink": OWNS,
}
"""What gets past the guard when an agent has the role of the owner, or harms nobody's data. It may only shrink."""

UNSUPPORTED = {(18, "query-xml"): "unsupported XML feature"}
"""Cases that a server itself cannot do, with its words: the embedded one is built without libxml."""
OUR_TRIGGER = re.compile(r"trigger .+[.]dbshield_(rows|truncate) was added")
"""A new table is guarded; that is no loss."""


class Direct:
    """What Arena needs of a shield: here there is none."""

    def __init__(self, server: Server, database: str) -> None:
        self.server, self.database = server, database

    def dsn(self, access: str, *, tls: bool = False) -> str:
        # A FunctionCall is written to the socket past libpq, so past TLS too.
        return make_conninfo(self.server.agent_dsn(access, self.database), sslmode="disable")


class DirectFixture:
    """live.Fixture that puts back what a case changed of the agents' own roles, and remembers that it had to."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.inner = live.Fixture(server.dsn(), database)
        self.admin, self.template = self.inner.admin, self.inner.template
        self.had_to = False

    def fresh(self) -> Any:
        return self.inner.fresh()

    def quiet(self, but: int = 0) -> None:
        self.inner.quiet(but)

    def changed(self) -> bool:
        self.had_to = bool(self.inner.changed())
        if self.had_to:
            for (gid,) in self.admin.execute(
                "select gid from pg_prepared_xacts where database = %s", [self.inner.name]
            ).fetchall():
                with self.server.connect(self.inner.name) as conn:
                    conn.execute(sql.SQL("rollback prepared {}").format(gid))
            for access in ACCESS:
                role, password = sql.Identifier(f"agent_{access}"), sql.Literal(self.server.passwords[access])
                self.admin.execute(sql.SQL("alter role {} reset all").format(role))
                self.admin.execute(sql.SQL("alter role {} password {}").format(role, password))
            # A password is stored with a salt of its own, so it is never the same again.
            self.inner.shared = self.admin.execute(live.SHARED, [self.inner.name]).fetchone()
        return False


class DirectArena(Arena):
    """The arena without a shield."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__(cast(Shield, Direct(server, database)))
        self.fixture.admin.close()
        self.admin_fixture = self.fixture = DirectFixture(server, database)

    def run(self, case: Case) -> tuple[list[str], list[str | None]]:
        lost, errors = super().run(case)
        if self.admin_fixture.had_to:
            lost.append("roles, memberships, databases or settings of the cluster changed")
        return [loss for loss in lost if not OUR_TRIGGER.search(loss)], errors


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def direct(request: pytest.FixtureRequest) -> Iterator[DirectArena]:
    """A server of a worker's own, its database guarded, and the agents' roles in the group."""
    with servers.own_server(request.param, f"direct-{request.param}") as server:
        server.clone("direct")
        with server.connect("direct") as admin:
            install(admin, Options(environment="test"))
            admin.execute("grant dbshield_agents to agent_read, agent_write, agent_migrate")
            set_limit(admin, "agent_read", 0)
        arena = DirectArena(server, "direct")
        yield arena
        arena.close()
        arena.fixture.admin.close()


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["id"])
def test_an_attack_destroys_nothing(direct: DirectArena, case: Case) -> None:
    lost, errors = direct.run(case)
    used = case["proof"] == "capability" and not errors[-1]
    if case["id"] in NOT_SEEN:
        assert lost or used, f"it is stopped now: take it out of NOT_SEEN ({NOT_SEEN[case['id']]})"
        return
    assert lost == []
    assert not used, "the capability was used"


@pytest.mark.long
@pytest.mark.parametrize("case", OWN, ids=lambda case: case["id"])
def test_one_of_our_own_destroys_nothing(direct: DirectArena, case: Case) -> None:
    lost, _ = direct.run(case)
    if case["id"] in NOT_SEEN:
        assert lost, f"it is stopped now: take it out of NOT_SEEN ({NOT_SEEN[case['id']]})"
    else:
        assert lost == []


@pytest.mark.one_server
@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_passes(direct: DirectArena, case: Case) -> None:
    lost, errors = direct.run(case)
    assert lost == []
    if (direct.shield.server.major, case["id"]) in UNSUPPORTED:
        assert UNSUPPORTED[direct.shield.server.major, case["id"]] in str(errors)
    else:
        assert [error for error in errors if error] == []


def test_only_migrations_and_a_roles_own_affairs_are_excepted() -> None:
    access = {case["id"]: case["access"] for case in [*ATTACKS, *OWN]}
    assert {name for name in NOT_SEEN if access[name] != "migrate"} == {
        "privileges-own-password",
        "privileges-own-setting",
        "availability-lock-table",
        "availability-terminate",
        "transaction-prepared-left",
        "availability-prepared-in-text",
    }
