"""SQLAlchemy 2 through the proxy with both drivers: reflection, Core, ORM, and a refusal inside a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from support.shield import Shield


class Base(DeclarativeBase):
    metadata = sa.MetaData(schema="shop")


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str | None]
    balance: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2), server_default="0")
    orders: Mapped[list[Order]] = relationship(back_populates="customer", order_by="Order.id")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("shop.customers.id"))
    status: Mapped[str]
    total: Mapped[Decimal]
    placed_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    customer: Mapped[Customer] = relationship(back_populates="orders")


def url(shield: Shield, agent: str, driver: str) -> sa.URL:
    parts = shield.parameters(agent)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=parts["user"],
        password=parts["password"],
        host=parts["host"],
        port=int(parts["port"]),
        database=parts["dbname"],
        query={"sslmode": "disable"} if driver == "psycopg" else {"ssl": "disable"},
    )


@pytest.fixture
def engine(app: Shield) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url(app, "write", "psycopg"), pool_pre_ping=True)
    yield engine
    engine.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
def async_engine(app: Shield, request: pytest.FixtureRequest) -> Iterator[AsyncEngine]:
    engine = create_async_engine(url(app, "write", request.param))
    yield engine
    asyncio.run(engine.dispose())


def reflect(conn: sa.Connection) -> None:
    inspector = sa.inspect(conn)
    assert {"customers", "orders", "order_items", "events"} <= set(inspector.get_table_names(schema="shop"))
    assert inspector.get_view_names(schema="shop") == ["active_customers"]
    assert [column["name"] for column in inspector.get_columns("products", schema="shop")][:3] == ["id", "sku", "title"]
    assert inspector.get_pk_constraint("order_items", schema="shop")["constrained_columns"] == ["order_id", "line"]
    assert inspector.get_foreign_keys("orders", schema="shop")[0]["referred_table"] == "customers"
    assert any(index["name"] == "orders_customer" for index in inspector.get_indexes("orders", schema="shop"))
    assert inspector.get_check_constraints("order_items", schema="shop")[0]["sqltext"] == "quantity > 0"
    metadata = sa.MetaData()
    metadata.reflect(conn, schema="shop")
    assert "shop.settings" in metadata.tables


def work(session: Session) -> None:
    customer = session.scalars(sa.select(Customer).where(Customer.id == 5)).one()
    assert [order.id for order in customer.orders] == [4, 2004, 4004]
    session.add(
        Order(id=9001, customer=customer, status="new", total=Decimal("12.50"), placed_at=datetime(2026, 7, 1, tzinfo=UTC))
    )
    customer.name = "Renamed"
    session.flush()
    assert session.execute(sa.text("select name from shop.customers where id = 5")).scalar_one() == "Renamed"
    session.execute(sa.update(Order).where(Order.id == 9001).values(status="paid"))
    session.delete(session.get_one(Order, 9001))
    session.flush()
    assert session.scalar(sa.select(sa.func.count()).select_from(Order)) == 6000


def test_reflection(engine: sa.Engine) -> None:
    with engine.connect() as conn:
        reflect(conn)


def test_orm(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        work(session)
    with engine.connect() as conn:
        assert conn.scalar(sa.text("select name from shop.customers where id = 5")) == "Renamed"


def test_many_inserts_in_one_statement(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all(Customer(id=i, email=f"new{i}@example.test", name=None) for i in range(5000, 5060))
    with engine.connect() as conn:
        assert conn.scalar(sa.select(sa.func.count()).where(Customer.id >= 5000)) == 60


def test_a_refusal_rolls_the_session_back_and_leaves_it_usable(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.execute(sa.update(Customer).where(Customer.id == 1).values(name="lost"))
        with pytest.raises(ProgrammingError, match="dbshield") as error:
            session.execute(sa.delete(Order))
        assert getattr(error.value.orig, "sqlstate", None) == "42501"
        session.rollback()
        assert session.get_one(Customer, 1).name == "User 1"
        assert session.scalar(sa.select(sa.func.count()).select_from(Order)) == 6000


async def test_async_reflection_and_orm(async_engine: AsyncEngine) -> None:
    try:
        async with async_engine.connect() as conn:
            await conn.run_sync(reflect)
        async with AsyncSession(async_engine) as session, session.begin():
            await session.run_sync(work)
        async with AsyncSession(async_engine) as session:
            with pytest.raises(ProgrammingError, match="dbshield"):
                await session.execute(sa.delete(Order))
            await session.rollback()
            assert await session.scalar(sa.select(sa.func.count()).select_from(Order)) == 6000
    finally:
        await async_engine.dispose()
