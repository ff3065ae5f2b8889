"""What a database held, row by row, so that the data itself says whether anything was lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from dbshield.cli.demo.stage import Connection
from dbshield.cli.demo.story import TABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The digest of every row of every table; a table that is gone holds none."""

    rows: Mapping[str, Counter[str]]

    def count(self, table: str) -> int:
        return self.rows[table].total()

    def fingerprint(self, table: str) -> str:
        """One short text for all that the table holds."""
        digests = "".join(sorted(self.rows[table].elements()))
        return hashlib.sha256(digests.encode()).hexdigest()[:12]

    def lost(self, later: Contents) -> int:
        """How many rows are gone or changed in what the database held later."""
        return sum((held - later.rows[table]).total() for table, held in self.rows.items())


def contents(conn: Connection) -> Contents:
    """Read every row over a superuser's connection."""
    rows: dict[str, Counter[str]] = {}
    for table in TABLES:
        try:
            found = conn.execute(sql.SQL("select md5(t::text) from public.{} t").format(sql.Identifier(table)))
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            rows[table] = Counter()
        else:
            rows[table] = Counter(str(row[0]) for row in found)
    return Contents(rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the agent reads when it is stopped."""

    sqlstate: str
    message: str
    detail: str
    hint: str

    @classmethod
    def of(cls, error: psycopg.Error) -> Refusal:
        diag = error.diag
        return cls(
            sqlstate=diag.sqlstate or "",
            message=diag.message_primary or str(error),
            detail=diag.message_detail or "",
            hint=diag.message_hint or "",
        )

    @property
    def by_dbshield(self) -> bool:
        """Not merely an error of the server's: dbshield's own words, with a rule and a hint."""
        return self.sqlstate == "42501" and self.message.startswith("dbshield ") and bool(self.detail and self.hint)
