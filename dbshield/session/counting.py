"""How the server itself counts the rows that a statement changes, and fails the transaction when they are too many.

Before a counted statement the session has the server remember, behind it the session has the server compare, what its own
statistics tell of the transaction (`pg_stat_get_xact_tuples_*`, PostgreSQL manual, "The Cumulative Statistics System"). They
hold every row version that this transaction has updated, deleted or inserted, by whatever way: cascades, triggers, functions,
partitions, data-modifying CTEs, DO blocks. The comparing query raises an error over the limit, in the statement's own
transaction; so nothing is ever undone by the proxy, nothing waits for it, and no answer of the server has to be believed before
it is too late (docs/decisions/0007-rows-counted-by-the-server.md).

What is remembered lives in two settings that are local to the transaction. No agent can write a setting that begins with
`dbshield.`, and a savepoint that is rolled back takes with it both the rows and what was remembered since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dbshield.model import Counted
from dbshield.policy.policy import Policy
from dbshield.sqltext.split import split
from dbshield.wire.frontend import Bind, Close, Describe, Execute, Query, Target

FIRST_USER_OID: Final = 16_384
"""FirstNormalObjectId: what initdb made has smaller numbers, so no row of the catalogue is counted."""

_PARTS: Final = {
    "<updated>": "pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)",
    "<inserted>": "pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)",
    "<tables>": f"c.oid >= {FIRST_USER_OID} and c.relkind in ('r', 'm') and c.relpersistence <> 't'",
    "<setting>": "coalesce(pg_catalog.current_setting",
    "<text>": "::pg_catalog.text",
    "<number>": "::pg_catalog.int8",
}
"""What both queries share. Everything is named with its schema, so that no search path decides what it means."""

_NOW: Final = """(
  select coalesce(pg_catalog.json_object_agg(c.oid, pg_catalog.json_build_array(<updated>, <inserted>))<text>, '{}')
  from pg_catalog.pg_class c where <tables> and <updated> + <inserted> > 0)"""

_BEFORE: Final = """prepare <before> (pg_catalog.bool) as select
  case when <setting>('dbshield.base', true), '') = '' then pg_catalog.set_config('dbshield.base', <now>, true) end as <before>,
  case when $1 and <setting>('dbshield.copies', true), '') = '' then pg_catalog.set_config('dbshield.copies', <now>, true) end"""
"""$1: whether inserted rows count from here on. What is remembered already stays."""

_AFTER: Final = """prepare <after> (pg_catalog.int8, pg_catalog.int8, pg_catalog.json, pg_catalog.text[]) as
with state as materialized (
  select nullif(pg_catalog.current_setting('dbshield.base', true), '')::pg_catalog.json as base,
    nullif(pg_catalog.current_setting('dbshield.copies', true), '')::pg_catalog.json as copies),
touched as materialized (
  select c.oid<text> as oid, n.nspname<text> || '.' || c.relname<text> as name, <updated> as updated, <inserted> as inserted
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where <tables> and <updated> + <inserted> > 0),
since as materialized (
  select name, updated - coalesce((base -> oid ->> 0)<number>, 0) as updated,
    inserted - coalesce((base -> oid ->> 1)<number>, 0) as inserted,
    case when copies is null then 0 else inserted - coalesce((copies -> oid ->> 1)<number>, 0) end as copied
  from touched, state),
changed as materialized (select name, updated + copied as counted, updated + inserted as "any" from since),
reached as materialized (
  with recursive family as (
    select oid::pg_catalog.oid as oid, name from touched join changed using (name) where "any" > 0 and $4 <> '{}'
    union
    select i.inhparent, f.name from family f join pg_catalog.pg_inherits i on i.inhrelid = f.oid)
  select pg_catalog.min(f.name) as name
  from family f join pg_catalog.pg_class c on c.oid = f.oid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where n.nspname<text> || '.' || c.relname<text> like any ($4)),
reason as materialized (
  select case
    when pg_catalog.current_setting('track_counts') <> 'on' or (select base from state) is null then 'uncounted'
    when (select pg_catalog.sum(counted) from changed) > $1
      then 'rows ' || (select pg_catalog.sum(counted) from changed)<text> || ' ' || $1<text>
    when (select name from reached) is not null then 'protected ' || (select name from reached)
    when exists (select from changed where counted > coalesce(($3 ->> name)<number>, $2))
      then 'hour ' || (select pg_catalog.min(name) from changed where counted > coalesce(($3 ->> name)<number>, $2))
  end as why)
select case when why is not null then ('<token>' || why)::pg_catalog.int4<text>
  else (select coalesce(pg_catalog.json_object_agg(name, counted)<text>, '{}') from changed where counted > 0) end as <after>
