"""What the control database is asked for the metrics, on a real one with a bit of everything in it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from support.control import PRODUCTION, STAGING, registered, tables_database
from support.servers import Server

from dbshield.config import Config
from dbshield.config.schedule import ScheduleConfig
from dbshield.errors import StoreError
from dbshield.metrics import BY_NAME, METRICS, Source
from dbshield.monitoring.facts import facts
from dbshield.monitoring.fresh import Fresh
from dbshield.store.database import Database
from dbshield.telemetry.counts import Series

CONFIG = Config(
    environments={"staging": STAGING, "production": PRODUCTION},
    schedule=ScheduleConfig(guard_verify="0 3 * * *"),
)
BEGAN = datetime(2026, 5, 1, 2, 0, tzinfo=UTC)

FILL = """
insert into dbshield.approvals (id, environment, agent, access, database, statement, digest, normal, effects, findings,
    requested_at, expires_at, needed)
select 'apr-aaaaaaa' || letter, 'production', 'claude', 'write', 'shop', 'drop table t', sha256(letter::bytea), 'drop table t',
    '[]', '[]', clock_timestamp() - age, clock_timestamp() + rest, 1
from (values ('a', interval '90 seconds', interval '1 hour'), ('b', interval '10 seconds', interval '1 hour'),
    ('c', interval '2 hours', interval '-1 hour')) one (letter, age, rest);
insert into dbshield.freezes (environment, agent, reason, frozen_by, frozen_at, until, lifted_at, lifted_by) values
    ('staging', 'claude', 'r', 'p', now(), null, null, null),
    ('staging', null, 'r', 'p', now() - interval '2 hours', now() - interval '1 hour', null, null),
    ('staging', null, 'r', 'p', now(), null, now(), 'p');
insert into dbshield.backup_keys (id, public_key, created_by) values ('0123456789abcdef', sha256('k'), 'p');
insert into dbshield.snapshots (id, environment, plan, engine, kind, destination, state, began, ended, bytes, stored_bytes,
    objects, manifest, manifest_sha256, signature, signing_key)
select '2026050' || day || 't020000z-aaaaaaaa', 'production', 'nightly', 'logical', 'full', 'd', 'complete',
    timestamptz '2026-05-01 02:00+00' - interval '1 day' * (1 - day), '2026-05-02', 10, 1000 * day, 1,
    '{}', sha256('m'), sha256('s') || sha256('t'), '0123456789abcdef' from generate_series(0, 1) day;
insert into dbshield.snapshots (id, environment, plan, engine, kind, destination, state, began, ended, error) values
    ('20260509t020000z-aaaaaaaa', 'production', 'nightly', 'logical', 'full', 'd', 'failed', '2026-05-09', '2026-05-09', 'no');
insert into dbshield.drills (snapshot, began, ended, verdict, checks, rpo_seconds, rto, signature, signing_key) values
    ('20260501t020000z-aaaaaaaa', '2026-05-01 03:00+00', '2026-05-01 03:10+00', 'passed', '[]', 5, '{"start": 9}', null, null),
    ('20260501t020000z-aaaaaaaa', '2026-05-01 04:00+00', '2026-05-01 04:10+00', 'failed', '[]', 60,
        '{"download": 10, "start": 2.5, "restore": 30, "checks": 99}', null, null);
insert into dbshield.schedule_runs (job, due, attempt, missed, state, began, ended, scheduler, exit_code) values
    ('guard-verify staging', '2026-05-01 03:00+00', 1, 0, 'done', '2026-05-01 03:00+00', '2026-05-01 03:01+00', 's', 0),
    ('guard-verify staging', '2026-05-02 03:00+00', 1, 0, 'failed', '2026-05-02 03:00+00', '2026-05-02 03:01+00', 's', 1),
    ('guard-verify staging', '2026-05-03 03:00+00', 1, 0, 'lost', '2026-05-03 03:00+00', '2026-05-03 03:01+00', 's', null),
    ('guard-verify production', '2026-05-02 03:00+00', 1, 0, 'done', '2026-05-02 03:00+00', '2026-05-02 03:01+00', 's', 0);
"""


@pytest.fixture(scope="module")
def database(server18: Server) -> Iterator[Database]:
    with tables_database(server18) as dsn, registered(dsn) as made:
        yield made


def test_everything_that_is_kept_there_is_told(database: Database) -> None:
    begun = facts(CONFIG, database)
    assert begun["dbshield_approvals_waiting", ("production",)] == begun["dbshield_freezes", ("staging",)] == 0
    with database.transaction() as connection:
        for statement in filter(str.strip, FILL.split(";\n")):
            connection.execute(text(statement))
    found = facts(CONFIG, database)
    oldest = found.pop(("dbshield_approvals_oldest_seconds", ("production",)))
    assert 90 <= oldest < 3600
    plan, at = ("production", "nightly"), BEGAN.timestamp()
    assert found == {
        ("dbshield_approvals_waiting", ("production",)): 2,
        ("dbshield_approvals_waiting", ("staging",)): 0,
        ("dbshield_approvals_oldest_seconds", ("staging",)): 0,
        ("dbshield_freezes", ("production",)): 0,
        ("dbshield_freezes", ("staging",)): 1,
        ("dbshield_snapshot_timestamp_seconds", plan): at,
        ("dbshield_snapshot_size_bytes", plan): 1000,
        ("dbshield_drill_timestamp_seconds", plan): at + 7800,
        ("dbshield_drill_verdict", (*plan, "passed")): 0,
        ("dbshield_drill_verdict", (*plan, "failed")): 1,
        ("dbshield_drill_verdict", (*plan, "error")): 0,
        ("dbshield_drill_rpo_seconds", plan): 60,
        ("dbshield_drill_rto_seconds", plan): 42.5,
        ("dbshield_guard_verified", ("staging",)): 0,
        ("dbshield_guard_verified", ("production",)): 1,
        ("dbshield_guard_verified_timestamp_seconds", ("staging",)): at + 3660,
        ("dbshield_guard_verified_timestamp_seconds", ("production",)): at + 86400 + 3660,
        ("dbshield_job_overdue", ("guard-verify staging",)): 0,
        ("dbshield_job_overdue", ("guard-verify production",)): 0,
        ("dbshield_scheduler_leads", ()): 0,
    }
    told = {*found, ("dbshield_approvals_oldest_seconds", ("production",))}
    assert {name for name, _ in told} == {metric.name for metric in METRICS if metric.source is Source.CONTROL}
    assert all(len(BY_NAME[name].labels) == len(labels) for name, labels in told)


def test_nothing_is_known_of_a_database_that_is_away() -> None:
    away = Database("host=127.0.0.1 port=1 dbname=nowhere")
    with pytest.raises(StoreError):
        facts(CONFIG, away)
    looks = 0

    def look() -> dict[Series, float]:
        nonlocal looks
        looks += 1
        return facts(CONFIG, away)

    fresh = Fresh(look, patience=60)
    assert [fresh.get(), fresh.get()] == [None, None]
    assert looks == 1
    away.close()
