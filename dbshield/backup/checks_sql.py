"""The checks of a restored server that are questions in SQL, each against the record of its snapshot.

None of them changes anything. Foreign keys and sequences are looked at in the rows themselves: that a constraint is there says
what held when it was made.

Source: PostgreSQL manual, pg_constraint, pg_index, pg_depend; RI_Initial_Check in src/backend/utils/adt/ri_triggers.c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from dbshield.backup import look
from dbshield.backup.canary import exists_for
from dbshield.backup.checks import Found, NotChecked
from dbshield.backup.record import DatabaseRecord, Difference, Record, compare_sequences, compare_tables
from dbshield.backup.source import Connection, Source, told

FOREIGN_KEYS = """
    select c.conname::text, c.conrelid::regclass::text, c.confrelid::regclass::text, c.confmatchtype::text,
        (select relkind = 'p' from pg_class where oid = c.conrelid), (select relkind = 'p' from pg_class where oid = c.confrelid),
        array(select a.attname::text from unnest(c.conkey) with ordinality k(n, i)
            join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.n order by k.i),
        array(select a.attname::text from unnest(c.confkey) with ordinality k(n, i)
            join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.n order by k.i),
        array(select n.nspname::text from unnest(c.conpfeqop) with ordinality k(o, i)
            join pg_operator p on p.oid = k.o join pg_namespace n on n.oid = p.oprnamespace order by k.i),
        array(select p.oprname::text from unnest(c.conpfeqop) with ordinality k(o, i)
            join pg_operator p on p.oid = k.o order by k.i),
        c.convalidated and coalesce((to_jsonb(c) ->> 'conenforced')::bool, true)
            and not coalesce((to_jsonb(c) ->> 'conperiod')::bool, false)
    from pg_constraint c
    where c.contype = 'f' and c.conparentid = 0
    order by 2, 1
"""
"""`conenforced` and `conperiod` are columns since 18. A partition's keys are looked at through its parent's."""
INVALID_INDEXES = "select indexrelid::regclass::text from pg_index where not indisvalid or not indisready order by 1"
OWNED_SEQUENCES = """
    select s.oid::regclass::text, ns.nspname::text, s.relname::text, q.seqincrement > 0,
        t.oid::regclass::text, a.attname::text, pg_sequence_last_value(s.oid)
    from pg_class s join pg_namespace ns on ns.oid = s.relnamespace join pg_sequence q on q.seqrelid = s.oid
    join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.oid and d.refclassid = 'pg_class'::regclass
        and d.deptype in ('a', 'i')
    join pg_class t on t.oid = d.refobjid
    join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
    where s.relkind = 'S' and t.relkind <> 'f' and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    order by 1
"""
"""Sequences that feed a column of whole numbers (serial, identity)."""
TREE = """
    with recursive tree(oid) as (
        select %s::regclass::oid union select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.oid
    )
    select n.nspname::text, c.relname::text, c.relkind = 'f'
    from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'f')
    order by 1, 2
