"""asyncpg through the proxy: prepared statements with its own introspection, COPY, LISTEN/NOTIFY, cancel on timeout."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from support.shield import Shield
from support.slow import SLOW, running


@asynccontextmanager
async def connected(shield: Shield, agent: str, *, tls: bool = False) -> AsyncIterator[Any]:
    parts = shield.parameters(agent)
    conn = await asyncpg.connect(
        host=parts["host"],
        port=int(parts["port"]),
        user=parts["user"],
        password=parts["password"],
        database=parts["dbname"],
        ssl=ssl.create_default_context(cafile=str(shield.ca)) if tls else False,
    )
    try:
        yield conn
    finally:
        await conn.close()


async def test_prepared_statements(shield: Shield, tls: bool) -> None:
    async with connected(shield, "read", tls=tls) as conn:
        statement = await conn.prepare("select id, total from shop.orders where customer_id = $1 order by id")
        assert [kind.name for kind in statement.get_parameters()] == ["int4"]
        for customer in (5, 6, 7):
            assert len(await statement.fetch(customer)) == 3


async def test_types_that_need_introspection(shield: Shield) -> None:
    """asyncpg asks the catalogue about composite and array types in statements of its own."""
    async with connected(shield, "read") as conn:
        row = await conn.fetchrow("select c, array[c.id, 2] as ids from shop.customers c where id = $1", 1)
        assert row["c"]["email"] == "user1@example.test"
        assert row["ids"] == [1, 2]


async def test_cursor_and_transaction(app: Shield) -> None:
    async with connected(app, "write") as conn:
        async with conn.transaction():
            await conn.execute("update shop.products set stock = $1 where id = $2", 9, 4)
            ids = [row["id"] async for row in conn.cursor("select id from shop.products order by id", prefetch=50)]
            assert ids == list(range(1, 301))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.execute("update shop.products set stock = 1 where id = 4")
                await conn.execute("delete from shop.products")
        assert await conn.fetchval("select stock from shop.products where id = 4") == 9


async def test_many_rows_in_one_go(app: Shield) -> None:
    async with connected(app, "write") as conn:
        await conn.executemany("insert into shop.settings values ($1, $2)", [(f"k{i}", str(i)) for i in range(50)])
        assert await conn.fetchval("select count(*) from shop.settings") == 53


async def test_copy_both_ways(app: Shield, tls: bool) -> None:
    async with connected(app, "write", tls=tls) as conn:
        records = [(i, f"C-{i}", "title", 1, 2) for i in range(1000, 1080)]
        assert await conn.copy_records_to_table("products", schema_name="shop", records=records) == "COPY 80"
        target = io.BytesIO()
        await conn.copy_from_query("select sku from shop.products where id >= $1 order by id", 1000, output=target)
        assert target.getvalue().decode().split() == [f"C-{i}" for i in range(1000, 1080)]


async def test_listen_and_notify(shield: Shield) -> None:
    async with connected(shield, "write") as conn, connected(shield, "write") as other:
        heard: asyncio.Queue[str] = asyncio.Queue()
        await conn.add_listener("news", lambda *args: heard.put_nowait(args[3]))
        await other.execute("notify news, 'one'")
        await other.execute("select pg_notify('news', 'two')")
        assert [await asyncio.wait_for(heard.get(), 30) for _ in range(2)] == ["one", "two"]


async def test_a_timeout_cancels_the_query_on_the_server(shield: Shield, tls: bool) -> None:
    async with connected(shield, "read", tls=tls) as conn:
        with pytest.raises(TimeoutError):
            await conn.fetchval(SLOW, timeout=0.5)
        assert await conn.fetchval("select 1") == 1
        # Of this shield's database alone: other workers run the same query on this server.
        assert running(shield) == 0


@pytest.mark.parametrize(
    "agent, text",
    [
        ("migrate", "drop table shop.orders"),
        ("write", "delete from shop.orders"),
        ("write", "with gone as (delete from shop.orders returning 1) select count(*) from gone"),
    ],
)
async def test_refusals(shield: Shield, agent: str, text: str) -> None:
    async with connected(shield, agent) as conn:
        for call in (conn.execute, conn.fetch, conn.prepare):
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as error:
                await call(text)
            assert str(error.value).startswith("dbshield ")
            assert error.value.detail.startswith("rule=DS")
            assert error.value.hint
        assert await conn.fetchval("select count(*) from shop.orders") == 6000


async def test_reset_as_a_pool_does(shield: Shield) -> None:
    parts = shield.parameters("read")
    async with asyncpg.create_pool(
        host=parts["host"],
        port=int(parts["port"]),
        user=parts["user"],
        password=parts["password"],
        database=parts["dbname"],
        ssl=False,
        min_size=2,
        max_size=4,
    ) as pool:
        found = await asyncio.gather(*(pool.fetchval("select $1::int", i) for i in range(40)))
    assert found == list(range(40))