from reason"""
"""$1: rows that the transaction may change; $2: rows of one table, where $3 (a JSON object by table) does not say how many are
left of it; $4: LIKE patterns of tables that must not change, nor any table that is a part of them. Its error is the cast of a
text that is no number."""

NO_END: Final = (1 << 63) - 1
"""More rows than there can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for every counted statement of a session. `max_rows_per_hour` is for each table, 0 for no such limit;
    `protected` has LIKE patterns of `schema.table`."""

    max_rows_per_hour: int = 0
    protected: tuple[str, ...] = ()

    @classmethod
    def of(cls, policy: Policy) -> Limits:
        """What a policy sets for the sessions under it."""
        return cls(
            max_rows_per_hour=policy.max_rows_per_hour,
            protected=tuple(pattern.like for pattern in policy.protected),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """What the comparing query objected to: `kind` is rows, protected, hour or uncounted; `what` the number or the table."""

    kind: str
    what: str = ""


class RowCounter:
    """The counting queries of one session.

    `name` is an identifier that nobody can guess. `limits` is exchanged when the policy is. `remaining` tells how many rows of a
    table the agent may still change of those that it is given for an hour, for tables of which it has changed any.
    """

    def __init__(self, name: str, remaining: Callable[[int], Mapping[str, int]] | None = None) -> None:
        self.limits = Limits()
        self.remaining = remaining
        self._before, self._after = f"{name}_before", f"{name}_after"
        self.name = name.encode("ascii")
        self.before_column, self.after_column = self._before.encode() + b"\0", self._after.encode() + b"\0"
        self.token = f"{name}: ".encode("ascii")
        names = {"<before>": self._before, "<after>": self._after, "<token>": self.token.decode()}
        self.prepare = Query(query=_filled("; ".join((_BEFORE, _AFTER)), names).encode()).encode()
        """The message that makes both queries ready; its answer is nobody's business but ours."""

    def before(self, *, inserts: bool) -> bytes:
        """The messages that go before a counted Execute."""
        return _run(self._before, (b"t" if inserts else b"f",))

    def after(self, max_rows: int) -> bytes:
        """The messages that go behind it."""
        return _run(self._after, tuple(value.encode() for value in self._values(max_rows)))

    def wrap(self, text: bytes, counted: Sequence[Counted], max_rows: int, *, statements: int) -> Wrapped:
        """The text of a Query, which has so many statements, with the counting queries around each counted one."""
        bounds = split(text) if statements > 1 else [(0, len(text))]
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in self._values(max_rows))
        behind = f"\n;execute {self._after}({values});".encode()
        pieces: list[bytes] = []
        kept: list[tuple[int, int]] = []
        done = written = 0

        def add(piece: bytes) -> None:
            nonlocal written
            pieces.append(piece)
            written += len(piece.decode("utf-8", "replace"))

        def keep(end: int) -> None:
            nonlocal done
            kept.append((written, len(text[:done].decode("utf-8", "replace"))))
            add(text[done:end])
            done = end

        for each in counted:
            start, end = bounds[each.statement]
            keep(start)
            add(f"execute {self._before}({str(each.inserts).lower()});".encode())
            keep(end)
            add(behind)
        keep(len(text))
        return Wrapped(text=b"".join(pieces), kept=tuple(kept))

    def overrun(self, error: bytes) -> Overrun | None:
        """What the error of a counting query says; None when the ErrorResponse is about something else."""
        found = error.find(self.token)
        if found >= 0:
            words = error[found + len(self.token) : error.find(b"\0", found)].decode("utf-8", "replace").rstrip('"»”“')
            kind, _, what = words.partition(" ")
            return Overrun(kind=kind, what=what)
        return Overrun(kind="uncounted") if self.name in error else None

    def _values(self, max_rows: int) -> tuple[str, str, str, str]:
        limits = self.limits
        hourly = limits.max_rows_per_hour
        remaining = json.dumps(dict(self.remaining(hourly))) if hourly and self.remaining else "{}"
        return str(max_rows), str(hourly or NO_END), remaining, _array(limits.protected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """The text of a Query with ours in it; `kept` tells where each piece of the client's begins in it and in the client's own
    text, in characters."""

    text: bytes
    kept: tuple[tuple[int, int], ...]

    def position(self, position: int) -> int:
        """Where the client wrote what the server found at `position`; both count characters from 1."""
        new, old = max((piece for piece in self.kept if piece[0] < position), default=(0, 0))
        return position - new + old


def changed_rows(row: bytes) -> dict[str, int]:
    """The rows by table from the payload of the comparing query's DataRow (two bytes, a length of four, the JSON)."""
    return {str(name): int(rows) for name, rows in json.loads(row[6:]).items()}


def _run(name: str, values: tuple[bytes, ...]) -> bytes:
    """Run a prepared query of ours between the client's messages. The description comes first, because its answer is what tells
    ours from the client's; the portal is closed, because an open transaction would keep it."""
    target = name.encode()
    return b"".join(
        message.encode()
        for message in (
            Describe(target=Target.STATEMENT, name=target),
            Bind(portal=target, statement=target, parameters=values),
            Execute(portal=target),
            Close(target=Target.PORTAL, name=target),
        )
    )


def _filled(query: str, names: Mapping[str, str]) -> str:
    for sign, text in {"<now>": _NOW, **_PARTS, **names}.items():
        query = query.replace(sign, text)
    return query


def _array(texts: Sequence[str]) -> str:
    """PostgreSQL's spelling of an array of texts."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