"""
"""A table and what is below it, as far as there are rows in it, and which of them are on another server."""


def compared(kept: Record, found: Sequence[DatabaseRecord]) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """What differs in counts, and what differs in content."""
    there = {database.name: database for database in found}
    rows: list[Difference] = []
    content: list[Difference] = []
    for expected in kept.databases:
        restored = there.get(expected.name)
        if restored is None:
            rows.append(Difference(what=expected.name, expected="a database", found="not there"))
            continue
        for difference in compare_tables(expected, restored):
            is_content = difference.expected.startswith(("the content ", "a sample "))
            (content if is_content else rows).append(difference)
    return tuple(rows), tuple(content)


def _require_counted(kept: Record) -> None:
    if kept.base is not None and kept.base.inexact:
        raise NotChecked(f"nothing was counted when the snapshot was made: {kept.base.inexact}")


def rows(kept: Record, differences: Sequence[Difference]) -> Found:
    """Every table has as many rows as the record says, and there is none that it does not know."""
    _require_counted(kept)
    counted = [table for database in kept.databases for table in database.tables if table.rows is not None]
    total = sum(table.rows or 0 for table in counted)
    return Found(measure=f"{len(counted)} tables, {total} rows", problems=tuple(map(str, differences)))


def content(kept: Record, differences: Sequence[Difference]) -> Found:
    """Every fingerprint is the recorded one. What has none, or one of a sample, is said."""
    _require_counted(kept)
    tables = [table for database in kept.databases for table in database.tables]
    whole = sum(table.sample == 1 and not table.skipped for table in tables)
    parts = [f"{whole} tables in full"]
    parts += [
        f"{table.schema}.{table.name} {f'1 row in {table.sample}' if table.sample else 'not at all'}"
        for table in tables
        if not table.skipped and table.sample != 1
    ]
    parts += [f"{table.schema}.{table.name} left out ({table.skipped})" for table in tables if table.skipped]
    return Found(measure="; ".join(parts), problems=tuple(map(str, differences)))


def canary(source: Source, kept: Record) -> Found:
    """The row from right before the snapshot is there, and the one from after it is not."""
    if kept.canary is None:
        raise NotChecked(f"none was written: {kept.no_canary or 'the record says nothing of why'}")
    with source.connect(kept.canary.database) as connection, told("the canary"):
        before = exists_for(connection, kept.canary.before, "before")
        after = exists_for(connection, kept.canary.after, "after")
    problems = []
    if not before:
        problems.append(f"the row of {kept.canary.before_at}, written before the snapshot, is not there")
    if after:
        problems.append(f"the row of {kept.canary.after_at}, written after the snapshot, is there")
    return Found(measure=f"written at {kept.canary.before_at}; the next one, of {kept.canary.after_at}, is not there",
                 problems=tuple(problems))  # fmt: skip


def canary_past(source: Source, kept: Record) -> Found:
    """Both rows are there, where the moment comes after the snapshot: so WAL from after it was replayed."""
    if kept.canary is None:
        raise NotChecked(f"none was written: {kept.no_canary or 'the record says nothing of why'}")
    with source.connect(kept.canary.database) as connection, told("the canary"):
        there = {moment: exists_for(connection, kept.canary.before, moment) for moment in ("before", "after")}
    return Found(
        measure=f"the row of {kept.canary.after_at}, written after the snapshot, is there",
        problems=tuple(
            f"the row that was written {moment} the snapshot is not there" for moment, is_there in there.items() if not is_there
        ),
    )


def foreign_keys(source: Source, kept: Record) -> Found:
    """No row refers to one that is not there, by a query for each key."""
    looked, left, problems = 0, 0, []
    for database in kept.databases:
        with source.connect(database.name) as connection, told(f"the foreign keys of {database.name}"):
            for row in connection.execute(FOREIGN_KEYS).fetchall():
                name, table, *_, holds = row
                if not holds:
                    left += 1
                    continue
                looked += 1
                (lost,) = connection.execute(_orphans(row)).fetchone() or (0,)
                if lost:
                    problems.append(f"{database.name}: {table}: {lost} rows refer to nothing by {name}")
    measure = f"{looked} keys" + (f"; {left} that are not validated, not enforced or of periods left out" if left else "")
    return Found(measure=measure, problems=tuple(problems))


def _orphans(row: Sequence[Any]) -> sql.Composed:
    """How many rows of a table have a key that the other table does not have, with the constraint's own operators."""
    _, table, other, match, parted, other_parted, columns, referred, schemas, operators, _ = row
    here = [sql.Identifier("f", name) for name in columns]
    there = [sql.Identifier("p", name) for name in referred]
    joined = sql.SQL(" and ").join(
        sql.SQL("{} operator({}.{}) {}").format(right, sql.Identifier(schema), sql.SQL(operator), left)
        for left, right, schema, operator in zip(here, there, schemas, operators, strict=True)
    )
    # MATCH FULL: a key with some columns null refers to nothing, and may not be.
    given = sql.SQL(" or " if match == "f" else " and ").join(sql.SQL("{} is not null").format(column) for column in here)
    return sql.SQL("select count(*) from {} {} f where ({}) and not exists (select from {} {} p where {})").format(
        sql.SQL("" if parted else "only"), sql.SQL(table), given,
        sql.SQL("" if other_parted else "only"), sql.SQL(other), joined,
    )  # fmt: skip


def indexes(source: Source, kept: Record) -> Found:
    """No index was left half made."""
    problems, count = [], 0
    for database in kept.databases:
        with source.connect(database.name) as connection, told(f"the indexes of {database.name}"):
            problems += [f"{database.name}: {name} is not valid" for (name,) in connection.execute(INVALID_INDEXES)]
            count += (connection.execute("select count(*) from pg_index where indrelid >= 16384").fetchone() or (0,))[0]
    return Found(measure=f"{count} indexes", problems=tuple(problems))


