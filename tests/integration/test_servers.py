"""The tests' own servers are what the other tests take them for."""

from __future__ import annotations

import psycopg
import pytest
from support.servers import ACCESS, Server


def test_a_database_is_seeded_and_fresh(server: Server, database: str) -> None:
    with server.connect(database) as conn:
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)
        conn.execute("delete from shop.orders")


def test_the_next_database_is_fresh_again(server: Server, database: str) -> None:
    with server.connect(database) as conn:
        assert conn.execute("select count(*) from shop.orders").fetchone() == (6000,)


def test_pytest_postgresql_gives_a_seeded_database(postgresql: psycopg.Connection[tuple[object, ...]]) -> None:
    assert postgresql.execute("select count(*) from shop.products").fetchone() == (300,)


@pytest.mark.parametrize("access", ACCESS)
def test_an_agents_role_logs_in_with_its_password(server: Server, database: str, access: str) -> None:
    with psycopg.connect(server.agent_dsn(access, database)) as conn:
        assert conn.execute("select current_user").fetchone() == (f"agent_{access}",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.agent_dsn(access, database), password="wrong")


def test_postgresql_15_speaks_tls_with_a_certificate_that_the_test_ca_signed(server: Server, database: str) -> None:
    dsn = server.agent_dsn("read", database)
    if server.tls:
        with psycopg.connect(dsn, sslmode="verify-full", sslrootcert=str(server.ca)) as conn:
            assert conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    else:
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            psycopg.connect(dsn, sslmode="require")
