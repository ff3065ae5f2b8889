"""The words of the bench: where a contender listens, what one run of one row gave, what is asked of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, unique
from pathlib import Path

from psycopg.conninfo import make_conninfo


class BenchError(Exception):
    """The bench cannot go on, or one run cannot be counted; the message is one line for a person."""


@unique
class Name(StrEnum):
    """The contenders, in the order of the table's columns."""

    DIRECT = "direct"
    PGBOUNCER = "PgBouncer"
    DBSHIELD = "dbshield"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one contender is reached, always by TCP on loopback and without TLS."""

    port: int
    user: str
    password: str = field(repr=False)
    dbname: str
    host: str = "127.0.0.1"

    def environment(self) -> dict[str, str]:
        """libpq's variables: the way in that shows no password in an argument list."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.dbname,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
            "PGCONNECT_TIMEOUT": "20",
        }

    def conninfo(self) -> str:
        """The same as one string for psycopg."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=self.dbname,
            sslmode="disable",
            gssencmode="disable",
            connect_timeout=20,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a row needs to run: how long, how much, and PostgreSQL's own client programs."""

    seconds: int
    bulk_rows: int
    idle_connections: int
    shapes: int
    binaries: Path
    folder: Path
    admin: str
    """A conninfo of the server's superuser, for preparing and clearing tables; never used inside a measured run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run gave: `value` in the row's unit, `work` the units (transactions, MB) that its CPU time is divided by."""

    value: float
    work: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one row on one contender; `cpu` is the contender's own CPU time in µs per unit of work, None for direct."""

    value: float
    cpu: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    `measure` gets the contender's address, a callable that gives its processes' resident bytes, and the setup. `fresh` rows
    need a contender that has served nobody yet, so they restart it and are run once.
    """

    key: str
    label: str
    unit: str
    work: str
    """What the CPU time is divided by."""
    measure: Callable[[Address, Callable[[], int], Setup], Sample]
    lower_is_better: bool = False
    fresh: bool = False
    proxies_only: bool = False
    ratios: bool = True
    notes: bool = False
    """Whether the note of the middle run stands beside the figure; JSON has them all."""


@dataclass(slots=True, kw_only=True)
class Result:
    """All runs of one row: per contender one entry a round, in the order of the rounds; or why there are none."""

    row: Row
    runs: dict[Name, list[Run]] = field(default_factory=dict)
    failures: dict[Name, str] = field(default_factory=dict)
