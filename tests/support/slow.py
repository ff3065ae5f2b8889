"""What runs until it is stopped, or until it may go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from support.background import Background
from support.shield import Shield

SLOW = "select count(*) from shop.order_items a, shop.order_items b, shop.order_items c"
"""Runs for hours, uses no disk, and ends at once when cancelled."""


def running(shield: Shield) -> int:
    """The number of slow queries that the server works on."""
    with shield.server.connect() as admin:
        row = admin.execute(
            "select count(*) from pg_stat_activity where datname = %s and state = 'active' and query like %s",
            [shield.database, SLOW + "%"],
        ).fetchone()
    assert row is not None
    return int(str(row[0]))


def slowly(conn: psycopg.Connection[Any]) -> Background[object]:
    """The slow query on this connection, in the background."""
    return Background(lambda: conn.execute(SLOW))


@contextmanager
def locked(shield: Shield) -> Iterator[None]:
    """shop.settings is held, so that who wants to read or write it waits on the server."""
    with psycopg.connect(shield.server.dsn(shield.database)) as admin:
        admin.execute("lock table shop.settings in access exclusive mode")
        yield
        admin.rollback()
