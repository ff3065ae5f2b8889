"""Bringing back what an approved statement destroyed: all of it in one transaction, or nothing.

First everything that stands in the way is looked for and told: a relation that is there again, a row that somebody changed or
whose key is taken, a table that has other columns now. Where there is anything, nothing is touched. What only the server can tell
(a foreign key whose row is missing, a value that another row has now) makes the transaction fail, and is told the same way.

Rows are found by their primary key; in a table without one by all that they hold. Triggers of the tables stay silent while rows
come back, because what they did the first time is among the rows that come back; foreign keys and all constraints are checked.

What is not undone, because nothing was destroyed: rows that the statement inserted stay, and are told.

The transaction is recorded before it changes anything. An undo whose commit nobody heard of is not done a second time: rows of a
table without a key would be there twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from dbshield.config import EnvironmentConfig
from dbshield.control.execution import check_server, one, opened
from dbshield.control.undo_files import BLOCK, UndoError, read_manifest
from dbshield.control.undo_order import in_order, put_off
from dbshield.control.undo_points import pin
from dbshield.control.undo_rights import without_default_rights
from dbshield.control.undo_rows import Rows
from dbshield.control.witness import Connection
from dbshield.errors import DbshieldError, Refused

_TRIGGER = re.compile(rb"^CREATE TRIGGER ", re.MULTILINE)
"""The guard puts its triggers on a table as soon as there is one, by an event trigger; the script brings the same ones."""


class UndoConflict(DbshieldError):
    """Something stands in the way of an undo; `conflicts` names each, and nothing was changed."""

    def __init__(self, approval: str, conflicts: Sequence[str]) -> None:
        shown = "".join(f"\n- {conflict}" for conflict in conflicts)
        super().__init__(
            f"what {approval} destroyed cannot be brought back as things stand; nothing was changed:{shown}",
            hint="Remove what is in the way and try again; the rows and the structure lie in the undo point's folder, as text.",
        )
        self.conflicts = tuple(conflicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What came back: relations with their rows, rows by table, and what was left as it is, in words."""

    relations: tuple[str, ...]
    rows: Mapping[str, int]
    left: tuple[str, ...]


def undo(
    folder: Path,
    sha256: bytes,
    settings: EnvironmentConfig,
    *,
    environment: str,
    began: Callable[[str], None] = lambda _: None,
    earlier: str | None = None,
) -> Undone:
    """Brings back what the point in `folder` holds. `began` records the transaction that does it, `earlier` is one that an undo
    of this point recorded before: where it was committed, all is back already.

    Raises UndoConflict where something is in the way, UndoError where the point is not as it was written, Refused where the
    server is another one than that it was taken of, or where another undo is at it, or may have been.
    """
    manifest = read_manifest(folder, sha256)
    try:
        with opened(settings.executor_dsn(manifest["database"]), settings) as connection:
            check_server(connection, environment, manifest["system_identifier"])
            if earlier is not None and _was_committed(connection, earlier):
                return _back_already(manifest)
            return _Undo(connection, folder, manifest).run(began)
    except (psycopg.errors.IntegrityError, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable) as error:
        raise UndoConflict(manifest["approval"], [_told(error)]) from error
    except psycopg.Error as error:
        raise UndoError(
            f"the server did not take back what {manifest['approval']} destroyed; nothing was changed: {_told(error)}"
        ) from error


