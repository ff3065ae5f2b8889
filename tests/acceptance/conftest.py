"""The live proxy in front of each server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from weakref import WeakSet

import pytest
from support import servers
from support.arena import arena
from support.servers import Server
from support.shield import Shield, running_shield

__all__ = ["arena"]

_written: WeakSet[Shield] = WeakSet()
"""Those whose database somebody has written in."""


@pytest.fixture(scope="session")
def shield(server: Server, worker_id: str) -> Iterator[Shield]:
    """One proxy a worker and server, as its user starts it. Its database is shared by the tests that only read; those that write
    take `app`."""
    name = f"app_{worker_id}"
    folder = servers.here() / f"shield-{worker_id}-{server.major}"
    with running_shield(server, name, folder, shares_nothing=True) as shield:
        yield shield


@pytest.fixture
def app(shield: Shield) -> Shield:
    """The shield over a database that is fresh, to write in."""
    shield.server.clone(shield.database)
    _written.add(shield)
    return shield


@pytest.fixture(autouse=True)
def _unwritten(request: pytest.FixtureRequest) -> None:
    """Who only reads meets nothing of those who wrote. They come one after another, and each takes a fresh database itself."""
    if "shield" in request.fixturenames and "app" not in request.fixturenames:
        shield = request.getfixturevalue("shield")
        if shield in _written:
            shield.server.clone(shield.database)
            _written.discard(shield)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether the client speaks TLS with the proxy."""
    return bool(request.param)


@pytest.fixture
def fingerprint(shield: Shield) -> Callable[[], dict[str, str]]:
    """Reads a digest of every table's content, straight from the server."""

    def read() -> dict[str, str]:
        with shield.server.connect(shield.database) as conn:
            tables = conn.execute(
                "select oid::regclass::text from pg_class where relkind in ('r', 'm') and relnamespace::regnamespace::text"
                " in ('shop', 'archive') order by 1"
            ).fetchall()
            found = {}
            for (table,) in tables:
                row = conn.execute(
                    f"select count(*), md5(string_agg(t::text, chr(10) order by t::text)) from {table} t"
                ).fetchone()
                assert row is not None
                found[str(table)] = hashlib.sha256(repr(row).encode()).hexdigest()[:16]
            return found

    return read
