"""Taking an undo point: everything that a statement destroys, on disk before it is committed.

Two parts, because of what the server's locks allow. What goes as a whole (a dropped or emptied table) is saved before the
statement runs for good, while the transaction keeps writers away and lets readers in: its structure by pg_dump in the
transaction's own snapshot, its rows on the transaction's own connection. Rows that go one by one are saved after it ran and
before the commit: the witness still sees them. Of updated rows the new version is kept as well, so that undo can tell whether
somebody changed them since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from dbshield.control.definitions import definitions
from dbshield.control.dumps import Partition, dump_structure, pg_dump, without_attaching
from dbshield.control.undo_files import Folder
from dbshield.control.witness import Changed, Losses, Relation, Witness
from dbshield.errors import Refused

Connection = psycopg.Connection[tuple[Any, ...]]

FORMAT: Final = 1
PINS: Final = {
    "search_path": "",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
}
"""How values are written and read back: the same on both ways, whatever the role's own settings are."""

HAVE_ROWS: Final = "r"
"""Kinds of relations whose rows are theirs: a partitioned table's are its partitions', a materialized view's are made again."""


PARTITIONS: Final = """
    select c.oid::regclass::text, array(select indexrelid::regclass::text from pg_index where indrelid = c.oid),
           format('alter table only %%s attach partition %%s %%s', i.inhparent::regclass, c.oid::regclass,
                  pg_get_expr(c.relpartbound, c.oid))
    from pg_class c join pg_inherits i on i.inhrelid = c.oid
    where c.relispartition and c.relkind in ('r', 'p', 'f') and c.oid = any(%s::oid[]) and not i.inhparent = any(%s::oid[])
    order by c.oid
"""


def pin(connection: Connection) -> None:
    """Settings under which names mean the catalogue's own and values are written one way."""
    for name, value in PINS.items():
        connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])