def roles(source: Source, kept: Record) -> Found:
    """Every role of the record, with its attributes, settings and memberships. Grants are in the schema's text.

    The superuser that the restored server was made with is its own; that it is there suffices.
    """
    with source.connect(kept.databases[0].name) as connection, told("the roles"):
        there, members = look.roles(connection), set(look.members(connection))
        me = str((connection.execute("select current_user::text").fetchone() or ("",))[0])
    problems = []
    for name, attributes in kept.roles.items():
        if name not in there:
            problems.append(f"the role {name} is not there")
        elif name != me and dict(there[name]) != dict(attributes):
            problems.append(f"the role {name} has other attributes: {_differing(attributes, there[name])}")
    problems += [f"{member} is no member of {role}" for role, member in kept.members if (role, member) not in members]
    return Found(measure=f"{len(kept.roles)} roles, {len(kept.members)} memberships", problems=tuple(problems))


def _differing(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return ", ".join(sorted(name for name in expected if expected[name] != found.get(name)))


def extensions(kept: Record, found: Sequence[DatabaseRecord]) -> Found:
    """Every extension is there. Another version is said and no failure: it is that of the programs here, not of the snapshot."""
    there = {database.name: database for database in found}
    problems, count, others = [], 0, []
    for database in kept.databases:
        restored = there[database.name].extensions if database.name in there else {}
        for name, version in database.extensions.items():
            count += 1
            if name not in restored:
                problems.append(f"{database.name}: the extension {name} is not there")
            elif restored[name] != version:
                others.append(f"{name} {restored[name]} in place of {version}")
    return Found(measure="; ".join([f"{count} extensions", *others]), problems=tuple(problems))


def sequences(source: Source, kept: Record, found: Sequence[DatabaseRecord]) -> Found:
    """No sequence is behind the record, or behind the column that it feeds unless the source's was as well."""
    there = {database.name: database for database in found}
    problems, count, behind = [], 0, []
    for database in kept.databases:
        if database.name not in there:
            continue
        count += len(database.sequences)
        late = compare_sequences(database, there[database.name])
        problems += list(map(str, late))
        known = {(sequence.schema, sequence.name) for sequence in database.sequences}
        late_names = {difference.what for difference in late}
        with source.connect(database.name) as connection, told(f"the sequences of {database.name}"):
            for shown, schema, name, rising, table, column, last in connection.execute(OWNED_SEQUENCES).fetchall():
                if not _is_behind(connection, table, column, last, rising=rising):
                    continue
                if (schema, name) in known and f"{database.name}: the sequence {schema}.{name}" not in late_names:
                    # It is as far as the record says, and so are the rows: the source had it so.
                    behind.append(f"{shown} is behind {table}.{column}, in the source as well")
                else:
                    problems.append(f"{database.name}: {shown} is behind {table}.{column}")
    return Found(measure="; ".join([f"{count} sequences", *behind]), problems=tuple(dict.fromkeys(problems)))


def _is_behind(connection: Connection, table: str, column: str, last: int | None, *, rising: bool) -> bool:
    """Whether a sequence would give out a number that its column has, or has passed."""
    extreme = sql.SQL("max" if rising else "min")
    query = sql.SQL("select {}({}) from {}").format(extreme, sql.Identifier(column), sql.SQL(table))
    tree = connection.execute(TREE, [table]).fetchall()
    if any(foreign for *_, foreign in tree):
        # A drill speaks with no other server.
        here = [
            sql.SQL("select {} from only {}").format(sql.Identifier(column), sql.Identifier(schema, name))
            for schema, name, foreign in tree
            if not foreign
        ]
        if not here:
            return False
        query = sql.SQL("select {}({}) from ({}) t").format(extreme, sql.Identifier(column), sql.SQL(" union all ").join(here))
    (reached,) = connection.execute(query).fetchone() or (None,)
    if reached is None:
        return False
    if last is None:
        # It has not begun; only numbers that it will come to are in its way.
        return bool(reached > 0) if rising else bool(reached < 0)
    return bool(reached > last) if rising else bool(reached < last)
