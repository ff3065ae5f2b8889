"""Counts and fingerprints of tables, in one snapshot of the database.

A row's text is what its types' own output functions print (`record_out`), under settings that are pinned, so the same row has the
same text on the source and on a restored server of the same major version. `::text` is not used: the owner of a table can make a
cast from its row type, which would run with the rights of the backup's role. The text is hashed twice with different seeds
(hash_bytes_extended, 64 bits each); both are summed over all rows, so the order of rows does not matter. It tells of rows lost,
added or changed by accident. Against somebody who changes a snapshot on purpose stands its signature.

A table beyond the budget is counted in full; of its rows those of one in n primary keys are fingerprinted, chosen by the key's
hash, so that a restored table gives the same sample.

Source: PostgreSQL manual, "Row Types" and "System Administration Functions"; src/include/common/hashfn.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Event
from typing import Any

import psycopg
from psycopg import sql

from dbshield.backup.record import SequenceRecord, TableRecord

Connection = psycopg.Connection[tuple[Any, ...]]

POLL = 0.2
"""Seconds between two looks at whether somebody said stop."""

PINNED = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    # an error instead of fewer rows, for a role that a policy binds
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # the source serves others meanwhile
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}
SINCE_17 = {"transaction_timeout": "0"}

TABLES = """
    select c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u',
        case when %s and c.relkind = 'r' and x.extname is null then pg_table_size(c.oid) else 0 end, x.extname,
        (select array_agg(a.attname::text order by k.place)
            from pg_index i cross join unnest(i.indkey) with ordinality k(attnum, place)
            join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
            where i.indrelid = c.oid and i.indisprimary and k.place <= i.indnkeyatts)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join lateral (
        select e.extname::text from pg_depend d join pg_extension e on e.oid = d.refobjid
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
        limit 1
    ) x on true
    where c.relkind in ('r', 'm', 'f') and c.relpersistence <> 't'
        and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
    order by 2, 3
"""
"""The size of what is not counted is not asked for: that would wait for whoever refreshes a view."""
SEQUENCES = """
    select s.schemaname::text, s.sequencename::text, s.last_value, c.relpersistence = 'u'
    from pg_sequences s join pg_namespace n on n.nspname = s.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = s.sequencename order by 1, 2
"""
LARGE_OBJECTS = """
    select (select count(*) from pg_largeobject_metadata), has_table_privilege('pg_largeobject', 'select'),
        pg_table_size('pg_largeobject')
"""
COUNT = sql.SQL("select count(*) from only {} t")
ALL = sql.SQL("""
    select count(*), sum(hashtextextended(r collate "C", 0))::text, sum(hashtextextended(r collate "C", 1))::text
    from (select textin(record_out(t.*)) as r from only {} t offset 0) s
""")
SAMPLE = sql.SQL("""
    select count(*), sum(hashtextextended(r collate "C", 0))::text, sum(hashtextextended(r collate "C", 1))::text
    from (
        select case
            when hashtextextended(textin(record_out(row({}))) collate "C", 2) & {} = 0 then textin(record_out(t.*))
        end as r from only {} t offset 0
    ) s
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """What `TABLES` tells of one."""

    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool
    bytes: int
    extension: str | None
    key: tuple[str, ...]
    hidden: bool = False

    @property
    def reason(self) -> str:
        """Why it is not counted; nothing where it is."""
        if self.hidden:
            return "large objects, which the role of the backups may not read all at once"
        if self.kind == "f":
            return "a foreign table: its rows are elsewhere"
        if self.kind == "m":
            return "a materialized view: a restore computes it anew"
        if self.extension is not None:
            return f"a table of the extension {self.extension}"
        return ""


def pin(connection: Connection) -> None:
    """Settings for the transaction that is open, so that every server prints the same text."""
    for name, value in (PINNED | (SINCE_17 if connection.info.server_version >= 170000 else {})).items():
        connection.execute("select set_config(%s, %s, true)", [name, value])