class UndoPoint:
    """One point that is being taken. `worker` runs the statement, `beside` sees what was there before."""

    def __init__(self, worker: Connection, beside: Connection, folder: Folder, *, dsn: str) -> None:
        self._worker = worker
        self._beside = beside
        self._folder = folder
        self._dsn = dsn
        self._tables: list[dict[str, Any]] = []
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "gone": [],
            "views": [],
            "sequences": [],
            "first": [],
            "attach": [],
            "last": [],
        }

    def save_structure(self, losses: Losses) -> None:
        """Saves what goes as a whole. The worker took the statement back, keeps writers away, and is in no subtransaction."""
        self._content["gone"] = [_named(relation) for relation in losses.gone]
        made = definitions(self._worker, losses.parts, [relation.oid for relation in losses.gone])
        self._content["first"], self._content["last"] = list(made.first), list(made.last)
        for relation in (*losses.gone, *losses.emptied):
            if relation.kind == "S":
                self._sequence(relation, is_gone=relation in losses.gone)
            elif relation.kind == "m" and self._one("select relispopulated from pg_class where oid = %s::oid", relation.oid):
                self._content["views"].append(_named(relation))
            elif relation.kind in HAVE_ROWS:
                table = self._table(relation, fate="gone" if relation in losses.gone else "emptied")
                self._copy(self._worker, table, "before", sql.SQL("true"))
        if losses.gone:
            program = pg_dump(self._worker.info.server_version // 10000)
            snapshot = str(self._one("select pg_export_snapshot()"))
            partitions = self._partitions(losses)
            for section in ("pre-data", "post-data"):
                script = dump_structure(program, self._dsn, losses.gone, section=section, snapshot=snapshot)
                script, later = without_attaching(script, partitions, section)
                self._content["attach"] += later
                with self._folder.file(f"{section}.sql") as write:
                    write(script)

    def _partitions(self, losses: Losses) -> list[Partition]:
        """Partitions that go while what they are a part of stays: attached last, when they have the indexes that it asks for."""
        gone = [relation.oid for relation in losses.gone]
        found = [
            Partition(name=name, indexes=tuple(indexes), attach=attach)
            for name, indexes, attach in self._worker.execute(PARTITIONS.encode(), [gone, gone])
        ]
        self._content["attach"] = [partition.attach for partition in found]
        return found

    def save_rows(self, losses: Losses, witness: Witness) -> None:
        """Saves rows that go one by one, and how the statement left what it did not drop. The worker has run the statement."""
        for table in self._tables:
            if table["fate"] == "emptied":
                self._copy(self._worker, table, "after", sql.SQL("true"))
        for change in losses.changed:
            table = self._table(change.relation, fate="changed", change=change)
            self._copy(self._beside, table, "before", witness.lost_rows(change))
            self._copy(self._worker, table, "after", witness.new_rows(change.relation))
        self._content["grown"] = [{**_named(change.relation), "inserted": change.inserted} for change in losses.grown]
        grown = {tuple(self._root(change.relation)) for change in losses.grown}
        for root in {tuple(table["root"]) for table in self._tables if table["root"]}:
            _check_partitions(root, [table for table in self._tables if tuple(table["root"]) == root], grown=root in grown)

    def finish(self, **facts: Any) -> tuple[bytes, dict[str, Any]]:
        """Moves the point into place; the SHA-256 of its manifest, and a summary for people."""
        sha256 = self._folder.finish({**self._content, **facts, "tables": self._tables})
        tables = [
            {"table": f"{table['schema']}.{table['name']}", "fate": table["fate"], "rows": table["before"]["rows"]}
            for table in self._tables
        ]
        gone = [f"{each['schema']}.{each['name']}" for each in self._content["gone"]]
        return sha256, {"tables": tables, "gone": gone, "parts": len(self._content["first"]) + len(self._content["last"])}

    def _table(self, relation: Relation, *, fate: str, change: Changed | None = None) -> dict[str, Any]:
        """An entry of the manifest for a table with rows. Refused for one whose rows are on another server."""
        if relation.kind != "r":
            raise Refused(
                f"{relation} is a foreign table, whose rows no undo point holds",
                sqlstate="0A000",
                hint="Approve it with --without-undo.",
            )
        columns = self._beside_columns(relation)
        table: dict[str, Any] = {
            **_named(relation),
            "number": len(self._tables) + 1,
            "fate": fate,
            "root": self._root(relation),
            "columns": [name for name, _ in columns],
            "types": [kind for _, kind in columns],
            "inserted": change.inserted if change else 0,
            "updated": change.updated if change else 0,
            "deleted": change.deleted if change else 0,
        }
        self._tables.append(table)
        return table

    def _root(self, relation: Relation) -> list[str]:
        """Schema and name of the table that this is a partition of, in the end; empty where it is none."""
        query = """
            select json_build_array(n.nspname, r.relname) from pg_class c join pg_class r on r.oid = pg_partition_root(c.oid)
            join pg_namespace n on n.oid = r.relnamespace where c.oid = %s::oid and c.relispartition
        """
        return list(self._one(query, relation.oid) or [])

    def _beside_columns(self, relation: Relation) -> list[tuple[str, str]]:
        """Columns with values of their own, and their types, as they were."""
        query = """
            select attname::text, format_type(atttypid, atttypmod) from pg_attribute
            where attrelid = %s::oid and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
        """
        return [(name, kind) for name, kind in self._beside.execute(query, [relation.oid])]

    def _copy(self, connection: Connection, table: dict[str, Any], when: str, condition: sql.Composable) -> None:
        """The rows that the condition is true of, in COPY's text format: one line a row."""
        file = f"{table['number']}.{when}"
        query = sql.SQL("copy (select {} from only {} where {}) to stdout").format(
            sql.SQL(", ").join(map(sql.Identifier, table["columns"])), sql.Identifier(table["schema"], table["name"]), condition
        )
        rows = 0
        with self._folder.file(file) as write, connection.cursor() as cursor, cursor.copy(query) as copy:
            for block in copy:
                data = bytes(block)
                rows += data.count(b"\n")
                write(data)
        if rows and not table["columns"]:
            raise Refused(
                f"rows of {table['schema']}.{table['name']} hold no value of their own, and no undo point can bring them back",
                sqlstate="0A000",
                hint="Approve it with --without-undo.",
            )
        table[when] = {"file": file, "rows": rows}

    def _sequence(self, relation: Relation, *, is_gone: bool) -> None:
        row = self._worker.execute(sql.SQL("select last_value, is_called from {}").format(relation.qualified)).fetchone()
        if row is not None:
            self._content["sequences"].append({**_named(relation), "value": row[0], "called": row[1], "gone": is_gone})

    def _one(self, query: str, *parameters: Any) -> Any:
        row = self._worker.execute(query.encode(), parameters).fetchone()
        return row[0] if row is not None else None


def _named(relation: Relation) -> dict[str, str]:
    return {"schema": relation.schema, "name": relation.name, "kind": relation.kind}


def _check_partitions(root: tuple[str, ...], tables: Sequence[dict[str, Any]], *, grown: bool) -> None:
    """A row that moves to another partition is deleted here and inserted there, and nothing tells it from two rows."""
    if (grown or any(table["inserted"] for table in tables)) and any(table["deleted"] for table in tables):
        raise Refused(
            f"rows may have moved between the partitions of {'.'.join(root)}, and no undo point can tell those from deleted ones",
            sqlstate="0A000",
            hint="Approve it with --without-undo, or change the rows without their partition key.",
        )
