"""On which tables and views an INSERT runs more than itself, as the protected server's catalogue tells.

A row that is only added destroys nothing, so INSERT is not counted for itself. But a trigger, a rule, a default, a CHECK, a row
policy or an index may call what somebody wrote, and that may delete; so there INSERT is counted like any other change. Sources:
PostgreSQL manual, 39 (triggers), 41.4 (rules on INSERT), `catalog-pg-depend`.
"""

from __future__ import annotations

import re
from typing import Final

FIRING: Final = "r"
"""In place of an OID: the row is about a relation."""

_QUERY: Final = """\
select '<firing>', '', c.relname::pg_catalog.text, '', '', '', '', '', '', null from (
    with recursive written as (
        select p.oid from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid operator(pg_catalog.=) p.prolang
        where l.lanname operator(pg_catalog.<>) all (array['c', 'internal']::pg_catalog.name[])
    ),
    called as (
        select d.classid, d.objid from pg_catalog.pg_depend d join written w on w.oid operator(pg_catalog.=) d.refobjid
        where d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
        union all
        select d.classid, d.objid from pg_catalog.pg_operator o join written w on w.oid operator(pg_catalog.=) o.oprcode
        join pg_catalog.pg_depend d on d.refobjid operator(pg_catalog.=) o.oid
            and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
    ),
    -- Domains with a CHECK that calls, and what is built of them: domains, arrays, ranges, rows, and the tables that have these.
    built as (
        select 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid as classid, one.contypid as objid
        from <calling pg_constraint> where one.contypid operator(pg_catalog.<>) 0
        union
        select more.classid, more.objid from built <built of it>
    ),
    fires as (
        select direct.oid from (
            select t.tgrelid as oid from pg_catalog.pg_trigger t join written w on w.oid operator(pg_catalog.=) t.tgfoid
            where not t.tgisinternal and t.tgenabled operator(pg_catalog.<>) 'D'
                and (t.tgtype operator(pg_catalog.&) 4) operator(pg_catalog.<>) 0
            union
            select r.ev_class from pg_catalog.pg_rewrite r
            where r.ev_type operator(pg_catalog.=) '3' and r.ev_enabled operator(pg_catalog.<>) 'D'
            union
            select one.adrelid from <calling pg_attrdef>
            union
            select one.polrelid from <calling pg_policy>
            union
            select one.conrelid from <calling pg_constraint>
            union
            select b.objid from built b where b.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
            union
            select x.indrelid from <calling pg_class>
            join pg_catalog.pg_index x on x.indexrelid operator(pg_catalog.=) one.oid
        ) direct
        union
        select above.oid from fires f cross join lateral (
            select i.inhparent as oid from pg_catalog.pg_inherits i where i.inhrelid operator(pg_catalog.=) f.oid
            union all
            select r.ev_class from pg_catalog.pg_depend d
            join pg_catalog.pg_rewrite r on r.oid operator(pg_catalog.=) d.objid
            where d.classid operator(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                and d.refobjid operator(pg_catalog.=) f.oid
        ) above
    )
    select fires.oid from fires
) found join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) found.oid
where c.relkind operator(pg_catalog.=) any ('{r,p,v,f}'::pg_catalog."char"[])"""

BUILT_OF_IT: Final = """\
cross join lateral (
    select d.classid, d.objid from pg_catalog.pg_depend d
    where d.refclassid operator(pg_catalog.=) built.classid and d.refobjid operator(pg_catalog.=) built.objid
        and d.classid operator(pg_catalog.=) any (
            array['pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass]::pg_catalog.oid[])
    union all
    select 'pg_catalog.pg_type'::pg_catalog.regclass, c.reltype from pg_catalog.pg_class c
    where built.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        and c.oid operator(pg_catalog.=) built.objid and c.reltype operator(pg_catalog.<>) 0
) more"""
"""From types and relations, `built`, to those that have them in themselves. The type of rows does not depend on their relation
where CREATE TYPE made it, but the other way round (GenerateTypeDependencies in `pg_type.c`)."""

_CALLING: Final = re.compile(r"<calling (\w+)>")
_JOIN: Final = (
    r"pg_catalog.\1 one join called on called.objid operator(pg_catalog.=) one.oid"
    r" and called.classid operator(pg_catalog.=) 'pg_catalog.\1'::pg_catalog.regclass"
)
"""With what in a catalogue calls a function that somebody wrote: in a language in which not only superusers create them."""

FIRING_QUERY: Final = _CALLING.sub(_JOIN, _QUERY).replace("<firing>", FIRING).replace("<built of it>", BUILT_OF_IT)
"""The names of these relations, of tables that they are parts of, and of views over them: an INSERT there comes here. The columns
are those of the query for functions, which it is sent with."""
