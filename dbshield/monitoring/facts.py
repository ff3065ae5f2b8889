"""What the control database says of approvals, backups, drills and the guard, as numbers.

Every proxy tells the same of these; whoever adds them up over proxies takes the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import text

from dbshield.backup.drill import RESTORING
from dbshield.config import Config
from dbshield.schedule.jobs import GUARD_VERIFY
from dbshield.schedule.view import View, look
from dbshield.store.database import Database
from dbshield.telemetry.counts import Series

VERDICTS: Final = ("passed", "failed", "error")

APPROVALS: Final = text("""
    select environment, count(*), extract(epoch from clock_timestamp() - min(requested_at))::float8
    from dbshield.approvals where state = 'waiting' and expires_at > clock_timestamp() group by environment
""")
FREEZES: Final = text("""
    select environment, count(*) from dbshield.freezes
    where lifted_at is null and (until is null or until > clock_timestamp()) group by environment
""")
SNAPSHOTS: Final = text("""
    select distinct on (environment, plan) environment, plan, extract(epoch from least(began, recorded_at))::float8,
        stored_bytes::float8
    from dbshield.snapshots where state = 'complete' and pruned_at is null order by environment, plan, number desc
""")
"""By the order in which they were recorded: the clock of the machine that made one may have been ahead."""
DRILLS: Final = text("""
    select distinct on (s.environment, s.plan) s.environment, s.plan, extract(epoch from d.ended)::float8, d.verdict,
        d.rpo_seconds, d.rto
    from dbshield.drills d join dbshield.snapshots s on s.id = d.snapshot order by s.environment, s.plan, d.id desc
""")
VERIFIED: Final = text("""
    select job, (array_agg(state order by due desc, attempt desc))[1] = 'done',
        extract(epoch from max(ended) filter (where state = 'done'))::float8
    from dbshield.schedule_runs where job like :jobs and state in ('done', 'failed') group by job
""")
"""A run that was stopped, or lost with its scheduler, says nothing of the guard."""


def facts(config: Config, database: Database) -> dict[Series, float]:
    """All of it, for the environments that are configured. StoreError where the control database is away."""
    found: dict[Series, float] = {}
    for environment in config.environments:
        for name in ("dbshield_approvals_waiting", "dbshield_approvals_oldest_seconds", "dbshield_freezes"):
            found[name, (environment,)] = 0.0
    with database.transaction() as connection:
        for environment, waiting, oldest in connection.execute(APPROVALS):
            found["dbshield_approvals_waiting", (environment,)] = float(waiting)
            found["dbshield_approvals_oldest_seconds", (environment,)] = max(0.0, oldest)
        for environment, freezes in connection.execute(FREEZES):
            found["dbshield_freezes", (environment,)] = float(freezes)
        for environment, plan, began, size in connection.execute(SNAPSHOTS):
            found["dbshield_snapshot_timestamp_seconds", (environment, plan)] = began
            found["dbshield_snapshot_size_bytes", (environment, plan)] = size
        for environment, plan, *drill in connection.execute(DRILLS):
            found |= _drill((environment, plan), *drill)
        for job, good, ended in connection.execute(VERIFIED, {"jobs": f"{GUARD_VERIFY} %"}):
            which = (job.removeprefix(f"{GUARD_VERIFY} "),)
            found["dbshield_guard_verified", which] = float(good)
            if ended is not None:
                found["dbshield_guard_verified_timestamp_seconds", which] = ended
    found.update(_scheduled(look(config, database)))
    return found


def _drill(
    which: tuple[str, str], ended: float, verdict: str, rpo: float | None, rto: Mapping[str, float]
) -> dict[Series, float]:
    found: dict[Series, float] = {("dbshield_drill_timestamp_seconds", which): ended}
    for word in VERDICTS:
        found["dbshield_drill_verdict", (*which, word)] = float(word == verdict)
    if rpo is not None:
        found["dbshield_drill_rpo_seconds", which] = rpo
    found["dbshield_drill_rto_seconds", which] = sum(rto.get(name, 0.0) for name in RESTORING)
    return found


def _scheduled(view: View) -> Iterator[tuple[Series, float]]:
    yield ("dbshield_scheduler_leads", ()), float(view.leader is not None)
    for line in view.lines:
        yield ("dbshield_job_overdue", (line.job.name,)), float(line.overdue is not None)
