"""What the doctor asks the catalogue of backups and the schedule, and the destinations' devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from sqlalchemy import func, select

from dbshield.backup import destination
from dbshield.backup.pgbackrest import local_repository
from dbshield.backup.source import Source
from dbshield.backup.wal_store import WalStore, fresh
from dbshield.config import BackupConfig, Config
from dbshield.errors import DbshieldError, Refused
from dbshield.guard.doctor import Finding, not_looked
from dbshield.guard.doctor_backups import Drilled, Kept, Wal, backup_findings, schedule_findings, wal_findings
from dbshield.schedule.view import look, problems
from dbshield.store.database import Database, Opening
from dbshield.store.schema import drills, snapshots

UNKNOWN = "cannot be told"
"""In what `destination.check` says where the server's disk is not seen from here."""
LOOKED_AT = 50
"""Snapshots and drills of an environment, the newest: whether a single one lies outside is seen by then."""

Place = tuple[bool | None, str]
"""Whether a destination lies outside the database's device, nothing where nobody can tell, and why."""


def backup_checks(settings: Config, names: Sequence[str], opening: Opening) -> list[Finding]:
    """Everything that is wrong with backups and schedule; one finding where the control database does not answer."""
    try:
        with opening() as database:
            found: list[Finding] = []
            # By the maker's clock; one that is ahead makes nothing younger than the catalogue has known it.
            began = func.least(snapshots.c.began, snapshots.c.recorded_at)
            for name in names:
                query = (
                    select(snapshots.c.id, began.label("began"), snapshots.c.destination)
                    .where(snapshots.c.environment == name, snapshots.c.state == "complete", snapshots.c.pruned_at.is_(None))
                    .order_by(began.desc(), snapshots.c.number.desc())
                )
                drilled = (
                    select(drills.c.snapshot, drills.c.ended, drills.c.verdict)
                    .join(snapshots, snapshots.c.id == drills.c.snapshot)
                    .where(snapshots.c.environment == name)
                    .order_by(drills.c.ended.desc())
                )
                with database.transaction() as connection:
                    rows = connection.execute(query.limit(LOOKED_AT)).all()
                    tried = connection.execute(drilled.limit(LOOKED_AT)).all()
                    now = connection.scalar(select(func.now()))
                assert now is not None, "a database knows the time"
                plans = {key: plan for key, plan in settings.backup.items() if (plan.environment or key) == name}
                places = _places(settings, name, plans, {row.destination for row in rows})
                found += backup_findings(
                    name,
                    plans=list(plans),
                    snapshots=[
                        Kept(id=row.id, began=row.began, outside=places[row.destination][0], why=places[row.destination][1])
                        for row in rows
                    ],
                    drills=[Drilled(snapshot=row.snapshot, ended=row.ended, verdict=row.verdict) for row in tried],
                    now=now,
                )
                found += wal_findings(name, _archives(database, name, plans))
            return found + schedule_findings(list(problems(look(settings, database))))
    except DbshieldError as error:
        what = f"backups and drills: {error.message}"
        return [not_looked("look.backups", name, what, mend="dbshield init, or reach the control database") for name in names]


def _archives(database: Database, environment: str, plans: Mapping[str, BackupConfig]) -> list[Wal]:
    """How old the WAL archives of the physical plans are."""
    known = {each.plan: each for each in WalStore(database).all(environment)}
    return [
        Wal(plan=key, age=known[key].age if key in known else None, fresh=fresh(plan))
        for key, plan in plans.items()
        if plan.engine == "physical"
    ]


def _places(settings: Config, environment: str, plans: Mapping[str, BackupConfig], destinations: set[str]) -> Mapping[str, Place]:
    """For each destination whether it lies outside the database's device, or why nobody can tell."""
    return {place: _outside(settings, environment, plans, place) for place in destinations}


def _outside(settings: Config, environment: str, plans: Mapping[str, BackupConfig], place: str) -> Place:
    looked_at = [place] if urlsplit(place).scheme == "file" else []
    plan = next((plan for plan in plans.values() if plan.destination == place), None)
    try:
        if plan is not None and plan.stanza and (repository := local_repository(plan)) is not None:
            # The data itself is there.
            looked_at.append(f"file://{repository.absolute()}")
        if not looked_at:
            return True, ""
        plan = plan or next(iter(plans.values()), None)
        if plan is None:
            return None, f"{place}: no plan goes there"
        source = Source.of(plan, settings.environments[environment])
        with source.connect(source.databases[0]) as connection:
            for each in looked_at:
                # What was allowed by name is looked at as if it were not.
                strict = plan.model_copy(update={"destination": each, "same_device": "refused", "same_account": "allowed"})
                destination.check(strict, settings.state, source.server(), connection)
    except Refused as error:
        return None if UNKNOWN in error.message else False, error.message
    except DbshieldError as error:
        return None, f"{place}: {error.message}"
    return True, ""
