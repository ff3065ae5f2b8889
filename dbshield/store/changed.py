"""Writing and reading the rows that agents changed, minute by minute."""

from __future__ import annotations

from typing import NamedTuple

from dbshield.store.schema import ROWS_CHANNEL, SCHEMA

KEPT_MINUTES = 120
"""An hour is looked at; the second one is for clocks that differ."""


class Place(NamedTuple):
    """Where rows changed and when: `minute` counts from 1970, UTC."""

    environment: str
    agent: str
    database: str
    table: str
    minute: int


ADD_ROWS = f"""
    with written as (
        insert into {SCHEMA}.changed_rows as kept (environment, agent, database, table_name, minute, rows)
        select environment, agent, database, table_name, to_timestamp(minute * 60), rows
        from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
            as given (environment, agent, database, table_name, minute, rows)
        order by 1, 2, 3, 4, 5
        on conflict (environment, agent, database, table_name, minute) do update set rows = kept.rows + excluded.rows
        returning environment, agent, database, table_name, (extract(epoch from minute) / 60)::bigint as minute, rows
    )
    select environment, agent, database, table_name, minute, rows,
           pg_notify('{ROWS_CHANNEL}', json_build_array(environment, agent, database, table_name, minute, rows)::text)
    from written
"""  # noqa: S608  (constants of ours)
"""Adds what one process counted and tells the others the new totals. In the order of the key, so that two processes never wait
for each other. A total only grows, so whoever hears it twice or late takes the larger one and is right."""

ROWS_SINCE = f"""
    select environment, agent, database, table_name, (extract(epoch from minute) / 60)::bigint, rows
    from {SCHEMA}.changed_rows
    where minute >= to_timestamp(%s::bigint * 60)
"""  # noqa: S608

FORGET_ROWS = f"delete from {SCHEMA}.changed_rows where minute < to_timestamp(%s::bigint * 60)"  # noqa: S608
