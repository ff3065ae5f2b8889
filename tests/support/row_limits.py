"""What an agent writes up to its row limit and beyond, and what the server then has.

shop.products has 300 rows; what these tests change there carries a mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from support.shield import Shield

Connection = psycopg.Connection[Any]
Act = Callable[[Connection], object]

UPDATE = "update shop.products set stock = -1 where id between %s and %s"


def changed(shield: Shield) -> int:
    """The rows that carry the mark of these tests, as the server itself sees them."""
    return int(direct(shield, "select count(*) from shop.products where stock = -1"))


def direct(shield: Shield, query: str) -> Any:
    with shield.server.connect(shield.database) as conn:
        row = conn.execute(query).fetchone()
        assert row is not None
        return row[0]


def refused(conn: Connection, act: Act, rule: str = "DS220") -> psycopg.Error:
    with pytest.raises(errors.InsufficientPrivilege) as caught:
        act(conn)
    assert (caught.value.diag.message_detail or "").startswith(f"rule={rule} ")
    assert caught.value.diag.message_hint
    return caught.value


def simple(text: str) -> Act:
    return lambda conn: conn.execute(text)


def extended(text: str, *values: object) -> Act:
    return lambda conn: conn.execute(text, values)
