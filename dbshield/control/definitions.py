"""Parts of the structure as SQL that makes them again, read from the catalogue while they are still there.

What belongs to a relation comes with pg_dump's dump of it. These are the others: a foreign key of a table that stays, a trigger,
an index, a rule, a default, a function, a schema. Each text names everything with its schema.

Source: PostgreSQL manual, "System Catalog Information Functions" (pg_get_*def), aclexplode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from dbshield.control.witness import Line

Connection = psycopg.Connection[tuple[Any, ...]]

OF_INDEX: Final = """
    || coalesce((
        select coalesce(format('; comment on index %%s is ', c.oid::regclass)
                        || quote_literal(obj_description(c.oid, 'pg_class')), '')
            || case when i.indisclustered then format('; alter table %%s cluster on %%I', i.indrelid::regclass, c.relname)
               else '' end
            || case when i.indisreplident
               then format('; alter table %%s replica identity using index %%I', i.indrelid::regclass, c.relname) else '' end
            || coalesce((
                select string_agg(format('; alter index %%s alter column %%s set statistics %%s', c.oid::regclass, a.attnum,
                                         a.attstattarget), '' order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attstattarget >= 0), '')
        from pg_index i join pg_class c on c.oid = i.indexrelid where c.oid = {oid}), '')
"""
"""What is said of an index besides its definition, as pg_dump says it."""
CONSTRAINT: Final = (
    """
    select format('alter table %%s add constraint %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
"""
    + OF_INDEX.format(oid="case when contype in ('p', 'u', 'x') then conindid end")
    # A trigger says itself that it is a constraint.
    + "from pg_constraint where oid = %(oid)s::oid and conparentid = 0 and contype <> 't'"
)
TRIGGER: Final = """
    with recursive every as (
        select 0 as level, t.* from pg_trigger t where t.oid = %(oid)s::oid and t.tgparentid = 0
        union all
        select every.level + 1, t.* from every join pg_trigger t on t.tgparentid = every.oid)
    select pg_get_triggerdef(t.oid)
        || coalesce((select string_agg(format('; alter table only %%s %%s trigger %%I', e.tgrelid::regclass,
               case e.tgenabled when 'D' then 'disable' when 'A' then 'enable always' when 'R' then 'enable replica'
               else 'enable' end, e.tgname), '' order by e.level, e.oid) from every e where e.tgenabled <> 'O'), '')
    from every t where t.level = 0
"""
"""Those of the partitions come with it, each in a state of its own."""
INDEX: Final = "".join(
    (
        """
    with every as (
        select relid, case when level > 0 then parentrelid end as parent, level from pg_partition_tree(%(oid)s::oid::regclass)
        union all
        select oid::regclass, null, 0 from pg_class where oid = %(oid)s::oid and relkind = 'i' and not relispartition),
    made as (
        select level, relid::oid, pg_get_indexdef(relid)
            || case when parent is null then '' else format('; alter index %%s attach partition %%s', parent, relid) end
""",
        OF_INDEX.format(oid="every.relid"),
        """ as text from every)
    select string_agg(text, '; ' order by level, relid) from made
""",
    )
)
"""Of a partitioned index with those of all partitions: its own definition is of it alone."""
RULE: Final = "select pg_get_ruledef(oid) from pg_rewrite where oid = %(oid)s::oid"
DEFAULT: Final = """
    select format('alter table %%s alter column %%I set default %%s',
                  d.adrelid::regclass, a.attname, pg_get_expr(d.adbin, d.adrelid))
    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.oid = %(oid)s::oid and a.attgenerated = ''
"""
RIGHTS: Final = """
    || coalesce((select '; ' || string_agg(t, '; ') from (
        select format('revoke all on {word} %%s from public, %%I', {name}, owner.rolname) as t
        where {acl} is not null
        union all
        select format('grant %%s on {word} %%s to %%s%%s', a.privilege_type, {name},
                      case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
                      case when a.is_grantable then ' with grant option' else '' end)
        from aclexplode({acl}) a) as rights), '')
"""
FUNCTION: Final = (
    """
    select pg_get_functiondef(p.oid) || format('; alter routine %%s owner to %%I', p.oid::regprocedure, owner.rolname)
"""
    + RIGHTS.format(word="routine", name="p.oid::regprocedure", acl="p.proacl")
    + "from pg_proc p join pg_roles owner on owner.oid = p.proowner where p.oid = %(oid)s::oid"
)
SCHEMA: Final = (
    "select format('create schema %%I authorization %%I', n.nspname, owner.rolname)"
    + RIGHTS.format(word="schema", name="quote_ident(n.nspname)", acl="n.nspacl")
    + "from pg_namespace n join pg_roles owner on owner.oid = n.nspowner where n.oid = %(oid)s::oid"
)

STATISTICS: Final = """
    select pg_get_statisticsobjdef(s.oid) || format('; alter statistics %%s owner to %%I', named.name, owner.rolname)
        || case when s.stxstattarget >= 0 then format('; alter statistics %%s set statistics %%s', named.name, s.stxstattarget)
           else '' end
        || coalesce(format('; comment on statistics %%s is ', named.name)
               || quote_literal(obj_description(s.oid, 'pg_statistic_ext')), '')
    from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace join pg_roles owner on owner.oid = s.stxowner
    cross join lateral (select format('%%I.%%I', n.nspname, s.stxname) as name) as named
    where s.oid = %(oid)s::oid
"""
"""Extended statistics, which pg_dump leaves out of a dump of their table."""
OWNED: Final = """
    select format('alter sequence %%s owned by %%s.%%I', d.objid::regclass, d.refobjid::regclass, a.attname)
    from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'a'
      and d.objid = any(%(gone)s::oid[]) and d.refobjid <> all(%(gone)s::oid[])
      and exists (select from pg_class c where c.oid = d.objid and c.relkind = 'S')
    order by d.objid
"""
"""Sequences of tables that stay."""

FIRST: Final = {"pg_namespace": SCHEMA, "pg_proc": FUNCTION}
"""What tables may need, so it is made before them."""
LAST: Final = {
    "pg_attrdef": DEFAULT,
    "pg_class": INDEX,
    "pg_constraint": CONSTRAINT,
    "pg_rewrite": RULE,
    "pg_statistic_ext": STATISTICS,
    "pg_trigger": TRIGGER,
}
"""What needs the tables and their rows, in the order `ORDER`."""
ORDER: Final = (
    *("pg_namespace", "pg_proc", "pg_attrdef", "pg_class", "pg_constraint", "pg_rewrite", "pg_statistic_ext", "pg_trigger"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """SQL texts, in the order in which they are run: `first` before the tables, `last` after their rows."""

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def definitions(connection: Connection, parts: Iterable[Line], gone: Iterable[int]) -> Definitions:
    """How the parts are made again, and what ties the relations `gone` (oids) to those that stay. The connection sees them, and
    its search_path is empty, so that names come with schemas."""
    ordered = sorted(parts, key=lambda line: (ORDER.index(line.catalogue), _rank(line), line.oid))
    owned = [str(row[0]) for row in connection.execute(OWNED.encode(), {"gone": list(gone)})]
    return Definitions(first=tuple(_texts(connection, ordered, FIRST)), last=(*_texts(connection, ordered, LAST), *owned))


def _texts(connection: Connection, parts: Iterable[Line], queries: dict[str, str]) -> Iterator[str]:
    for line in parts:
        if line.catalogue in queries:
            row = connection.execute(queries[line.catalogue].encode(), {"oid": line.oid}).fetchone()
            # What a parent brings (the constraint of a partition, say) has no text of its own.
            if row is not None and row[0]:
                yield str(row[0])


def _rank(line: Line) -> int:
    """Keys before foreign keys, which need them."""
    return "puxcnf".find(str(line.values["was"].get("contype", "p")))
