"""What a human is shown besides the statement: the rows that it would hit, the tables and objects that would go, their sizes.

Everything is read in read-only transactions under a short timeout, on the executor's connection, so it is what the executor would
do. What cannot be told is said to be so; nothing is guessed.

Law: nobody has approved anything yet. Of the statement nothing is run but a query that counts rows, and that only where an agent
with read access might run it unasked, in plain tables: a read-only transaction keeps a function from writing rows, and from
nothing else.

    rows        how many a DELETE or UPDATE would hit now; null: not counted, `notes` say why
    share       of the table's rows, 0 to 1; null: not known
    objects     names of every relation that would go, be emptied, or have rows changed, cascades too; null: cannot be told
    also        what else would go with them, in words: functions, constraints of tables that stay
    tables      name, rows (the server's estimate; null: never counted), bytes
    snapshot, drill   the newest of the environment; null: there is none
    notes       sentences
    made_at     RFC 3339
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import pq

from dbshield.config import EnvironmentConfig
from dbshield.control import running
from dbshield.control.approval import Approval
from dbshield.control.execution import check_server, one, opened
from dbshield.control.preview_sql import counting
from dbshield.control.undo_points import pin
from dbshield.control.witness import Connection
from dbshield.errors import DbshieldError
from dbshield.model import AccessLevel, Allow, Effect, ObjectKind, ObjectName, Operation
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

TIMEOUT: Final = "10s"
"""For each look: a human waits, and the protected server has other work."""
TABLES_SHOWN: Final = 50
TEXT_TYPE: Final = 25
"""The oid of `text`, for parameters that the counting query does not use: the server would ask what type they are."""

HARMLESS: Final = frozenset(
    {Operation.READ, Operation.INSERT, Operation.CREATE, Operation.LOCK, Operation.NOTIFY, Operation.MAINTAIN}
)
ROWS: Final = frozenset({Operation.UPDATE, Operation.DELETE, Operation.TRUNCATE})
COUNTED: Final = frozenset({"r", "p", "m"})
"""Kinds of relations that are read without anything else happening: a view may call functions, a foreign table another server."""
RELATIONS: Final = frozenset(
    {ObjectKind.TABLE, ObjectKind.VIEW, ObjectKind.MATERIALIZED_VIEW, ObjectKind.INDEX, ObjectKind.SEQUENCE}
)

LOSING_ROWS: Final = """
    with recursive hit (oid) as (
        select unnest(%s::oid[])
        union
        select x.oid from hit h cross join lateral (
            select inhrelid as oid from pg_inherits where inhparent = h.oid
            union all
            select conrelid from pg_constraint
            where contype = 'f' and confrelid = h.oid and (%s = 'every' or (%s = 'delete' and confdeltype = 'c'))
        ) x
    )
    select n.nspname || '.' || c.relname from hit join pg_class c on c.oid = hit.oid join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f') order by 1
"""
"""Tables whose rows go or change with these: partitions and children; by ON DELETE CASCADE; by every foreign key."""

_GOING: Final = """
    with recursive going (class, oid) as (
        select x.class, x.oid from unnest(%s::oid[], %s::oid[]) as x (class, oid)
        union
        select x.class, x.oid from going g cross join lateral (
            select classid as class, objid as oid from pg_depend where refclassid = g.class and refobjid = g.oid
            union all
            select refclassid, refobjid from pg_depend where classid = g.class and objid = g.oid and deptype = 'i'
        ) x
    )
"""
GOING: Final = f"""
    {_GOING}
    select n.nspname || '.' || c.relname from going g join pg_class c on g.class = 'pg_class'::regclass and c.oid = g.oid
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1
"""  # noqa: S608  (constants of ours)
"""Relations that go with these: whatever depends on them, and what that is a part of (the rule of a view, the view)."""

GOING_TOO: Final = f"""
    {_GOING}
    select pg_describe_object(g.class, g.oid, 0) from going g
    where g.class = 'pg_proc'::regclass
       or (g.class = 'pg_constraint'::regclass and exists (select from pg_constraint c where c.oid = g.oid and c.conrelid <> 0
           and not exists (select from going t where t.class = 'pg_class'::regclass and t.oid = c.conrelid)))
    order by 1 limit 50
"""  # noqa: S608
"""Functions, and constraints of tables that stay."""

SIZES: Final = """
    select c.oid::regclass::text, n.nspname || '.' || c.relname, c.reltuples::bigint, pg_total_relation_size(c.oid)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname || '.' || c.relname = any(%s) and c.relkind in ('r', 'm')
    order by pg_total_relation_size(c.oid) desc, 2 limit %s
