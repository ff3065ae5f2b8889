"""A connection that reads a table's rows again only where they may be others.

For the oracle of the cases, which reads every row as JSON before and after each case. A row version never changes: as long as the
visible ones have the same places and were written by the same transactions in the same file, their columns hold the same bytes.
How these read depends on the catalogue (types, casts, added columns), so that is taken for another where any row of it is. Clones
of one template are the same in all of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

VERSION = "count(*), sum(hashtidextended(ctid, xmin::text::bigint))"
CATALOGUE = ("class", "attribute", "attrdef", "type", "enum", "range", "cast", "proc", "operator", "collation", "inherits")
CATALOGUE_VERSION = " union all ".join(f"select '{name}', {VERSION} from pg_catalog.pg_{name}" for name in CATALOGUE)
CLUSTER = "select system_identifier from pg_control_system()"
TABLE_VERSION = sql.SQL("select pg_relation_filenode({name}), " + VERSION + " from {table}")

Rows = Sequence[tuple[Any, ...]]


class Memory:
    """What was read of each table, with the version that it had then."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[object, Rows]] = {}

    def over(self, connection: psycopg.Connection[Any]) -> Remembering:
        """One look at everything over this connection, in which nothing changes."""
        return Remembering(connection, self._read)


class Remembering:
    """What oracle.snapshot needs of a connection. Its only queries that are put together are those for a table's rows."""

    def __init__(self, connection: psycopg.Connection[Any], read: dict[str, tuple[object, Rows]]) -> None:
        self._connection = connection
        self._read = read
        # Another cluster counts its transactions by itself.
        self._where = (connection.execute(CLUSTER).fetchone(), *connection.execute(CATALOGUE_VERSION).fetchall())

    def execute(self, query: str | sql.Composed) -> Any:
        if isinstance(query, str):
            return self._connection.execute(query.encode())
        *_, table, _ = query
        assert isinstance(table, sql.Identifier)
        name = table.as_string(self._connection)
        found = self._connection.execute(TABLE_VERSION.format(name=sql.Literal(name), table=table)).fetchone()
        version = (found, self._where)
        if name not in self._read or self._read[name][0] != version:
            self._read[name] = version, self._connection.execute(query).fetchall()
        return _Found(self._read[name][1])


class _Found:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def fetchall(self) -> Rows:
        return self._rows
