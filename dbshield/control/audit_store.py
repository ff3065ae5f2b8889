"""The audit in the control database: how commands and daemons add to it, and how it is read.

Laws:
- Every entry goes through the function `dbshield.audit_append`, which gives it its place in the chain. Whoever appends holds the
  chain's head until the transaction ends, and every proxy that is about to let a write through waits for it: append last, in a
  short transaction.
- An entry is one JSON object on one line, ASCII alone, with `ts` and `event`. What stands under `environment`, `agent`,
  `database`, `session`, `person`, `verdict` and `rules` can be searched for quickly.

Entries of statements are made by `dbshield.control.audit` and brought here by `dbshield.control.audit_shipping`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from dbshield.control.tokens import hidden
from dbshield.store.database import Database

APPEND: Final = "select dbshield.audit_append(%s::uuid, %s::bigint, %s::text[])"
"""For psycopg: the writer, the number of its first entry, the entries. Gives the position of the newest entry."""

_APPEND: Final = text("select dbshield.audit_append(null, null, cast(:entries as text[]))")
_NOT_TAKEN: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
"""An escape that PostgreSQL may not take: NUL, and one half of a surrogate pair, with the backslashes in front of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened, other than a statement. `at` has a zone; `fields` are what JSON knows."""

    at: datetime
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The entry as it is stored and hashed."""
        said = json.dumps({"ts": stamp(self.at), "event": self.kind, **self.fields}, separators=(",", ":"), default=_plain)
        return takeable(hidden(said))


def line_of(kind: str, **fields: Any) -> str:
    """The line of something that happens now."""
    return Entry(at=datetime.now(UTC), kind=kind, fields=fields).line()


def append(connection: Connection, entries: Sequence[Entry]) -> int:
    """Adds entries in the caller's transaction, which has to be short; the position of the newest."""
    position: int = connection.execute(_APPEND, {"entries": [entry.line() for entry in entries]}).scalar_one()
    return position


def record(database: Database, /, *, kind: str, at: datetime | None = None, **fields: Any) -> int:
    """Adds one entry in a transaction of its own; its position. StoreError where the control database is away."""
    with database.transaction() as connection:
        return append(connection, [Entry(at=at or datetime.now(UTC), kind=kind, fields=fields)])


def stamp(moment: datetime) -> str:
    """A time as entries have it: RFC 3339, UTC, microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def takeable(line: str) -> str:
    """A line of JSON that PostgreSQL takes too: a NUL and half a surrogate pair, which no PostgreSQL text can hold, are exchanged
    for the replacement character."""
    if "\\u0000" not in line and "\\ud" not in line and "\\uD" not in line:
        return line
    if _NOT_TAKEN.search(line) is None:
        return line
    return json.dumps(_clean(json.loads(line)), separators=(",", ":"))


def _clean(value: Any) -> Any:
    match value:
        case str():
            return "".join("\ufffd" if sign == "\0" or "\ud800" <= sign <= "\udfff" else sign for sign in value)
        case dict():
            return {_clean(key): _clean(each) for key, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case _:
            return value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
