"""What an open transaction has destroyed, told by the data: seen from beside, before anybody commits.

A second connection, the witness, still sees every row and every line of the catalogue that the transaction deleted or replaced.
What the witness sees and the transaction no longer sees at the same place (ctid) is lost, exactly, however it came about: by the
statement, a cascade, a trigger, a function. No SQL is read or rewritten for it.

Laws:
- The witness writes nothing and waits for no lock for long: what the transaction has locked against readers is looked at after it
  has been taken back.
- A loss that cannot be brought back is named, never passed over: a line of a catalogue that nothing here knows is `uncovered`.

Sources: PostgreSQL manual, "System Columns" (xmin, xmax, ctid), "System Catalogs", pg_stat_get_xact_* (counts of the open
transaction). A multixact in xmax is no transaction id, so where the counts do not agree every row with an xmax is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]

OWNERS: Final[Mapping[str, str]] = {
    "pg_attrdef": "adrelid",
    "pg_attribute": "attrelid",
    "pg_class": "oid",
    "pg_constraint": "conrelid",
    "pg_foreign_table": "ftrelid",
    "pg_index": "indrelid",
    "pg_inherits": "inhrelid",
    "pg_partitioned_table": "partrelid",
    "pg_policy": "polrelid",
    "pg_rewrite": "ev_class",
    "pg_sequence": "seqrelid",
    "pg_trigger": "tgrelid",
    "pg_type": "typrelid",
}
"""Catalogues whose lines belong to a relation, and the column that says to which: a dump of it has them."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "pg_aggregate": ("aggfnoid",),
    "pg_attribute": ("attrelid", "attnum"),
    "pg_db_role_setting": ("setdatabase", "setrole"),
    "pg_description": ("objoid", "classoid", "objsubid"),
    "pg_foreign_table": ("ftrelid",),
    "pg_index": ("indexrelid",),
    "pg_inherits": ("inhrelid", "inhseqno"),
    "pg_init_privs": ("objoid", "classoid", "objsubid"),
    "pg_largeobject": ("loid", "pageno"),
    "pg_partitioned_table": ("partrelid",),
    "pg_range": ("rngtypid",),
    "pg_seclabel": ("objoid", "objsubid", "provider"),
    "pg_sequence": ("seqrelid",),
    "pg_shdescription": ("objoid", "classoid"),
    "pg_shseclabel": ("objoid", "classoid", "provider"),
    "pg_replication_origin": ("roident",),
    "pg_subscription_rel": ("srrelid", "srsubid"),
    "pg_ts_config_map": ("mapcfg", "maptokentype", "mapseqno"),
}
"""What identifies a line; in every other catalogue it is `oid`."""

BOOKKEEPING: Final = frozenset({"pg_depend", "pg_shdepend", "pg_statistic", "pg_statistic_ext_data"})
"""Kept by the server itself: made again with what it belongs to."""

NOTES: Final = frozenset({"pg_description", "pg_init_privs", "pg_seclabel"})
"""Lines about another line, named by `objoid`."""

UNIMPORTANT: Final = frozenset(
    {
        *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relhasindex", "relhasrules"),
        *("relhastriggers", "relhassubclass", "relfrozenxid", "relminmxid", "relrewrite", "reltoastrelid", "relchecks"),
        *("relnatts", "indcheckxmin", "atthasmissing", "attmissingval", "atthasdef"),
    }
)
"""Columns that change without anything being lost: counters, and what other lines say as well."""

PARTS: Final = frozenset(
    {
        *("pg_attrdef", "pg_class", "pg_constraint", "pg_index", "pg_namespace", "pg_proc", "pg_rewrite", "pg_statistic_ext"),
        "pg_trigger",
    }
)
"""Catalogues whose lines can be made again one by one, see `dbshield.control.definitions`."""

