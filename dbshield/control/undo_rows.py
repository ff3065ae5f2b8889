"""Rows of one table that is still there, put back to what they were: deleted ones come back, updated ones are as before.

Two lists are at hand, both exact: `before`, the rows that were lost, and `after`, the rows that the statement left in their
place. Compared by key they say what happened to each. Only before: deleted. In both: updated. Only after: inserted, or an
update gave the row another key.

Law: an undo takes nothing away but what the statement left. What would go or change with it by a foreign key's ON DELETE stands
in the way; the tables' own triggers and rules are silent meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from dbshield.control.undo_files import BLOCK
from dbshield.control.witness import Connection

SHOWN: Final = 5
"""Keys that a conflict names."""

COLUMNS: Final = """
    select attname::text, format_type(atttypid, atttypmod), attidentity::text from pg_attribute
    where attrelid = %s::oid and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
KEY: Final = """
    select a.attname::text from pg_attribute a, (
        select i.indrelid, i.indkey[0 : i.indnkeyatts - 1] as columns from pg_index i
        where i.indrelid = %s::oid and i.indisunique and i.indisvalid and i.indpred is null and not 0 = any(i.indkey)
          and (i.indisprimary or i.indimmediate) and not exists (
              select from pg_attribute n
              where n.attrelid = i.indrelid and (not n.attnotnull or n.attgenerated <> '')
                and n.attnum = any(i.indkey[0 : i.indnkeyatts - 1]))
        order by not i.indisprimary, i.indnkeyatts, i.indexrelid limit 1) as key
    where a.attrelid = key.indrelid and a.attnum = any(key.columns) order by array_position(key.columns, a.attnum)
"""
"""The columns of the primary key, or of another unique index that names every row."""
REFERRING: Final = """
    select c.conrelid::regclass::text, coalesce(pg_partition_root(c.conrelid), c.conrelid) = %(oid)s::oid,
           string_agg(format('a.%%I operator(%%I.%%s) x.%%I', k.attname, n.nspname, o.oprname, f.attname), ' and ')
    from pg_constraint c
    cross join unnest(c.confkey, c.conkey, c.conpfeqop) as pair (referred, referring, operator)
    join pg_attribute k on k.attrelid = c.confrelid and k.attnum = pair.referred
    join pg_attribute f on f.attrelid = c.conrelid and f.attnum = pair.referring
    join pg_operator o on o.oid = pair.operator join pg_namespace n on n.oid = o.oprnamespace
    where c.contype = 'f' and c.confdeltype in ('c', 'n', 'd')
      and c.confrelid in (select %(oid)s::oid union select relid from pg_partition_tree(%(oid)s::oid::regclass))
      and not exists (select from pg_constraint p where p.oid = c.conparentid and p.conrelid = c.conrelid)
    group by c.oid, c.conrelid order by 1
"""
"""The foreign keys that refer to a table and do something else than stop it when a row goes."""
TRIGGERS: Final = """
    select t.tgrelid::regclass::text, quote_ident(t.tgname), t.tgenabled::text
    from pg_trigger t
    where not t.tgisinternal and t.tgenabled <> 'D'
      and t.tgrelid in (select %(oid)s::oid union select relid from pg_partition_tree(%(oid)s::oid::regclass))
    order by 1, 2
"""
RULES: Final = """
    select r.ev_class::regclass::text, quote_ident(r.rulename), r.ev_enabled::text
    from pg_rewrite r join pg_class c on c.oid = r.ev_class
    where r.ev_type in ('2', '3', '4') and r.ev_enabled <> 'D' and c.relkind in ('r', 'p')
      and r.ev_class in (select %(oid)s::oid union select relid from pg_partition_tree(%(oid)s::oid::regclass))
    order by 1, 2
"""
"""Rules for UPDATE, INSERT and DELETE."""
STATES: Final = {"O": "enable", "A": "enable always", "R": "enable replica"}


