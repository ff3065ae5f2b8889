"""Many at once, and much at once: a thousand connections, and COPY far beyond what the proxy may keep in memory."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from support import servers
from support.background import Background
from support.servers import Server
from support.shield import Shield, running_shield
from support.waiting import until

pytestmark = pytest.mark.one_server(by="module")

CONNECTIONS = 1000
MEMORY = 150 * 1024 * 1024
"""Bytes that the proxy may hold while any amount of data passes."""
MIB = 1024 * 1024
LINE = b"0123456789abcdef" * 511 + b"0123456789abcde\n"
"""8 KiB, so that the server is not the slow part."""


def amount(shield: Shield, tls: bool) -> int:
    """Bytes: 1 GiB in the clear on one server and encrypted on the other, and enough to tell on the other two ways."""
    return 1024 * MIB if tls == shield.server.tls else 128 * MIB


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def watched(shield: Shield) -> Iterator[Callable[[], int]]:
    """Looks at the proxy's memory while the block runs; gives the most that was seen."""
    peak, stop = shield.memory(), False

    def look() -> None:
        nonlocal peak
        while not stop:
            peak = max(peak, shield.memory())
            time.sleep(0.02)

    watcher = Background(look)
    try:
        yield lambda: peak
    finally:
        stop = True
        watcher.result()


@pytest.fixture
def crowded(server: Server, worker_id: str) -> Iterator[Shield]:
    """A proxy for the crowd alone. A machine with two busy cores takes longer for a thousand logins than for one."""
    folder = servers.here() / f"shield-crowd-{worker_id}-{server.major}"
    name = f"crowd_{worker_id}"
    with running_shield(server, name, folder, agents=["read"], login_timeout=120.0, shares_nothing=True) as shield:
        yield shield


async def open_one(shield: Shield, *, tls: bool = False) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(shield.dsn("read", tls=tls, connect_timeout=120), autocommit=True)


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_connections_opened_at_once(crowded: Shield) -> None:
    opened = await asyncio.gather(*(open_one(crowded) for _ in range(CONNECTIONS)))
    try:
        answers = await asyncio.gather(*(one(conn, i) for i, conn in enumerate(opened)))
        assert answers == list(range(CONNECTIONS))
        assert crowded.backends() == CONNECTIONS
    finally:
        await asyncio.gather(*(conn.close() for conn in opened))
    assert until(lambda: crowded.backends() == 0)
    with crowded.connect("read") as conn:
        assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.long
@pytest.mark.usefixtures("many_files")
async def test_the_tenth_crowd_needs_no_more_memory_than_the_third(crowded: Shield, *, tls: bool) -> None:
    """What a session held is given back: sockets, TLS, names, places. The first crowds fill caches and the allocator's pools, and
    how much of a heap with holes can be returned differs by some megabytes each time."""
    # A connection with TLS takes several times the work and the memory.
    size = CONNECTIONS // 2 if tls else CONNECTIONS

    async def crowd() -> None:
        opened = await asyncio.gather(*(open_one(crowded, tls=tls) for _ in range(size)))
        await asyncio.gather(*(conn.close() for conn in opened))
        assert until(lambda: crowded.backends() == 0)

    seen = []
    for _ in range(10):
        await crowd()
        seen.append(crowded.memory())
    assert until(lambda: crowded.memory() - seen[2] < 50 * MIB), [size // MIB for size in seen]


async def one(conn: psycopg.AsyncConnection[tuple[object, ...]], number: int) -> object:
    row = await (await conn.execute("select %s::int", [number])).fetchone()
    assert row is not None
    return row[0]


def test_copy_out(shield: Shield, tls: bool) -> None:
    size = amount(shield, tls)
    text = f"copy (select repeat('0123456789abcdef', 512) from generate_series(1, {size // 8192})) to stdout"
    with shield.connect("read", tls=tls) as conn, watched(shield) as peak, conn.cursor().copy(text) as copy:
        passed = sum(len(block) for block in copy)
    assert passed == size // 8192 * 8193
    assert peak() < MEMORY


@pytest.fixture
def sink(app: Shield) -> Shield:
    """A table that counts rows and keeps none, so that the disk is no part of the test."""
    with app.server.connect(app.database) as conn:
        conn.execute(
            """create table shop.sink (line text);
            create sequence shop.sunk;
            create function shop.sink() returns trigger language plpgsql security definer as
                $$ begin perform nextval('shop.sunk'); return null; end $$;
            create trigger sink before insert on shop.sink for each row execute function shop.sink();
            grant insert, select on shop.sink to agent_write"""
        )
    return app


def test_copy_in(sink: Shield, tls: bool) -> None:
    size = amount(sink, tls)
    block = LINE * 32
    with sink.connect("write", tls=tls) as conn, watched(sink) as peak:
        with conn.cursor().copy("copy shop.sink from stdin") as copy:
            for _ in range(size // len(block)):
                copy.write(block)
        assert conn.execute("select 1").fetchone() == (1,)
    with sink.server.connect(sink.database) as admin:
        assert admin.execute("select last_value from shop.sunk").fetchone() == (size // 8192,)
    assert peak() < MEMORY


def test_a_client_that_does_not_read_holds_the_server_back(shield: Shield) -> None:
    """Back-pressure: what a slow client has not read stays on the server, not in the proxy."""
    text = b"select repeat('0123456789abcdef', 512) from generate_series(1, 40000)"
    with shield.connect("read") as conn:
        before = shield.memory()
        conn.pgconn.send_query(text)
        conn.pgconn.flush()
        # The server waits for its client to read: then nothing moves any more, and what is held is held.
        assert until(lambda: _waits_to_write(shield))
        assert shield.memory() - before < 20 * MIB
        rows = 0
        while result := conn.pgconn.get_result():
            rows += result.ntuples
        assert rows == 40000


def _waits_to_write(shield: Shield) -> bool:
    with shield.server.connect() as admin:
        row = admin.execute(
            "select count(*) from pg_stat_activity where datname = %s and wait_event = 'ClientWrite'", [shield.database]
        ).fetchone()
    return row == (1,)
