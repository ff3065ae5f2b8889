"""Every case sent straight to the server by the roles that `dbshield agent create` makes, with the guard and no proxy between.

`test_guard_cases.py` sends the same cases by roles that a careless team hands out; what gets past the guard is the same, and
named there. By default it is a sample; `make test-long` sends them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from integration.test_guard_cases import NOT_SEEN, UNSUPPORTED, DirectArena, DirectFixture
from psycopg import sql
from support import servers
from support.cases import Case, live, load
from support.roles import keep_to_itself, make, spec_of
from support.servers import ACCESS, TEMPLATE, Server

from dbshield.guard.install import Options, install

ATTACKS = load("attacks.jsonl")
OWN = load("own.jsonl")
HARMLESS = load("harmless.jsonl")

STEP = 5
"""One case of so many is in the sample, and every one that a careless role loses by."""


class Fixture(DirectFixture):
    """Puts back the settings of the roles as well."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__(server, database)
        self.settings = self.admin.execute("select setrole, setconfig from pg_db_role_setting where setdatabase = 0").fetchall()

    def changed(self) -> bool:
        super().changed()
        if self.had_to:
            for role, config in self.settings:
                self.admin.execute("delete from pg_db_role_setting where setrole = %s", [role])
                self.admin.execute("insert into pg_db_role_setting values (0, %s, %s)", [role, config])
            self.inner.shared = self.admin.execute(live.SHARED, [self.inner.name]).fetchone()
        return False


def _without_roles(server: Server) -> None:
    """Takes away the roles that the tests' servers come with, so that dbshield can make others by these names."""
    with server.connect(TEMPLATE) as admin:
        admin.execute("drop owned by agent_read, agent_write, agent_migrate")
        admin.execute("drop role agent_read, agent_write, agent_migrate")
        admin.execute(sql.SQL("create database made template {}").format(sql.Identifier(TEMPLATE)))
    keep_to_itself(server)


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def made(request: pytest.FixtureRequest) -> Iterator[DirectArena]:
    """A server of a worker's own; the cases name the roles agent_read, agent_write and agent_migrate."""
    with servers.own_server(request.param, f"made-{request.param}") as server:
        _without_roles(server)
        with server.connect("made") as admin:
            install(admin, Options(environment="test"))
        for access in ACCESS:
            make(server, spec_of(access, access, name=f"agent_{access}"), "made", password=server.passwords[access])
        arena = DirectArena(server, "made")
        arena.fixture.admin.close()
        arena.admin_fixture = arena.fixture = Fixture(server, "made")
        yield arena
        arena.close()
        arena.fixture.admin.close()


def _sample(cases: list[Case]) -> list[Any]:
    """All cases; those outside the sample for the long tests."""
    return [
        pytest.param(case, id=case["id"], marks=[] if number % STEP == 0 or case["id"] in NOT_SEEN else [pytest.mark.long])
        for number, case in enumerate(cases)
    ]


@pytest.mark.parametrize("case", _sample(ATTACKS))
def test_an_attack_destroys_nothing(made: DirectArena, case: Case) -> None:
    lost, errors = made.run(case)
    used = case["proof"] == "capability" and not errors[-1]
    if case["id"] in NOT_SEEN:
        assert lost or used, f"these roles do not lose by it any more ({NOT_SEEN[case['id']]})"
        return
    assert lost == []
    assert not used, "the capability was used"


@pytest.mark.long
@pytest.mark.parametrize("case", OWN, ids=lambda case: case["id"])
def test_one_of_our_own_destroys_nothing(made: DirectArena, case: Case) -> None:
    lost, _ = made.run(case)
    if case["id"] in NOT_SEEN:
        assert lost, f"these roles do not lose by it any more ({NOT_SEEN[case['id']]})"
    else:
        assert lost == []


@pytest.mark.parametrize("case", _sample(HARMLESS))
def test_harmless_work_passes(made: DirectArena, case: Case) -> None:
    lost, errors = made.run(case)
    assert lost == []
    if (made.shield.server.major, case["id"]) in UNSUPPORTED:
        assert UNSUPPORTED[made.shield.server.major, case["id"]] in str(errors)
    else:
        assert [error for error in errors if error] == []