TABLES: Final = "rpmfvS"
"""Kinds of relations that are objects of their own; indexes, toast and row types come with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A relation as it was: its kind is pg_class.relkind."""

    oid: int
    schema: str
    name: str
    kind: str

    @property
    def qualified(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A table that is still there and lost rows: what the server counted in the open transaction."""

    relation: Relation
    inserted: int
    updated: int
    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a catalogue that is gone: what it was, its oid, and the relation that it belonged to (0: none)."""

    catalogue: str
    oid: int
    owner: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Everything that a transaction has destroyed so far.

    `gone` are relations that are no longer there, `emptied` those whose storage was exchanged (TRUNCATE, a rewrite), `changed`
    those that lost rows, `grown` those that only got some; `parts` are lines that can be made again one by one, `uncovered` says
    in words what cannot be.
    """

    gone: tuple[Relation, ...] = ()
    emptied: tuple[Relation, ...] = ()
    changed: tuple[Changed, ...] = ()
    grown: tuple[Changed, ...] = ()
    parts: tuple[Line, ...] = ()
    uncovered: tuple[str, ...] = ()

    @property
    def structural(self) -> bool:
        """Whether the transaction holds locks that keep readers out, so that it has to be taken back to save what it destroys."""
        return bool(self.gone or self.emptied or self.parts)

    @property
    def nothing(self) -> bool:
        return not (self.structural or self.changed or self.uncovered)

    def objects(self) -> list[str]:
        """The names of what a human has to have been shown: relations that go or are emptied, and tables that lose rows."""
        losing = [change.relation for change in self.changed if change.deleted]
        return sorted({str(relation) for relation in (*self.gone, *self.emptied, *losing) if relation.kind != "S"})


class Witness:
    """Compares what `worker`, in its transaction, sees with what `witness` sees. Both are in the same database."""

    def __init__(self, worker: Connection, witness: Connection, *, transaction: int) -> None:
        self._worker = worker
        self._witness = witness
        self._transaction = transaction
        self._counted: dict[int, tuple[int, int, int]] = {}
        self._unseen: dict[str, int] = {}

    def begin(self) -> None:
        """Call it before the statement runs: the server's counts go on from here, also over what was taken back."""
        self._counted = {relation: (inserted, updated, deleted) for relation, inserted, updated, deleted in self._counts()}
        self._unseen = self._unseen_counts()

    def losses(self) -> Losses:
        """What the statement has destroyed."""
        lines = list(self._lost_lines())
        relations = {line.oid: line for line in lines if line.catalogue == "pg_class"}
        emptied, gone, uncovered = [], [], []
        for line in relations.values():
            relation = _relation(line, self._schemas())
            now = line.values["now"]
            if now is None:
                gone.append(relation)
                continue
            if relation.kind in "rmS" and now["relfilenode"] != line.values["was"]["relfilenode"]:
                emptied.append(relation)
            if _differ(line):
                uncovered.append(f"{relation} as it was ({', '.join(_differ(line))})")
        parts, others = self._parts([line for line in lines if line.catalogue != "pg_class"], gone)
        indexes = {relation.oid for relation in gone if relation.kind in "iI"}
        parts += [relations[oid] for oid in indexes if self._stands_alone(relations[oid], lines, gone)]
        counted = list(self._changed({relation.oid for relation in (*gone, *emptied)}))
        return Losses(
            gone=tuple(sorted((each for each in gone if each.kind in TABLES), key=lambda relation: relation.oid)),
            emptied=tuple(sorted((each for each in emptied if each.kind in "rS"), key=lambda relation: relation.oid)),
            changed=tuple(each for each in counted if each.updated or each.deleted),
            grown=tuple(each for each in counted if not (each.updated or each.deleted)),
            parts=tuple(sorted(parts, key=lambda line: (line.catalogue, line.oid))),
            uncovered=tuple(sorted({*uncovered, *others, *self._behind_our_back()})),
        )

    def lost_rows(self, change: Changed) -> sql.Composed:
        """A condition for the witness that is true of the rows that were lost."""
        name = change.relation.qualified
        expected = change.updated + change.deleted
        near = sql.SQL("xmax <> '0'::xid and age(xmax) <= age({}::text::xid)").format(self._low())
        condition = self._but(near, self._places(self._worker, name, near))
        row = self._witness.execute(sql.SQL("select count(*) from only {} where {}").format(name, condition)).fetchone()
        if row is not None and row[0] == expected:
            return condition
        marked = sql.SQL("xmax <> '0'::xid")
        return self._but(marked, self._places(self._worker, name, marked))

    def new_rows(self, relation: Relation) -> sql.Composed:
        """A condition for the worker that is true of the rows as the transaction left them."""
        candidates = sql.SQL("age(xmin) <= age({}::text::xid)").format(self._low())
        return self._but(candidates, self._places(self._witness, relation.qualified, candidates))

    @staticmethod
    def _but(candidates: sql.Composable, places: list[str]) -> sql.Composed:
        return sql.SQL("({} and ctid <> all({}::tid[]))").format(candidates, sql.Literal(places))

    def _low(self) -> sql.Literal:
        """The transaction id as xmin and xmax have it: without the epoch."""
        return sql.Literal(str(self._transaction % (1 << 32)))

    @staticmethod
    def _places(connection: Connection, name: sql.Identifier, candidates: sql.Composable) -> list[str]:
        query = sql.SQL("select ctid::text from only {} where {}").format(name, candidates)
        return [place for (place,) in connection.execute(query)]

    # -- rows

    def _counts(self) -> list[tuple[int, int, int, int]]:
        """Tables that the transaction may have written, with the server's counts of it."""
        query = """
            select l.relation::bigint, pg_stat_get_xact_tuples_inserted(l.relation), pg_stat_get_xact_tuples_updated(l.relation),
                   pg_stat_get_xact_tuples_deleted(l.relation)
            from (select distinct relation from pg_locks where pid = pg_backend_pid() and locktype = 'relation'
                  and database = (select oid from pg_database where datname = current_database())
                  and mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) l
        """
        return [(row[0], row[1], row[2], row[3]) for row in self._worker.execute(query)]

    def _changed(self, besides: set[int]) -> Iterator[Changed]:
        counts = {row[0]: row[1:] for row in self._counts() if row[0] not in besides}
        query = """
            select c.oid::bigint, n.nspname, c.relname, c.relkind::text
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.oid = any(%s::bigint[]::oid[]) and c.relkind in ('r', 'f')
              and n.nspname not in ('pg_catalog', 'pg_toast', 'information_schema')
              and (n.nspname !~ '^pg_' or n.nspname ~ '^pg_temp')
            order by c.oid
        """
        for oid, schema, name, kind in self._worker.execute(query, [list(counts)]):
            before = self._counted.get(oid, (0, 0, 0))
            inserted, updated, deleted = (now - then for now, then in zip(counts[oid], before, strict=True))
            if inserted or updated or deleted:
                relation = Relation(oid=oid, schema=schema, name=name, kind=kind)
                yield Changed(relation=relation, inserted=inserted, updated=updated, deleted=deleted)

    # -- the catalogue

    def _schemas(self) -> dict[str, str]:
        query = "select oid::text, nspname::text from pg_namespace"
        return {str(row[0]): str(row[1]) for row in self._witness.execute(query)}

    def _lost_lines(self) -> Iterator[Line]:
        """Lines of all catalogues that the witness sees and the worker does not, each with what it was and what it is now."""
        for catalogue in self._catalogues():
            name = sql.Identifier("pg_catalog", catalogue)
            still = self._places(self._worker, name, sql.SQL("xmax <> '0'::xid"))
            lost = self._witness.execute(
                sql.SQL("select to_jsonb(c) from {} c where xmax <> '0'::xid and ctid <> all(%s::tid[])").format(name), [still]
            ).fetchall()
            key = KEYS.get(catalogue, ("oid",))
            for (was,) in lost:
                now = self._now(name, key, was)
                owner = int(was.get(OWNERS.get(catalogue, ""), 0) or 0)
                yield Line(catalogue=catalogue, oid=int(was.get("oid", 0)), owner=owner, values={"was": was, "now": now})

    def _now(self, name: sql.Identifier, key: tuple[str, ...], was: Mapping[str, Any]) -> Any:
        where = sql.SQL(" and ").join(sql.SQL("{}::text = %s").format(sql.Identifier(column)) for column in key)
        row = self._worker.execute(
            sql.SQL("select to_jsonb(c) from {} c where {}").format(name, where), [str(was[column]) for column in key]
        ).fetchone()
        return row[0] if row is not None else None

    def _unseen_counts(self) -> dict[str, int]:
        """Changes of catalogues that this role may not read (pg_authid, pg_largeobject), as the server counts them."""
        query = """
            select relname::text, pg_stat_get_xact_tuples_updated(oid) + pg_stat_get_xact_tuples_deleted(oid) from pg_class
            where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r' and not has_table_privilege(oid, 'select')
        """
        return {str(name): int(count) for name, count in self._worker.execute(query) if name not in BOOKKEEPING}

    def _behind_our_back(self) -> list[str]:
        now = self._unseen_counts()
        return [
            f"{name} (changed; the executor's role may not read it)" for name in now if now[name] != self._unseen.get(name, 0)
        ]

    def _catalogues(self) -> list[str]:
        query = """
            select relname::text from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r'
              and has_table_privilege(oid, 'select') order by 1
        """
        return [name for (name,) in self._witness.execute(query) if name not in BOOKKEEPING]

    def _parts(self, lines: list[Line], gone: list[Relation]) -> tuple[list[Line], list[str]]:
        """The lines that do not come with a relation that is gone: those that can be made again, and the others in words."""
        owners = {relation.oid for relation in gone}
        covered = {line.oid for line in lines if line.owner in owners} | owners
        # The array type of a row type.
        covered |= {line.oid for line in lines if line.catalogue == "pg_type" and int(line.values["was"]["typelem"]) in covered}
        described = covered | {line.oid for line in lines if line.catalogue == "pg_statistic_ext"}
        parts, uncovered = [], []
        for line in lines:
            if line.owner in owners or (line.oid and line.oid in covered) or not _gone_or_differs(line):
                continue
            if line.catalogue in NOTES and int(line.values["was"]["objoid"]) in described:
                continue
            if line.catalogue == "pg_index" or (line.catalogue == "pg_trigger" and line.values["was"]["tgisinternal"]):
                continue  # Lines of pg_class and pg_constraint say the same.
            if line.catalogue in PARTS and line.values["now"] is None and _makeable(line):
                parts.append(line)
            else:
                uncovered.append(_in_words(line))
        return parts, uncovered

    @staticmethod
    def _stands_alone(index: Line, lines: Iterable[Line], gone: list[Relation]) -> bool:
        """Whether an index that is gone has to be made again by itself: its table stays, and no constraint brings it."""
        relations = {relation.oid for relation in gone}
        for line in lines:
            if line.catalogue == "pg_index" and int(line.values["was"]["indexrelid"]) == index.oid and line.owner in relations:
                return False
            if (
                line.catalogue == "pg_constraint"
                and int(line.values["was"]["conindid"]) == index.oid
                and line.values["was"]["contype"] in "pux"
            ):
                return False
        return index.values["was"]["relkind"] in "iI" and not index.values["was"]["relispartition"]


def _relation(line: Line, schemas: Mapping[str, str]) -> Relation:
    was = line.values["was"]
    return Relation(
        oid=line.oid, schema=schemas.get(str(was["relnamespace"]), "?"), name=str(was["relname"]), kind=str(was["relkind"])
    )


def _differ(line: Line) -> list[str]:
    """The columns that say something else now, without those that mean nothing."""
    was, now = line.values["was"], line.values["now"]
    return [column for column in was if column not in UNIMPORTANT and was[column] != now.get(column)]


def _gone_or_differs(line: Line) -> bool:
    return line.values["now"] is None or bool(_differ(line))


def _makeable(line: Line) -> bool:
    """Whether a definition of it can be written."""
    was = line.values["was"]
    if line.catalogue == "pg_proc":
        return was["prokind"] in {"f", "p", "w"}
    return line.catalogue != "pg_constraint" or line.owner != 0


def _in_words(line: Line) -> str:
    was = line.values["was"]
    name = next((str(was[key]) for key in was if key.endswith("name") and was[key]), "")
    where = f" of relation {line.owner}" if line.owner else ""
    change = "changed" if line.values["now"] is not None else "gone"
    return f"{line.catalogue.removeprefix('pg_')} {name}{where} ({change})".replace("  ", " ")