def relations(connection: Connection, *, sized: bool = True) -> tuple[Relation, ...]:
    """Every table of the database, foreign ones and materialized views as well.

    Without `sized` all have no bytes, and no lock that somebody holds is waited for.
    """
    found = [
        Relation(
            oid=oid, schema=schema, name=name, kind=kind, unlogged=unlogged, bytes=size, extension=extension, key=tuple(key or ())
        )
        for oid, schema, name, kind, unlogged, size, extension, key in connection.execute(TABLES, [sized])
    ]
    count, readable, size = connection.execute(LARGE_OBJECTS).fetchone() or (0, False, 0)
    if count:
        place: dict[str, Any] = {"oid": 0, "schema": "pg_catalog", "name": "pg_largeobject", "kind": "r", "unlogged": False}
        found.append(Relation(**place, bytes=size, extension=None, key=(), hidden=not readable))
    return tuple(found)


def sequences(connection: Connection, *, unlogged: bool = True) -> tuple[SequenceRecord, ...]:
    """Every sequence with its last number; those that are not logged only with `unlogged`."""
    return tuple(
        SequenceRecord(schema=schema, name=name, last=last)
        for schema, name, last, volatile in connection.execute(SEQUENCES)
        if unlogged or not volatile
    )


def sample_of(size: int, budget: int, *, has_key: bool) -> int:
    """1 where the whole table fits the budget, else the n of one in n keys, a power of two; 0 where no key can choose."""
    if size <= budget:
        return 1
    if not has_key or budget <= 0:
        return 0
    n = 2
    while size > budget * n:
        n *= 2
    return n


def measure(connection: Connection, relation: Relation, sample: int) -> TableRecord:
    """Count and fingerprint one table in the transaction that is open and pinned."""
    known: dict[str, Any] = {
        "schema": relation.schema,
        "name": relation.name,
        "bytes": relation.bytes,
        "unlogged": relation.unlogged,
    }
    if relation.reason:
        return TableRecord(**known, rows=None, fingerprint=None, sample=0, skipped=relation.reason)
    table = sql.Identifier(relation.schema, relation.name)
    if sample == 0:
        row = connection.execute(COUNT.format(table)).fetchone()
        return TableRecord(**known, rows=int(row[0]) if row else None, fingerprint=None, sample=0)
    if sample == 1:
        query: sql.Composed = ALL.format(table)
    else:
        columns = sql.SQL(", ").join(sql.Identifier("t", column) for column in relation.key)
        query = SAMPLE.format(columns, sql.Literal(sample - 1), table)
    rows, first, second = connection.execute(query).fetchone() or (None, None, None)
    return TableRecord(**known, rows=rows, fingerprint=f"{first or 0}:{second or 0}", sample=sample)


def measure_all(
    connect: Callable[[], AbstractContextManager[Connection]],
    wanted: Sequence[Relation],
    *,
    samples: Callable[[Relation], int],
    jobs: int,
    stop: Event,
    passed: Callable[[Relation], None],
) -> tuple[TableRecord, ...]:
    """Measure tables on up to `jobs` connections, the largest first; the records in the order of `wanted`.

    `connect` gives a connection with the snapshot's transaction open and pinned. `passed` is told of each table, from a thread of
    its own. Once `stop` is set, running queries are cancelled and what is there is given back: it is incomplete then.
    """
    taken = iter(sorted(wanted, key=lambda relation: -relation.bytes))
    found: dict[int, TableRecord] = {}
    open_: list[Connection] = []

    def work() -> None:
        with connect() as connection:
            open_.append(connection)
            # Several threads share the iterator; each step of a list's is one for the interpreter.
            for relation in taken:
                if stop.is_set():
                    return
                found[relation.oid] = measure(connection, relation, samples(relation))
                passed(relation)

    workers = max(1, min(jobs, len(wanted)))
    with ThreadPoolExecutor(workers, thread_name_prefix="fingerprint") as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            while not stop.is_set():
                done, waiting = wait(futures, timeout=POLL, return_when=FIRST_EXCEPTION)
                if not waiting or any(future.exception() for future in done):
                    break
        finally:
            failed = any(future.done() and future.exception() for future in futures)
            if stop.is_set() or failed or not all(future.done() for future in futures):
                stop.set()
                for connection in open_:
                    connection.cancel_safe()
    for future in futures:
        error = future.exception()
        if error is not None and not isinstance(error, psycopg.errors.QueryCanceled):
            raise error
    return tuple(found[relation.oid] for relation in wanted if relation.oid in found)
