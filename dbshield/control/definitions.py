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
    + "from pg_constraint where oid = %(oid)s::oid and conparentid = 0"
)
TRIGGER: Final = """
    select pg_get_triggerdef(t.oid)
        || case t.tgenabled when 'O' then '' else format('; alter table %%s %%s trigger %%I', t.tgrelid::regclass,
               case t.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end, t.tgname) end
    from pg_trigger t where t.oid = %(oid)s::oid and t.tgparentid = 0
"""
INDEX: Final = "select pg_get_indexdef(%(oid)s::oid)" + OF_INDEX.format(oid="%(oid)s::oid")
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

FIRST: Final = {"pg_namespace": SCHEMA, "pg_proc": FUNCTION}
"""What tables may need, so it is made before them."""
LAST: Final = {"pg_attrdef": DEFAULT, "pg_class": INDEX, "pg_constraint": CONSTRAINT, "pg_rewrite": RULE, "pg_trigger": TRIGGER}
"""What needs the tables and their rows, in the order `ORDER`."""
ORDER: Final = ("pg_namespace", "pg_proc", "pg_attrdef", "pg_class", "pg_constraint", "pg_rewrite", "pg_trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """SQL texts, in the order in which they are run: `first` before the tables, `last` after their rows."""

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def definitions(connection: Connection, parts: Iterable[Line]) -> Definitions:
    """How the parts are made again. The connection sees them, and its search_path is empty, so that names come with schemas."""
    ordered = sorted(parts, key=lambda line: (ORDER.index(line.catalogue), _rank(line), line.oid))
    return Definitions(first=tuple(_texts(connection, ordered, FIRST)), last=tuple(_texts(connection, ordered, LAST)))


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
