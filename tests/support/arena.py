"""A seeded database behind the shield, and what every case that is sent there costs it, told by the data.

Each worker has a server of its own here: what an attack may change (roles, databases, settings) belongs to the whole cluster.
The data is read again only when the server gave out a transaction id since it was last read, because without one nothing that
is kept can have changed; and the database is cloned anew only when it is no longer what it was. The proxy's control database is
on another server, which gives out ids of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from support import servers
from support.cases import Case, live, oracle, send
from support.remembered import Memory
from support.shield import Shield, running_shield

NEXT_TRANSACTION = "select pg_snapshot_xmax(pg_current_snapshot())::text"
OBJECTS = """select array[(select count(*) from pg_statistic_ext), (select count(*) from pg_type), (select count(*) from pg_cast),
    (select count(*) from pg_operator), (select count(*) from pg_collation), (select count(*) from pg_policy),
    (select count(*) from pg_attrdef), (select count(*) from pg_default_acl), (select count(*) from pg_enum)]"""
"""What the oracle does not look at, and what the same case would meet when it is sent again."""


class Arena:
    """The database behind `shield`, and what it held when it was last looked at."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.fixture: Any = live.Fixture(shield.server.dsn(), shield.database)
        self._memory = Memory()
        self._reader: psycopg.Connection[Any] | None = None
        self._seen: Any = None
        self._objects: object = None
        self._transaction = ""

    def run(self, case: Case) -> tuple[list[str], list[str | None]]:
        """What the case lost, and the error of each of its steps."""
        reader = self._fresh()
        errors = send(self.shield.dsn(case["access"], tls=self.shield.server.tls and not _is_raw(case)), case["steps"])
        self.fixture.quiet(but=reader.info.backend_pid)
        return self._losses(reader), errors

    def losses_of(self, attack: Callable[[], object]) -> list[str]:
        """What is lost by whatever `attack` does through the shield."""
        reader = self._fresh()
        attack()
        self.fixture.quiet(but=reader.info.backend_pid)
        return self._losses(reader)

    def close(self) -> None:
        """The next case gets a fresh clone."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _fresh(self) -> psycopg.Connection[Any]:
        if self._reader is None:
            self._reader = self.fixture.fresh()
            self._seen = self._look(self._reader)
            # The oracle passes over a table that it cannot read.
            assert self._seen["rows"]["shop.orders"], "the rows were not read"
            self._objects = _one(self._reader, OBJECTS)
            self._transaction = str(_one(self._reader, NEXT_TRANSACTION))
        assert self._reader is not None
        return self._reader

    def _look(self, reader: psycopg.Connection[Any]) -> Any:
        return oracle.snapshot(self._memory.over(reader))

    def _lost(self, after: Any) -> list[str]:
        """What the oracle misses; tables that are equal need no look at each row."""
        rows = {table: found for table, found in self._seen["rows"].items() if after["rows"].get(table) != found}
        return list(oracle.losses({**self._seen, "rows": rows}, after))

    def _losses(self, reader: psycopg.Connection[Any]) -> list[str]:
        lost: list[str] = []
        now = str(_one(reader, NEXT_TRANSACTION))
        if now != self._transaction:
            after = self._look(reader)
            lost = self._lost(after)
            self._transaction = now
            if after != self._seen or _one(reader, OBJECTS) != self._objects:
                self.close()
        if self.fixture.changed():
            lost.append("roles, memberships, databases or settings of the cluster changed")
            self.fixture = live.Fixture(self.shield.server.dsn(), self.shield.database)
            self.close()
        return lost


def _one(reader: psycopg.Connection[Any], query: str) -> object:
    """The single value that a query gives."""
    row = reader.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _is_raw(case: Case) -> bool:
    """A FunctionCall is written to the socket past libpq, so past TLS too."""
    return any("function" in step for step in case["steps"])


@pytest.fixture(scope="session", params=servers.majors(), ids=lambda major: f"pg{major}")
def arena(request: pytest.FixtureRequest, worker_id: str) -> Iterator[Arena]:
    """A proxy and a server a worker, for all tests that send cases."""
    server = servers.start(request.param, f"cases-{worker_id}-{request.param}")
    folder = servers.here() / f"shield-cases-{worker_id}-{request.param}"
    with running_shield(server, "cases", folder, control_server=servers.shared_server(18)) as shield:
        arena = Arena(shield)
        yield arena
        arena.close()
        arena.fixture.admin.close()
        server.drop(arena.fixture.template)
