"""docs/for-agents.md is what an agent meets: each of its sentences that a session can show."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from support.shield import Shield


@pytest.mark.one_server
def test_what_an_agent_is_told_is_so(app: Shield) -> None:
    with psycopg.connect(app.dsn("write"), autocommit=True) as agent:
        with pytest.raises(errors.InsufficientPrivilege, match=r"^dbshield .*nothing was executed") as held:
            agent.execute("delete from shop.orders")
        assert (held.value.sqlstate, held.value.diag.message_detail) == (
            "42501",
            "rule=DS201 name=rows.unbounded-delete verdict=hold",
        )
        assert "Name the rows" in str(held.value.diag.message_hint)
        with pytest.raises(errors.InsufficientPrivilege, match=r"^dbshield stopped this transaction; nothing of it is kept"):
            agent.execute("update shop.orders set status = 'paid' where id <= 101")
        assert agent.execute("update shop.orders set status = 'paid' where id <= 100").rowcount == 100
        agent.execute("begin")
        with pytest.raises(errors.InsufficientPrivilege, match="verdict=deny"):
            agent.execute("create role mine")
        with pytest.raises(errors.InFailedSqlTransaction):
            agent.execute("select 1")
        agent.execute("rollback")
        assert agent.execute("select count(*) from shop.orders").fetchone() == (6000,)
    wrong = app.dsn("write", password="dbs_test_aaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
