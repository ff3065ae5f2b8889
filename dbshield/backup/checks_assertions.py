"""What users say about their own data: a folder of SQL files, each one query.

A query holds where it gives no row, or one row with the one value `true`. So both ways to write one work: "there is no order
without a customer" selects those orders, and "there are orders of yesterday" selects `exists (…)`. `NAME.sql` is asked in the
first database of the snapshot, `DATABASE/NAME.sql` in that one. They run in a transaction that is read-only and rolled back.

What a query gives is never repeated: reports leave the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from dbshield.backup.checks import Check, Found, NoVerdict, checked
from dbshield.backup.record import Record
from dbshield.backup.source import Source
from dbshield.errors import ConfigError

TIMEOUT = "15min"
"""For one query; a check that hangs would keep the drill from ever ending."""
LARGEST = 1 << 20
"""Bytes of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """One file: its name below the folder, the database it is asked in, its text."""

    name: str
    database: str
    query: str


def read(folder: Path, kept: Record) -> tuple[Assertion, ...]:
    """The assertions of a folder, by name. Raises ConfigError where one cannot be read or names a database that is not there."""
    there = [database.name for database in kept.databases]
    found = []
    try:
        if not folder.is_dir():
            raise ConfigError(f"the folder of assertions {folder} is not there", hint="Make it, or leave assertions out.")
        for path in sorted(folder.rglob("*.sql")):
            name = path.relative_to(folder)
            database = there[0] if len(name.parts) == 1 else name.parts[0]
            if database not in there or len(name.parts) > 2:
                raise ConfigError(
                    f"the assertion {name} is of a database that is not in the snapshot",
                    hint=f"Folders may be called {', '.join(there)}.",
                )
            if path.stat().st_size > LARGEST:
                raise ConfigError(f"the assertion {name} is longer than {LARGEST} bytes")
            found.append(Assertion(name=str(name), database=database, query=path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the assertions in {folder} cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"there is no assertion in {folder}", hint="Put NAME.sql there, or leave assertions out.")
    return tuple(found)


def ask(source: Source, assertions: Sequence[Assertion], *, log: Path) -> tuple[Check, ...]:
    """One check each, called `assertion NAME`."""
    return tuple(
        checked(f"assertion {assertion.name}", lambda assertion=assertion: _hold(source, assertion), log=log)  # type: ignore[misc]
        for assertion in assertions
    )


def _hold(source: Source, assertion: Assertion) -> Found:
    with source.connect(assertion.database) as connection:
        # As users write it: with the search path that everybody has.
        connection.execute("reset search_path")
        connection.execute("begin read only")
        connection.execute(f"set local statement_timeout = '{TIMEOUT}'")
        try:
            cursor = connection.execute(assertion.query.encode())
            if cursor.description is None:
                raise NoVerdict(f"{assertion.name} is no query", hint="Write one SELECT.")
            rows = cursor.fetchmany(2)
            columns, count = len(cursor.description), cursor.rowcount
            if cursor.nextset():
                # What the second one says would be lost, and after a COMMIT it might write.
                raise NoVerdict(f"{assertion.name} is more than one statement", hint="Write one SELECT a file.")
        except psycopg.Error as error:
            lines = str(error).strip().splitlines()
            # Whose fault it is nobody can tell: the query may be wrong. No verdict, and never a passed one.
            raise NoVerdict(f"{assertion.name}: {lines[0] if lines else 'an error'}", hint="Mend the query.") from None
        connection.execute("rollback")
    if not rows:
        return Found(measure="no rows")
    if len(rows) == 1 and columns == 1 and rows[0][0] is True:
        return Found(measure="true")
    if len(rows) == 1 and columns == 1 and rows[0][0] is False:
        return Found(measure="false", problems=("it says false",))
    return Found(measure=f"{count} rows", problems=(f"it gives {count} rows, and should give none, or true",))
