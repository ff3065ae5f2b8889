"""A query that runs until it is stopped."""

from __future__ import annotations

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
