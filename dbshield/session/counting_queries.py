"""The queries with which the server counts, as they are prepared in every session that may change rows.

Each is named with its schema, so that no search path decides what it means. What is remembered is a JSON object: by the OID of a
table, the row versions that were updated or deleted, and those that were inserted, when the counting began. Each query is flat
and has as few parameters as can be, because the server keeps the plan of such a one: the pair takes 100 µs with ten tables on
PostgreSQL 15, where a pair of all-purpose queries took 270.

Nobody counts the rows of a foreign table. That a transaction writes one shows in its locks, which are looked at where the
database has such tables.
"""

from __future__ import annotations

from typing import Final

FIRST_USER_OID: Final = 16_384
"""FirstNormalObjectId: what initdb made has smaller numbers, so no row of the catalogue is counted."""

_PARTS: Final = {
    "<updated>": "pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)",
    "<inserted>": "pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)",
    "<tables>": f"c.oid >= {FIRST_USER_OID} and c.relkind in ('r', 'm') and c.relpersistence <> 't'",
    "<setting>": "coalesce(pg_catalog.current_setting",
    "<uncounted>": """pg_catalog.current_setting('track_counts') <> 'on'
      or case when exists (select from pg_catalog.pg_foreign_table) then exists (
        select from pg_catalog.pg_locks l join pg_catalog.pg_foreign_table f on f.ftrelid = l.relation
        where l.pid = pg_catalog.pg_backend_pid() and l.mode = 'RowExclusiveLock') else false end""",
    "<text>": "::pg_catalog.text",
    "<number>": "::pg_catalog.int8",
}

_NOW: Final = """(
  select coalesce(pg_catalog.json_object_agg(c.oid, pg_catalog.json_build_array(<updated>, <inserted>))<text>, '{}')
  from pg_catalog.pg_class c where <tables> and <updated> + <inserted> > 0)"""

_BEFORE: Final = """prepare <before> as select
  case when <setting>('dbshield.base', true), '') = '' then pg_catalog.set_config('dbshield.base', <now>, true) end as <before>"""
"""What is remembered already stays."""

_EARLY: Final = _BEFORE.replace("<before>", "<early>")
"""The same before a Parse or Bind, under a name that tells the two apart."""

_COPIES: Final = """prepare <copies> as select
  case when <setting>('dbshield.base', true), '') = '' then pg_catalog.set_config('dbshield.base', <now>, true) end as <before>,
  case when <setting>('dbshield.copies', true), '') = '' then pg_catalog.set_config('dbshield.copies', <now>, true) end"""
"""The same for a statement whose inserted rows count too: all that the transaction inserts from here on."""

_STATE: Final = """
  select nullif(pg_catalog.current_setting('dbshield.base', true), '')::pg_catalog.json as base,
    nullif(pg_catalog.current_setting('dbshield.copies', true), '')::pg_catalog.json as copies"""

_AFTER: Final = """prepare <after> (pg_catalog.int8, pg_catalog.int8, pg_catalog.json) as
select case when why is not null then ('<token>' || why)::pg_catalog.int4<text> else coalesce(rows<text>, '{}') end as <after>
from (
  select rows, case
    when <uncounted> or <setting>('dbshield.base', true), '') = '' then 'uncounted'
    when total > $1 then 'rows ' || total<text> || ' ' || $1<text>
    when spent is not null then 'hour ' || spent
  end as why
  from (
    select pg_catalog.sum(counted) as total, pg_catalog.json_object_agg(name, counted) filter (where counted > 0) as rows,
      pg_catalog.min(name) filter (where counted > coalesce(($3 ->> name)<number>, $2)) as spent
    from (
      select n.nspname<text> || '.' || c.relname<text> as name, <updated> - coalesce((base -> c.oid<text> ->> 0)<number>, 0)
        + case when copies is null then 0 else <inserted> - coalesce((copies -> c.oid<text> ->> 1)<number>, 0) end as counted
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace, (<state> offset 0) state
      where <tables> and <updated> + <inserted> > 0) changed) summed) judged"""
"""$1: rows that the transaction may change; $2: rows of one table, where $3 (a JSON object by table) does not say how many are
left of it. Its error is the cast of a text that is no number."""

_PROTECTED: Final = """prepare <protected> (pg_catalog.int8, pg_catalog.int8, pg_catalog.json, pg_catalog.text[]) as
with state as materialized (<state>),
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
    when <uncounted> or (select base from state) is null then 'uncounted'
    when (select pg_catalog.sum(counted) from changed) > $1
      then 'rows ' || (select pg_catalog.sum(counted) from changed)<text> || ' ' || $1<text>
    when (select name from reached) is not null then 'protected ' || (select name from reached)
    when exists (select from changed where counted > coalesce(($3 ->> name)<number>, $2))
      then 'hour ' || (select pg_catalog.min(name) from changed where counted > coalesce(($3 ->> name)<number>, $2))
  end as why)
select case when why is not null then ('<token>' || why)::pg_catalog.int4<text>
  else (select coalesce(pg_catalog.json_object_agg(name, counted)<text>, '{}') from changed where counted > 0) end as <after>
from reason"""
"""The same where tables are protected. $4: LIKE patterns of tables that must not change, nor any table that is a part of them."""


def statements(*, before: str, early: str, copies: str, after: str, protected: str, token: str) -> str:
    """The text that prepares all of them under these names; `token` begins each of their errors. `before`, `early` and `after`
    are also the names of the columns that they answer with."""
    text = ";\n".join((_BEFORE, _EARLY, _COPIES, _AFTER, _PROTECTED))
    names = {
        "<before>": before,
        "<early>": early,
        "<copies>": copies,
        "<after>": after,
        "<protected>": protected,
        "<token>": token,
    }
    for sign, part in {"<now>": _NOW, "<state>": _STATE, **_PARTS, **names}.items():
        text = text.replace(sign, part)
    return text
