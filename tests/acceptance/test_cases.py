"""Every case whose text alone shows what it does, live as the agent through the proxy, told by the data.

Each worker has a server of its own here: what an attack may change (roles, databases, settings) belongs to the whole cluster.
A database is cloned anew only when it is no longer what it was; while the shield holds that is seldom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import servers
from support.cases import live, load, oracle
from support.shield import Shield, running_shield

GROUPS = {"drop", "truncate", "unbounded-delete", "unbounded-update", "multi-statement"}
ATTACKS = [case for case in load("attacks.jsonl") if case["group"] in GROUPS and case["layer"] == "text"]
HARMLESS = load("harmless.jsonl")

EXCEPTIONS = {"schema-create-function": "a new function is not let in before the shield watches what it is called for"}
"""Harmless cases that this version stops, with the reason. It may only shrink."""

UNSUPPORTED = {(18, "query-xml"): "unsupported XML feature"}
"""Cases that a server itself cannot do, with its words: the embedded one is built without libxml."""


class Arena:
    """A seeded database behind the shield, and what it held when it was last looked at."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.fixture: Any = live.Fixture(shield.server.dsn(), shield.database)
        self._reader: psycopg.Connection[Any] | None = None
        self._seen: Any = None

    def before(self) -> Any:
        """What the database holds; a fresh clone when the last case left anything changed."""
        if self._reader is None:
            self._reader = self.fixture.fresh()
            self._seen = oracle.snapshot(self._reader)
        return self._seen

    def run(self, case: dict[str, Any]) -> tuple[list[str], list[str | None]]:
        """What the case lost, and the error of each of its steps."""
        before = self.before()
        assert self._reader is not None
        errors = live.send(self.shield.dsn(case["access"], tls=self.shield.server.tls and not _is_raw(case)), case["steps"])
        self.fixture.quiet(but=self._reader.info.backend_pid)
        after = oracle.snapshot(self._reader)
        lost = oracle.losses(before, after)
        if self.fixture.changed():
            lost.append("roles, memberships, databases or settings of the cluster changed")
        if after != before or lost:
            self.close()
        return lost, errors

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _is_raw(case: dict[str, Any]) -> bool:
    """A FunctionCall is written to the socket past libpq, so past TLS too."""
    return any("function" in step for step in case["steps"])


@pytest.fixture(scope="session", params=servers.majors(), ids=lambda major: f"pg{major}")
def arena(request: pytest.FixtureRequest, worker_id: str) -> Iterator[Arena]:
    server = servers.start(request.param, f"cases-{worker_id}-{request.param}")
    folder = servers.here() / f"shield-cases-{worker_id}-{request.param}"
    with running_shield(server, "cases", folder) as shield:
        arena = Arena(shield)
        yield arena
        arena.close()
        arena.fixture.admin.close()
        server.drop(arena.fixture.template)


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["id"])
def test_an_attack_destroys_nothing(arena: Arena, case: dict[str, Any]) -> None:
    lost, errors = arena.run(case)
    assert lost == []
    assert any(errors), "nothing was refused"
    if case["proof"] == "capability":
        assert errors[-1], "the capability was used"


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_passes(arena: Arena, case: dict[str, Any]) -> None:
    lost, errors = arena.run(case)
    assert lost == []
    if (arena.shield.server.major, case["id"]) in UNSUPPORTED:
        assert UNSUPPORTED[arena.shield.server.major, case["id"]] in str(errors)
    elif case["id"] in EXCEPTIONS:
        assert any(errors), f"it passes now: take it out of EXCEPTIONS ({EXCEPTIONS[case['id']]})"
    else:
        assert [error for error in errors if error] == []