"""

WITH_POLICIES: Final = """
    select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname || '.' || c.relname = any(%s) and c.relrowsecurity order by 1 limit 50
"""

TREE_ROWS: Final = """
    with given as (select %s::bigint::oid as oid)
    select sum(greatest(c.reltuples, 0))::bigint from given, pg_class c
    where c.relkind = 'r' and (c.oid = given.oid or c.oid in (select relid from pg_partition_tree(given.oid)))
"""
"""The rows of a table and its partitions, as the server estimates them."""


Newest = Callable[[str], Mapping[str, Any] | None]
"""What tells of the newest snapshot or drill of an environment, in words by their kind."""


def no_backup(_environment: str) -> None:
    """There is no newest snapshot or drill to tell of."""
    return


def make_preview(
    approval: Approval,
    settings: EnvironmentConfig,
    *,
    role: str,
    pinned: str | None,
    now: datetime,
    snapshot: Newest = no_backup,
    drill: Newest = no_backup,
) -> dict[str, Any]:
    """The preview of an approval, as the approval keeps it. Raises nothing: what fails is among the notes."""
    made = no_preview(now=now)
    made |= {"snapshot": snapshot(approval.environment), "drill": drill(approval.environment)}
    try:
        effects = running.check(approval.statement)
        with opened(settings.executor_dsn(approval.database), settings) as connection:
            check_server(connection, approval.environment, pinned)
            connection.execute("select set_config('statement_timeout', %s, false)", [TIMEOUT])
            connection.execute("set default_transaction_read_only = on")
            _Preview(connection, approval, role, made).fill(effects)
    except (DbshieldError, psycopg.Error) as error:
        made["notes"].append(f"not everything could be looked at: {running.told(error)['message']}")
    return made


def no_preview(*notes: str, now: datetime) -> dict[str, Any]:
    """A preview in which nothing is told but why."""
    return {
        "rows": None,
        "share": None,
        "objects": None,
        "also": [],
        "tables": [],
        "snapshot": None,
        "drill": None,
        "notes": [*notes],
        "made_at": now.isoformat(timespec="seconds"),
    }


class _Preview:
    def __init__(self, connection: Connection, approval: Approval, role: str, made: dict[str, Any]) -> None:
        self._connection = connection
        self._approval = approval
        self._role = role
        self._made = made

    def fill(self, effects: tuple[Effect, ...]) -> None:
        running.as_asked(self._connection, self._approval.settings, self._role)
        count = counting(self._approval.statement)
        targets = {effect: self._found(effect) for effect in effects}
        table = (
            one(self._connection, "select pg_catalog.to_regclass(%s)::pg_catalog.oid::bigint", count.table)
            if count is not None
            else None
        )
        if count is not None and self._may_count(count.query):
            self._made["rows"] = self._count(count.query, count.parameters)
        pin(self._connection)
        self._made["objects"] = self._objects(targets)
        self._tell_of_row_security()
        sizes = self._connection.execute(SIZES.encode(), [self._made["objects"] or [], TABLES_SHOWN]).fetchall()
        self._made["tables"] = [
            {"name": name, "rows": rows if rows >= 0 else None, "bytes": size} for _, name, rows, size in sizes
        ]
        if table is not None and self._made["rows"] is not None:
            known = one(self._connection, TREE_ROWS, table)
            if known:
                self._made["share"] = round(min(1.0, self._made["rows"] / known), 4)

    def _tell_of_row_security(self) -> None:
        """Policies may hide rows from the agent that the executor sees."""
        found = self._connection.execute(WITH_POLICIES.encode(), [self._made["objects"] or []]).fetchall()
        if found:
            names = ", ".join(str(row[0]) for row in found)
            self._made["notes"].append(
                f"row security does not apply: all rows are meant, whichever the agent may see, of {names}"
            )

    def _may_count(self, query: str) -> bool:
        """Whether to run a query changes nothing at all, as far as anybody can tell; else a note says why not."""
        found = [tuple(row) for row in self._connection.execute(CATALOGUE_QUERY.encode())]
        judge = Judge(policy=Policy(access=AccessLevel.READ), functions=FunctionCatalogue.from_rows(found))
        judgement = judge.judge(query.encode())
        if type(judgement.verdict) is not Allow:
            why = "; ".join(finding.message for finding in judgement.findings[:2]) or "functions that it reaches may change rows"
            self._made["notes"].append(f"the rows are not counted, because counting might do more than read: {why}")
            return False
        for effect in judgement.effects:
            if effect.kind in RELATIONS and self._kind(effect) not in COUNTED:
                self._made["notes"].append(f"the rows are not counted: {effect.name} is no table")
                return False
        return True

    def _kind(self, effect: Effect) -> str | None:
        """The kind of a relation, a letter of pg_class.relkind."""
        # This runs under the agent's search_path, where an operator may be somebody's.
        query = (
            "select relkind::pg_catalog.text from pg_catalog.pg_class"
            " where oid operator(pg_catalog.=) pg_catalog.to_regclass(%s)::pg_catalog.oid"
        )
        found = one(self._connection, query, _quoted(effect.name))
        return None if found is None else str(found)

    def _count(self, query: str, used: frozenset[int]) -> int | None:
        parameters = self._approval.parameters or ()
        self._connection.execute("begin read only")
        try:
            result = self._connection.pgconn.exec_params(
                query.encode(),
                [parameter.value for parameter in parameters],
                [
                    parameter.type if number in used or parameter.type else TEXT_TYPE
                    for number, parameter in enumerate(parameters, 1)
                ],
                [parameter.format for parameter in parameters],
            )
            if result.status != pq.ExecStatus.TUPLES_OK:
                error = psycopg.errors.error_from_result(result)
                self._made["notes"].append(f"the rows could not be counted: {running.told(error)['message']}")
                return None
            return int(result.get_value(0, 0) or b"0")
        finally:
            self._connection.execute("rollback")

    def _found(self, effect: Effect) -> int | None:
        """The oid of what the effect names, under the agent's search_path."""
        if effect.kind in RELATIONS:
            query = "select pg_catalog.to_regclass(%s)::pg_catalog.oid::bigint"
        elif effect.kind is ObjectKind.SCHEMA:
            query = "select pg_catalog.to_regnamespace(%s)::pg_catalog.oid::bigint"
        else:
            return None
        found = one(self._connection, query, _quoted(effect.name))
        return None if found is None else int(found)

    def _objects(self, targets: Mapping[Effect, int | None]) -> list[str] | None:
        """Names of all that would go, be emptied or lose rows; None where that cannot be told."""
        found: set[str] = set()
        for effect, oid in targets.items():
            if effect.operation in HARMLESS or (oid is None and "if exists" in effect.flags):
                continue
            if oid is None or effect.operation not in {*ROWS, Operation.DROP}:
                what = f"{effect.operation} {effect.kind} {effect.name}".strip()
                self._made["notes"].append(f"what would go with this cannot be told: {what}")
                return None
            found |= set(self._losing(effect, oid))
        return sorted(found)

    def _losing(self, effect: Effect, oid: int) -> Iterator[str]:
        if effect.operation in ROWS:
            follow = "delete" if effect.operation is Operation.DELETE else ""
            if effect.operation is Operation.TRUNCATE and "cascade" in effect.flags:
                follow = "every"
            rows = self._connection.execute(LOSING_ROWS.encode(), [[oid], follow, follow])
        else:
            catalogue = "pg_namespace" if effect.kind is ObjectKind.SCHEMA else "pg_class"
            what = [[one(self._connection, "select %s::regclass::oid", catalogue)], [oid]]
            rows = self._connection.execute(GOING.encode(), what)
            self._made["also"] += [str(row[0]) for row in self._connection.execute(GOING_TOO.encode(), what)]
        yield from (str(row[0]) for row in rows)


def preview_lines(preview: Mapping[str, Any] | None) -> Iterable[str]:
    """The preview for people, a line each."""
    if preview is None:
        yield "No preview: no executor has looked at it."
        return
    if preview.get("rows") is not None:
        share = preview.get("share")
        yield f"rows now      {preview['rows']:,}" + (f" ({share:.1%} of the table)" if share is not None else "")
    objects = preview.get("objects")
    if objects is not None:
        yield "would touch   " + (", ".join(objects) or "nothing that is there")
    for name in preview.get("also", ()):
        yield f"  also: {name}"
    for table in preview.get("tables", ()):
        rows = "unknown number of" if table["rows"] is None else f"about {table['rows']:,}"
        yield f"  {table['name']}: {rows} rows, {_bytes(table['bytes'])}"
    yield "snapshot      " + _told(preview.get("snapshot"))
    yield "drill         " + _told(preview.get("drill"))
    for note in preview.get("notes", ()):
        yield f"note          {note}"


def _told(found: Any) -> str:
    return "none known" if found is None else ", ".join(f"{key} {value}" for key, value in found.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _quoted(name: ObjectName) -> str:
    parts = (name.schema, name.name) if name.schema else (name.name,)
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