class _Undo:
    """One undo, on one connection."""

    def __init__(self, connection: Connection, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._connection = connection
        self._folder = folder
        self._manifest = manifest
        self._gone = [table for table in manifest["tables"] if table["fate"] == "gone"]

    def run(self, began: Callable[[str], None]) -> Undone:
        connection = self._connection
        pin(connection)
        connection.execute("begin isolation level read committed read write")
        began(str(one(connection, "select pg_current_xact_id()::text")))
        groups = list(self._groups())
        conflicts = [*self._in_the_way()]
        for rows in groups:
            conflicts += rows.prepare()
        if conflicts:
            connection.execute("rollback")
            raise UndoConflict(self._manifest["approval"], conflicts)
        makes = self._manifest["first"] or self._manifest["gone"]
        rights_as_before = without_default_rights(connection) if makes else []
        connection.execute("set local check_function_bodies = off")
        for text in self._manifest["first"]:
            connection.execute(text)
        if self._manifest["gone"]:
            self._script("pre-data.sql")
            self._silence_new_triggers()
        for table in self._gone:
            self._fill(table)
        restored = self._restore_rows(groups)
        self._sequences()
        if self._manifest["gone"]:
            self._script("post-data.sql")
        for text in (*self._manifest["attach"], *self._manifest["last"]):
            connection.execute(text)
        for view in self._manifest["views"]:
            connection.execute(sql.SQL("refresh materialized view {}").format(_identifier(view)))
        for text in rights_as_before:
            connection.execute(text)
        connection.execute("set constraints all immediate")
        grown = (
            f"{each['inserted']} rows that the statement inserted into {each['schema']}.{each['name']} stay"
            for each in self._manifest.get("grown", ())
        )
        left = (*(remark for rows in groups for remark in rows.left), *grown)
        connection.execute("commit")
        counted = {f"{table['schema']}.{table['name']}": table["before"]["rows"] for table in self._gone}
        return Undone(
            relations=tuple(f"{each['schema']}.{each['name']}" for each in self._manifest["gone"]),
            rows={**counted, **restored},
            left=left,
        )

    def _groups(self) -> Iterator[Rows]:
        """The tables that are still there, the partitions of one together, those first that others refer to."""
        tables = [table for table in self._manifest["tables"] if table["fate"] != "gone"]
        names: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for table in tables:
            names.setdefault(tuple(table["root"]) if table["root"] else (table["schema"], table["name"]), []).append(table)
        found = [Rows(self._connection, self._folder, name, parts) for name, parts in names.items()]
        yield from in_order(self._connection, found)

    def _in_the_way(self) -> Iterator[str]:
        """What is there that was gone, and what has to be there and is not."""
        for each in self._manifest["gone"]:
            if one(self._connection, "select to_regclass(%s)::text", _quoted(each)) is not None:
                yield f"{each['schema']}.{each['name']} is there again"
        made = " ".join(self._manifest["first"])
        for schema in sorted({each["schema"] for each in self._manifest["gone"]}):
            there = one(self._connection, "select to_regnamespace(quote_ident(%s))::text", schema) is not None
            if not there and f"create schema {_ident(self._connection, schema)} " not in made:
                yield f"the schema {schema} is not there any more"

    def _script(self, name: str) -> None:
        """Runs one section of pg_dump's script, whose settings are for itself alone."""
        script = (self._folder / name).read_bytes()
        for made in self._triggers_there():
            # The guard was faster, and its functions are not everybody's to put on a table.
            script = script.replace(made.encode() + b";\n", b"", 1)
        self._connection.execute(_TRIGGER.sub(b"CREATE OR REPLACE TRIGGER ", script))
        pin(self._connection)
        self._connection.execute("select pg_catalog.set_config('row_security', 'off', false)")

    def _triggers_there(self) -> list[str]:
        """Definitions of the triggers that the tables which come back have already, as pg_dump writes them."""
        query = """
            select pg_get_triggerdef(t.oid, false) from pg_trigger t
            where t.tgrelid in (select to_regclass(name) from unnest(%s::text[]) as name)
              and not t.tgisinternal and t.tgparentid = 0
        """
        names = [_quoted(each) for each in self._manifest["gone"] if each["kind"] in "rpvf"]
        return [str(row[0]) for row in self._connection.execute(query, [names])]

    def _silence_new_triggers(self) -> None:
        """Takes away what event triggers put on the new tables, before rows meet it, unless they had the very same before."""
        script = (self._folder / "post-data.sql").read_text()
        query = """
            select t.tgrelid::regclass::text, quote_ident(t.tgname), pg_get_triggerdef(t.oid, false) from pg_trigger t
            where t.tgrelid = any(%s::text[]::regclass[]) and not t.tgisinternal and t.tgparentid = 0
        """
        names = [_quoted(each) for each in self._manifest["gone"] if each["kind"] in "rpvf"]
        for table, trigger, made in self._connection.execute(query, [names]).fetchall():
            if made not in script:
                self._connection.execute(f"drop trigger if exists {trigger} on {table}".encode())

    def _fill(self, table: Mapping[str, Any]) -> None:
        load(self._connection, self._folder / table["before"]["file"], _identifier(table), table["columns"])

    def _restore_rows(self, groups: Sequence[Rows]) -> dict[str, int]:
        restored = {}
        for rows in groups:
            rows.silence()
        as_before = put_off(self._connection, groups)
        for rows in groups:
            rows.put_back()
        for rows in reversed(groups):
            conflicts = rows.going_with_it()
            if conflicts:
                raise UndoConflict(self._manifest["approval"], conflicts)
            restored[str(rows)] = rows.take_away()
        self._connection.execute("set constraints all immediate")
        for text in as_before:
            self._connection.execute(text)
        for rows in groups:
            rows.unsilence()
        return restored

    def _sequences(self) -> None:
        """A sequence goes on from where it was; one that is further on meanwhile stays there."""
        for each in self._manifest["sequences"]:
            if one(self._connection, "select to_regclass(%s)::text", _quoted(each)) is None:
                raise UndoError(f"the sequence {each['schema']}.{each['name']} is not there")
            query = sql.SQL("select last_value < {} or (last_value = {} and not is_called and {}) from {}").format(
                each["value"], each["value"], each["called"], _identifier(each)
            )
            row = self._connection.execute(query).fetchone()
            if each["gone"] or (row is not None and row[0]):
                self._connection.execute("select setval(%s::regclass, %s, %s)", [_quoted(each), each["value"], each["called"]])


def _was_committed(connection: Connection, transaction: str) -> bool:
    """Whether an undo that began earlier is done. Refused while it goes on, and where the server does not know any more."""
    try:
        status = one(connection, "select pg_catalog.pg_xact_status(%s::text::xid8)", transaction)
    except psycopg.errors.InvalidParameterValue:
        status = None
    if status in {"committed", "aborted"}:
        return bool(status == "committed")
    if status is not None:
        raise Refused("it is being undone right now", sqlstate="55000", hint="`dbshield undo list` tells when it is done.")
    raise Refused(
        "an undo of this was begun before, and the server cannot say what became of it",
        sqlstate="08007",
        hint="Look at the data; what was saved lies in the undo point's folder, as text.",
    )


def _back_already(manifest: Mapping[str, Any]) -> Undone:
    rows: dict[str, int] = {}
    for table in manifest["tables"]:
        name = ".".join(table["root"] or (table["schema"], table["name"]))
        rows[name] = rows.get(name, 0) + table["before"]["rows"]
    return Undone(
        relations=tuple(f"{each['schema']}.{each['name']}" for each in manifest["gone"]),
        rows=rows,
        left=("an earlier undo had brought it back, and was not recorded",),
    )


def load(connection: Connection, file: Path, table: sql.Composable, columns: Sequence[str]) -> None:
    """Copies a file of the point into a table."""
    if not columns:
        return  # and no rows: they would have been refused when the point was taken
    query = sql.SQL("copy {} ({}) from stdin").format(table, sql.SQL(", ").join(map(sql.Identifier, columns)))
    with file.open("rb") as stream, connection.cursor() as cursor, cursor.copy(query) as copy:
        while data := stream.read(BLOCK):
            copy.write(data)


def _identifier(each: Mapping[str, Any]) -> sql.Identifier:
    return sql.Identifier(each["schema"], each["name"])


def _quoted(each: Mapping[str, Any]) -> str:
    return ".".join('"' + str(each[part]).replace('"', '""') + '"' for part in ("schema", "name"))


def _ident(connection: Connection, name: str) -> str:
    return str(one(connection, "select quote_ident(%s)", name))


def _told(error: psycopg.Error) -> str:
    found = error.diag
    detail = f" ({found.message_detail})" if found.message_detail else ""
    return f"{found.message_primary or str(error).strip()}{detail}"
