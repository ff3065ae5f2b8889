"""In which order tables get their rows back: those that others refer to first, and what is done where there is no such order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dbshield.control.undo_rows import Rows
from dbshield.control.witness import Connection

FOREIGN_KEYS: Final = """
    select coalesce(pg_partition_root(conrelid), conrelid)::bigint, coalesce(pg_partition_root(confrelid), confrelid)::bigint,
           format('alter table %s alter constraint %I', conrelid::regclass, conname), condeferrable, condeferred
    from pg_constraint c where contype = 'f' and conparentid = 0 and to_jsonb(c) ->> 'conenforced' is distinct from 'false'
    order by oid
"""
"""Child, parent, and how the foreign key is altered. One that is not enforced (PostgreSQL 18) asks for nothing."""


def in_order(connection: Connection, groups: Sequence[Rows]) -> list[Rows]:
    """Tables that others refer to come first. In a circle the order is as good as any."""
    needs: dict[int, set[int]] = {}
    for child, parent, *_ in connection.execute(FOREIGN_KEYS.encode()):
        if child != parent:
            needs.setdefault(child, set()).add(parent)
    left = list(groups)
    ordered: list[Rows] = []
    while left:
        oids = {rows.oid for rows in left}
        free = [rows for rows in left if not needs.get(rows.oid, set()) & (oids - {rows.oid})] or left[:1]
        ordered += free
        left = [rows for rows in left if rows not in free]
    return ordered


def put_off(connection: Connection, ordered: Sequence[Rows]) -> list[str]:
    """Lets the foreign keys of a circle wait until all of its tables have their rows; what makes them as they were."""
    place = {rows.oid: number for number, rows in enumerate(ordered)}
    as_before = []
    for child, parent, alter, deferrable, deferred in connection.execute(FOREIGN_KEYS.encode()).fetchall():
        if child in place and parent in place and place[child] < place[parent]:
            connection.execute(f"{alter} deferrable initially deferred".encode())
            was = "not deferrable" if not deferrable else f"deferrable initially {'deferred' if deferred else 'immediate'}"
            as_before.append(f"{alter} {was}")
    return as_before
