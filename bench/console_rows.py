"""A control database as large as one that a team has had for years, made by SQL in a few minutes.

The entries of the audit go through `dbshield.audit_append`, as every entry does, so their chain is whole.
"""

from __future__ import annotations

from typing import Final

import psycopg

AGENTS: Final = 40
TOKENS_EACH: Final = 12
SNAPSHOTS: Final = 400
RUNS: Final = 2_000
BATCH: Final = 5_000
"""Entries of one call: a transaction, as a busy proxy's."""

ENTRIES: Final = """
select dbshield.audit_append(null, null, array_agg(said::text order by n)) from (
    select n, json_build_object(
        'ts', to_char(timestamptz '2026-01-01 00:00Z' + n * interval '20 seconds', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'event', case when n %% 400 = 0 then 'connected' when n %% 5003 = 0 then 'approval-requested' else 'statement' end,
        'agent', 'agent-' || n %% 40,
        'environment', (array['staging', 'production'])[1 + n %% 2],
        'database', 'shop',
        'session', n / 200,
        'client', '10.1.' || n %% 250 || '.' || n %% 199,
        'application', 'psycopg',
        'verdict', case when n %% 97 = 0 then 'deny' when n %% 89 = 0 then 'hold' when n %% 3 = 0 then 'limit' else 'allow' end,
        'rules', case when n %% 97 = 0 then json_build_array('DS101') when n %% 89 = 0 then json_build_array('DS201', 'DS203')
            else '[]'::json end,
        'effects', json_build_array('update table shop.orders bounded', 'read table shop.customers'),
        'statement', 'update shop.orders set state = $1, changed_at = now() where id = $2 and customer_id in'
            || ' (select id from shop.customers where region = $3) /* request ' || md5(n::text) || ' */'
    ) as said
    from generate_series(%(first)s::bigint, %(last)s::bigint) n
) entries
"""

REST: Final = """
insert into dbshield.environments (name) values ('staging'), ('production') on conflict do nothing;
insert into dbshield.agents (id, environment, name, access, salt, iterations, owner)
select gen_random_uuid(),
    (array['staging', 'production'])[1 + n % 2], 'agent-' || n, (array['read', 'write', 'migrate'])[1 + n % 3],
    decode(md5('a' || n), 'hex'), 4096, 'person-' || n % 9
from generate_series(0, {agents} - 1) n;
insert into dbshield.tokens (id, agent, stored_key, server_key, created_at, expires_at, created_by)
select translate(left(md5(a.name || '.' || n), 12), '0189', 'ghij'), a.id,
    sha256(convert_to(a.name || '.' || n, 'UTF8')), sha256('x'),
    now() - n * interval '20 days', now() + (30 - n * 20) * interval '1 day', 'person-1'
from dbshield.agents a, generate_series(0, {tokens} - 1) n;
insert into dbshield.token_uses (token, used_at, used_from)
select id, now() - interval '3 hours', '10.1.2.3' from dbshield.tokens;
insert into dbshield.backup_keys (id, public_key, created_by) values ('0123456789abcdef', sha256('k'), 'bench');
insert into dbshield.snapshots (id, environment, plan, engine, kind, destination, state, began, ended, bytes, stored_bytes,
    objects, manifest, manifest_sha256, signature, signing_key, record)
select to_char(moment, 'YYYYMMDD"t"HH24MISS"z-"') || translate(left(md5(n::text), 8), '0189', 'ghij'),
    (array['staging', 'production'])[1 + n % 2], (array['staging', 'production'])[1 + n % 2], 'logical', 'full', 's3://vault/dbshield',
    'running', moment, null, null, null, null, null, null, null, null, null
from (select n, date_trunc('second', now()) - n * interval '12 hours' as moment from generate_series(1, {snapshots}) n) made;
update dbshield.snapshots set state = 'complete', ended = began + interval '4 minutes', bytes = 4000000000,
    stored_bytes = 900000000, objects = 40,
    manifest = jsonb_build_object('members', (select jsonb_agg(jsonb_build_object('name', m, 'sha256', md5(m::text)))
    from generate_series(1, 200) m)), manifest_sha256 = sha256('m'), signature = sha256('s') || sha256('t'),
    signing_key = '0123456789abcdef', record = jsonb_build_object('tables', (select jsonb_agg(md5(m::text)) from
    generate_series(1, 500) m));
insert into dbshield.drills (snapshot, began, ended, verdict, checks, rpo_seconds, rto)
select id, began + interval '1 hour', began + interval '70 minutes',
    case when number % 37 = 0 then 'failed' when number % 53 = 0 then 'error' else 'passed' end,
    (select jsonb_agg(jsonb_build_object('name', 'check-' || c, 'outcome', 'passed', 'measure', '1,204,112 rows in 48 tables',
        'problems', '[]'::jsonb, 'seconds', 1.5)) from generate_series(1, 15) c),
    30 + number % 60, jsonb_build_object('download', 20 + number % 9, 'start', 3.5, 'restore', 200 + number % 70, 'checks', 90)
from dbshield.snapshots order by began;
insert into dbshield.schedule_runs (job, due, attempt, missed, state, began, ended, scheduler, exit_code)
select (array['snapshot staging', 'drill staging', 'snapshot production', 'drill production'])[1 + n % 4],
    now() - n * interval '6 hours', 1, 0, 'done',
    now() - n * interval '6 hours', now() - n * interval '6 hours' + interval '5 min',
    'main:host/1', 0
from generate_series(1, {runs}) n;
"""

APPROVALS: Final = """
insert into dbshield.approvals (id, environment, agent, access, database, statement, digest, normal, effects, findings,
    requested_at, expires_at, needed, state)
select 'apr-' || translate(left(md5(n::text), 8), '0189', 'ghij'), (array['staging', 'production'])[1 + n % 2],
    'agent-' || n % 40, 'migrate', 'shop', 'drop table archive.orders_' || n || ' cascade',
    sha256(convert_to(n::text, 'UTF8')), 'drop table',
    '["drop table archive.orders_1 cascade"]',
    '[{{"rule": "DS101", "name": "objects.drop", "message": "DROP takes the table and its rows away.", "hint": "Ask.",
       "verdict": "hold", "effect": null}}]',
    now() - n * interval '1 hour' , now() + interval '1 day', 1 + n % 2, 'waiting'
from generate_series(1, {approvals}) n;
"""


def fill(connection: psycopg.Connection[tuple[object, ...]], *, entries: int, approvals: int) -> None:
    """Into a migrated control database; `connection` is its owner's, in autocommit mode."""
    values = {"agents": AGENTS, "tokens": TOKENS_EACH, "snapshots": SNAPSHOTS, "runs": RUNS, "approvals": approvals}
    connection.execute("set synchronous_commit = off")
    for first in range(1, entries + 1, BATCH):
        connection.execute(ENTRIES, {"first": first, "last": min(entries, first + BATCH - 1)})
    for text in (REST, APPROVALS):
        for statement in text.format(**values).split(";\n"):
            if statement.strip():
                connection.execute(statement.encode())
    connection.execute("vacuum analyze")