class Rows:
    """The rows of one table, or of all partitions of one; `name` is its schema and name."""

    def __init__(self, connection: Connection, folder: Path, name: tuple[str, ...], parts: Sequence[Mapping[str, Any]]) -> None:
        self._connection = connection
        self._folder = folder
        self._name = name
        self._parts = parts
        self.table = sql.Identifier(*name)
        self.oid = self._oid()
        self.left: list[str] = []
        self._silenced: list[tuple[str, str, str]] = []
        self._loosened: list[str] = []
        self._before = sql.Identifier(f"dbshield before {self.oid}")
        self._after = sql.Identifier(f"dbshield after {self.oid}")

    def __str__(self) -> str:
        return ".".join(self._name)

    def prepare(self) -> list[str]:
        """Locks the table against writers, reads the two lists, and says what stands in the way."""
        if not self.oid:
            return [f"{self} is not there any more"]
        if self._one("select relkind::text from pg_class where oid = %s::oid") not in {"r", "p"}:
            return [f"{self} is no table any more"]
        self._execute("lock table {table} in share row exclusive mode")
        columns = self._connection.execute(COLUMNS.encode(), [self.oid]).fetchall()
        self._columns = [str(column[0]) for column in columns]
        was = {(str(name), str(kind)) for part in self._parts for name, kind in zip(part["columns"], part["types"], strict=True)}
        if {(str(column[0]), str(column[1])) for column in columns} != was:
            return [f"{self} has other columns now"]
        self._always = [str(column[0]) for column in columns if column[2] == "a"]
        self._is_referred_to = bool(self._one("select count(*) from pg_constraint where contype = 'f' and confrelid = %s::oid"))
        self._key = [str(row[0]) for row in self._connection.execute(KEY.encode(), [self.oid])]
        for which, temporary in (("before", self._before), ("after", self._after)):
            self._execute(
                "create temporary table {temporary} on commit drop as select {columns} from {table} with no data",
                temporary=temporary,
            )
            for part in self._parts:
                self._load(temporary, part[which]["file"], part["columns"])
            self._execute("analyze {temporary}", temporary=temporary)
        return self._conflicts_by_key() if self._key else self._conflicts_by_content()

    def silence(self) -> None:
        """Switches the table's own triggers and rules off, each by its name, and lets values be given that only the server gives
        where the statement overwrote some. Who may not do so cannot undo."""
        for what, query in (("trigger", TRIGGERS), ("rule", RULES)):
            for table, name, state in self._connection.execute(query.encode(), {"oid": self.oid}).fetchall():
                self._connection.execute(f"alter table only {table} disable {what} {name}".encode())
                self._silenced.append((str(table), f"{what} {name}", str(state)))
        for column in self._always if self._key else ():
            overwritten = self._execute(
                "select from {before} b, {after} a where {b_is_a} and a.{column} is distinct from b.{column} limit 1",
                column=sql.Identifier(column),
            )
            if overwritten.fetchone() is not None:
                self._execute("alter table {table} alter column {column} set generated by default", column=sql.Identifier(column))
                self._loosened.append(column)

    def unsilence(self) -> None:
        """As they were."""
        # What the triggers of foreign keys have still to check is about these tables, and would keep them from being altered.
        self._connection.execute("set constraints all immediate")
        for column in self._loosened:
            self._execute("alter table {table} alter column {column} set generated always", column=sql.Identifier(column))
        for table, what, state in self._silenced:
            self._connection.execute(f"alter table only {table} {STATES[state]} {what}".encode())

    def put_back(self) -> None:
        """Inserts the deleted rows and gives updated ones what they held. Parents before children."""
        if not self._key:
            if not self._is_referred_to:
                # Nothing waits for the old rows, and a value that may be there once is free before it comes back.
                self._take_away_by_content()
            self._execute("insert into {table} ({columns}) overriding system value select {columns} from {before}")
            return
        self._execute(
            "insert into {table} ({columns}) overriding system value select {columns} from {before} b"
            " where not exists (select from {after} a where {b_is_a})"
        )
        # The key with them: two numbers that are equal may be written in two ways.
        values = [column for column in self._columns if column not in self._always or column in self._loosened]
        if values:
            self._execute(
                "update {target} t set {values} from {before} b where {b_is_t} and {t_row} is distinct from {b_row}"
                " and exists (select from {after} a where {b_is_a})",
                values=sql.SQL(", ").join(
                    sql.SQL("{} = b.{}").format(sql.Identifier(column), sql.Identifier(column)) for column in values
                ),
            )

    def going_with_it(self) -> list[str]:
        """Rows that `take_away` would take or change by a foreign key, and that nobody wants changed."""
        if self._count("inserted"):
            return []
        going = "from {after} a where true" + (" and not exists (select from {before} b where {b_is_a})" if self._key else "")
        found = []
        for table, is_this, refers in self._connection.execute(REFERRING.encode(), {"oid": self.oid}).fetchall():
            query = "select count(*) from {referring} x where exists (select " + going + " and {refers})"  # noqa: S608  (ours)
            if is_this and self._key:
                query += " and not exists (select " + going + " and {x_is_a})"
            rows = self._execute(query, referring=sql.SQL(table), refers=sql.SQL(refers)).fetchone()
            if rows is not None and rows[0]:
                found.append(f"{rows[0]} rows of {table} refer to rows of {self} that the statement made, and would go with them")
        return found

    def take_away(self) -> int:
        """Removes rows that came of giving others another key. Children before parents. How many rows are as they were."""
        if not self._key:
            if self._is_referred_to:
                self._take_away_by_content()
        elif not self._count("inserted"):
            self._execute(
                "delete from {target} t using {after} a where {t_is_a} and not exists (select from {before} b where {b_is_a})"
            )
        row = self._execute("select count(*) from {before}").fetchone()
        return int(row[0]) if row is not None else 0

    def _take_away_by_content(self) -> None:
        if not self._count("inserted"):
            self._execute(
                "delete from {target} t using"
                " (select place, relation, content, row_number() over (partition by content) as number"
                " from (select ctid as place, tableoid as relation, {t_row} as content from {target} t) as every) as there,"
                " (select {a_row} as content, row_number() over (partition by {a_row}) as number from {after} a) as known"
                " where there.content = known.content and there.number = known.number"
                " and t.ctid = there.place and t.tableoid = there.relation"
            )

    def _conflicts_by_key(self) -> list[str]:
        found = []
        changed = self._keys(
            "{after} a where not exists (select from {target} t where {t_is_a} and {t_row} is not distinct from {a_row})"
            " and {unless_inserted}",
            "a",
            unless_inserted=self._unless_inserted(),
        )
        if changed:
            found.append(f"rows of {self} were changed or removed since: {changed}")
        taken = self._keys(
            "{before} b where not exists (select from {after} a where {b_is_a})"
            " and exists (select from {target} t where {b_is_t})",
            "b",
        )
        if taken:
            found.append(f"keys of {self} are taken again: {taken}")
        extra = self._extra()
        if self._count("inserted"):
            if extra > self._count("inserted"):
                found.append(
                    f"the statement gave rows of {self} other keys and inserted rows as well; which is which cannot be told"
                )
            elif extra:
                self.left.append(f"{extra} rows that the statement inserted into {self} stay")
        return found

    def _conflicts_by_content(self) -> list[str]:
        """Without a key, a row is what it holds; as many as the statement left have to be there."""
        if self._count("inserted"):
            if self._count("updated"):
                return [
                    f"the statement updated and inserted rows of {self}, which has no primary key: which is which cannot be told"
                ]
            self.left.append(f"{self._count('inserted')} rows that the statement inserted into {self} stay")
            return []
        row = self._execute(
            "select count(*) from (select {a_row} as content, count(*) as number from {after} a group by 1) as known"
            " where number > (select count(*) from {target} t where {t_row} = known.content)"
        ).fetchone()
        return [f"rows of {self} were changed or removed since"] if row is not None and row[0] else []

    def _extra(self) -> int:
        """How many rows the statement left whose keys are none of those that were lost."""
        row = self._execute("select count(*) from {after} a where not exists (select from {before} b where {b_is_a})").fetchone()
        return int(row[0]) if row is not None else 0

    def _unless_inserted(self) -> sql.Composable:
        """Rows that the statement inserted are left alone, whatever became of them."""
        if not self._count("inserted"):
            return sql.SQL("true")
        return self._filled("exists (select from {before} b where {b_is_a})")

    def _count(self, what: str) -> int:
        return sum(int(part[what]) for part in self._parts)

    def _keys(self, source: str, alias: str, **more: sql.Composable) -> str:
        """The first few keys of the rows that `source` gives, and how many there are."""
        listed = sql.SQL(", ").join(
            sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column)) for column in self._key
        )
        query = "select concat_ws(', ', {listed}), count(*) over () from " + source + f" limit {SHOWN}"  # noqa: S608  (ours)
        rows = self._execute(query, listed=listed, **more)
        found = rows.fetchall()
        if not found:
            return ""
        return ", ".join(f"({row[0]})" for row in found) + (f" and {found[0][1] - SHOWN} more" if found[0][1] > SHOWN else "")

    def _load(self, temporary: sql.Identifier, file: str, columns: Sequence[str]) -> None:
        query = sql.SQL("copy {} ({}) from stdin").format(temporary, sql.SQL(", ").join(map(sql.Identifier, columns)))
        with (self._folder / file).open("rb") as stream, self._connection.cursor() as cursor, cursor.copy(query) as copy:
            while data := stream.read(BLOCK):
                copy.write(data)

    def _one(self, query: str) -> Any:
        """The single value of a query about this table's oid."""
        row = self._connection.execute(query.encode(), [self.oid]).fetchone()
        return row[0] if row is not None else None

    def _oid(self) -> int:
        row = self._connection.execute(
            "select c.oid::bigint from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = %s",
            list(self._name),
        ).fetchone()
        return int(row[0]) if row is not None else 0

    def _execute(self, query: str, **more: sql.Composable) -> Any:
        return self._connection.execute(self._filled(query, **more))

    def _filled(self, query: str, **more: sql.Composable) -> sql.Composed:
        """The query with the table, the two lists, their columns, and comparisons of keys and whole rows in place."""

        def same(left: str, right: str) -> sql.Composable:
            return sql.SQL(" and ").join(
                sql.SQL("{}.{} = {}.{}").format(
                    sql.Identifier(left), sql.Identifier(key), sql.Identifier(right), sql.Identifier(key)
                )
                for key in self._key
            )

        def row(alias: str) -> sql.Composable:
            listed = (sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column)) for column in self._columns)
            return sql.SQL("row({})::text").format(sql.SQL(", ").join(listed))

        columns: list[str] = getattr(self, "_columns", [])
        return sql.SQL(query).format(
            table=self.table,
            target=self.table if self._parts[0]["root"] else sql.SQL("only {}").format(self.table),
            before=self._before,
            after=self._after,
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            b_is_a=same("b", "a") if getattr(self, "_key", None) else sql.SQL("true"),
            b_is_t=same("b", "t") if getattr(self, "_key", None) else sql.SQL("true"),
            x_is_a=same("x", "a") if getattr(self, "_key", None) else sql.SQL("true"),
            t_is_a=same("t", "a") if getattr(self, "_key", None) else sql.SQL("true"),
            t_row=row("t") if columns else sql.SQL("null"),
            b_row=row("b") if columns else sql.SQL("null"),
            a_row=row("a") if columns else sql.SQL("null"),
            **more,
        )
