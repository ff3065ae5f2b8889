"""Removing what retention lets go: first at the destination, then in the catalogue.

Laws:
- Whoever removes holds the plan's lock: no backup of the plan runs meanwhile, so nothing is being made upon what goes.
- The time is the control database's. Snapshots that the catalogue does not know are nobody's business here.
- Nothing goes before the newest complete snapshot, and the newest that a drill has proven, were seen at their destination: a
  destination that is not mounted looks empty.
- One that could not be removed keeps what it was made upon, and hinders no other. What was removed in part is removed by the next
  run: its manifest went first, so it is none, and its row says "pruned" only when all of it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update

from dbshield.backup import wal_prune
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.pgbackrest import PgBackRest
from dbshield.backup.repository import Repository, open_store
from dbshield.backup.retention import COMPLETE, PASSED, Candidate, Fate, Rules, fates, wal_needed
from dbshield.backup.run import work_base
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_prune import Trimmed
from dbshield.backup.work import work_folder
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, ConfigError
from dbshield.store.database import Database
from dbshield.store.schema import snapshots

ELSEWHERE = "no plan goes to where it lies"
PHYSICAL = "physical"
"""The engine whose WAL lies beside its snapshots."""
PGBACKREST = "pgbackrest"
"""The engine whose data lies in a repository of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a run decided and did. `problems` name the snapshots that should have gone and did not, with the reason."""

    fates: tuple[Fate, ...]
    removed: tuple[str, ...] = ()
    objects: int = 0
    wal: int = 0
    """Objects of the WAL archive that went."""
    wal_locked_until: datetime | None = None
    """Until when the store keeps the first of those that nothing needs any more."""
    problems: Mapping[str, str]

    @property
    def later(self) -> int:
        """Snapshots that may go, and were left to another run."""
        return sum(fate.later for fate in self.fates)


def rules_of(plan: BackupConfig) -> Rules:
    return Rules(
        last=plan.keep_last,
        daily=plan.keep_daily,
        weekly=plan.keep_weekly,
        monthly=plan.keep_monthly,
        yearly=plan.keep_yearly,
        wal_window=timedelta(days=plan.keep_wal_days),
        failed_for=timedelta(days=plan.keep_failed_days),
        at_most=plan.prune_at_most,
    )


def look(config: Config, name: str, database: Database) -> Pruned:
    """What a run would remove now."""
    return Pruned(fates=_decide(config, name, database, _reachable(config)), problems={})


def prune(config: Config, name: str, database: Database, *, told: Callable[[str], None] = lambda _: None) -> Pruned:
    """Remove what retention lets go of one plan; `told` hears each snapshot before it goes.

    Raises Refused where a backup of the plan runs, BackupError where what is to stay is not to be seen, StoreError, and
    ConfigError where a store is described wrongly.
    """
    plan = config.backup[name]
    catalogue = Catalogue(database)
    places = _reachable(config)
    removed: list[str] = []
    problems: dict[str, str] = {}
    objects = 0
    with catalogue.alone(plan.environment or name, name, _now(database)):
        decided = _decide(config, name, database, places)
        going = [fate.snapshot for fate in decided if fate.goes]
        # WAL goes also where no snapshot does.
        if going or plan.engine == PHYSICAL:
            _see(database, places, [fate.snapshot for fate in decided])
        for snapshot in _order(going):
            upon = _made_upon(database, snapshot.id)
            if upon:
                problems[snapshot.id] = f"{upon[0]} was made upon it, and is there still"
                continue
            told(snapshot.id)
            try:
                objects += _remove(config, plan, database, places, snapshot.id)
            except (BackupError, ConfigError) as error:
                problems[snapshot.id] = error.message
                continue
            with database.transaction() as connection:
                connection.execute(update(snapshots).where(snapshots.c.id == snapshot.id).values(pruned_at=func.now()))
            removed.append(snapshot.id)
        try:
            now = _now(database)
            wal = _trim(plan, name, catalogue, wal_needed(decided, rules_of(plan), now), now)
        except (BackupError, ConfigError) as error:
            wal, problems["WAL"] = Trimmed(), error.message
    return Pruned(
        fates=decided,
        removed=tuple(removed),
        objects=objects,
        wal=wal.gone,
        wal_locked_until=wal.locked_until,
        problems=problems,
    )


def _trim(plan: BackupConfig, name: str, catalogue: Catalogue, needed: Sequence[Candidate], now: datetime) -> Trimmed:
    """Remove the WAL that no snapshot needs."""
    starts = wal_prune.starts(catalogue, needed) if plan.engine == PHYSICAL else None
    if not starts or plan.prune_at_most == 0:
        return Trimmed()
    return wal_prune.trim(Archive(open_store(plan), plan.environment or name, name), starts, now)


def _decide(config: Config, name: str, database: Database, places: Mapping[str, BackupConfig]) -> tuple[Fate, ...]:
    """The fate of every snapshot of the plan that is there."""
    columns = ("id", "plan", "state", "number", "recorded_at", "drilled", "parent", "destination")
    plan = config.backup[name]
    query = select(*(snapshots.c[column] for column in columns)).where(
        snapshots.c.environment == (plan.environment or name), snapshots.c.pruned_at.is_(None)
    )
    with database.transaction() as connection:
        rows = connection.execute(query).all()
        now = connection.scalar(select(func.now()))
    assert now is not None, "a database knows the time"
    held = {row.parent: f"{row.id} of another plan needs it" for row in rows if row.plan != name and row.parent}
    held |= {row.id: ELSEWHERE for row in rows if row.destination not in places}
    candidates = [
        Candidate(
            id=row.id,
            plan=row.plan,
            state=row.state,
            number=row.number,
            recorded=row.recorded_at,
            drilled=row.drilled,
            parent=row.parent,
        )
        for row in rows
        if row.plan == name
    ]
    decided = fates(candidates, rules_of(plan), now, held)
    locked = _locked(plan, {row.id: row.destination for row in rows}, places, decided, now)
    return fates(candidates, rules_of(plan), now, {**held, **locked}) if locked else decided


def _locked(
    plan: BackupConfig, lies: Mapping[str, str], places: Mapping[str, BackupConfig], decided: Sequence[Fate], now: datetime
) -> Mapping[str, str]:
    """Of those that would go, the ones that the store lets nobody delete yet, and until when."""
    found = {}
    for snapshot in [fate.snapshot for fate in decided if not fate.keep]:
        place = places[lies[snapshot.id]]
        if place.object_lock == "none":
            continue
        until = Repository.of(place).held_until(plan.environment or snapshot.plan, snapshot.id)
        if until is not None and until > now:
            found[snapshot.id] = f"locked until {until:%Y-%m-%dT%H:%M:%SZ}"
    return found


def _reachable(config: Config) -> Mapping[str, BackupConfig]:
    """Plans by where they go: their credentials open what another plan put there as well."""
    return {plan.destination: plan for plan in reversed(list(config.backup.values()))}


def _order(going: Sequence[Candidate]) -> Iterator[Candidate]:
    """Those that something else that goes was made upon come after it; else the oldest first."""
    waiting = sorted(going, key=lambda snapshot: snapshot.number)
    while waiting:
        needed = {snapshot.parent for snapshot in waiting}
        # A ring of parents cannot be; were there one, it is looked at snapshot by snapshot all the same.
        found = next((snapshot for snapshot in waiting if snapshot.id not in needed), waiting[0])
        waiting.remove(found)
        yield found


def _see(database: Database, places: Mapping[str, BackupConfig], newest_first: Sequence[Candidate]) -> None:
    """Look for what must be there before anything goes. Raises BackupError where it is not."""
    complete = [snapshot for snapshot in newest_first if snapshot.state == COMPLETE]
    for snapshot in {one.id: one for one in complete[:1] + [one for one in complete if one.drilled == PASSED][:1]}.values():
        environment, destination = _place(database, snapshot.id)
        if destination not in places:
            raise BackupError(
                f"{snapshot.id}, which is to stay, is at {destination}, and no plan goes there; nothing was removed",
                hint="Make a snapshot at the new destination, and let a drill prove it; or add a plan for the old one.",
            )
        if not Repository.of(places[destination]).is_there(environment, snapshot.id):
            raise BackupError(
                f"{snapshot.id}, which is to stay, is not at {destination}; nothing was removed",
                hint="See that the destination is mounted, then: dbshield backup verify " + snapshot.id,
            )


def _made_upon(database: Database, snapshot: str) -> Sequence[str]:
    """What needs a snapshot as the catalogue is now: of any plan, and not removed."""
    query = select(snapshots.c.id).where(snapshots.c.parent == snapshot, snapshots.c.pruned_at.is_(None))
    with database.transaction() as connection:
        return connection.scalars(query).all()


def _remove(config: Config, plan: BackupConfig, database: Database, places: Mapping[str, BackupConfig], snapshot: str) -> int:
    """Remove one at its destination, and then what pgBackRest made for it; the objects that went. BackupError, ConfigError."""
    environment, destination = _place(database, snapshot)
    with database.transaction() as connection:
        elsewhere = connection.scalar(select(snapshots.c.engine).where(snapshots.c.id == snapshot)) == PGBACKREST
    if elsewhere and not plan.stanza:
        raise ConfigError("it is in pgBackRest's repository, and the plan names no stanza any more")
    objects = Repository.of(places[destination]).remove(environment, snapshot)
    if elsewhere:
        with work_folder(work_base(config, plan)) as work:
            PgBackRest(plan, work).forget(snapshot)
    return objects


def _place(database: Database, snapshot: str) -> tuple[str, str]:
    query = select(snapshots.c.environment, snapshots.c.destination).where(snapshots.c.id == snapshot)
    with database.transaction() as connection:
        row = connection.execute(query).one()
    return row.environment, row.destination


def _now(database: Database) -> datetime:
    with database.transaction() as connection:
        now = connection.scalar(select(func.now()))
    assert isinstance(now, datetime), "a database knows the time"
    return now
