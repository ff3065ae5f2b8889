"""The time within which any moment can be restored, and a random one of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.restore import Goal, environment_of
from dbshield.backup.wal_ship import wal_time
from dbshield.backup.wal_store import WalStore
from dbshield.config import Config
from dbshield.errors import BackupError
from dbshield.store.database import Database

LOOKED_AT = 1000
"""Snapshots that are looked through."""
FAILED = "failed"


def random_moment(config: Config, database: Database, *, environment: str | None, plan: str | None) -> Goal:
    """A moment of the window of a physical plan's WAL archive. Raises BackupError where there is none, ConfigError."""
    where = environment_of(config, environment, plan)
    archives = [each for each in WalStore(database).all(where) if plan is None or each.plan == plan]
    for archive in archives:
        found = Catalogue(database).list(environment=where, plan=archive.plan, limit=LOOKED_AT)
        keep = config.backup[archive.plan].keep_wal_days if archive.plan in config.backup else 0
        end = archive.marked_at
        begin = window_begin(found, end - timedelta(days=keep) if keep else None) if end is not None else None
        if begin is not None and end is not None and begin < end:
            share = secrets.SystemRandom().random()
            return Goal(at=wal_time(begin + (end - begin) * share))
    raise BackupError(f"there is no WAL archive of {where} that goes beyond a snapshot", hint="`dbshield backup wal` makes one.")


def window_begin(found: Sequence[Snapshot], wanted: datetime | None) -> datetime | None:
    """From when on any moment can be restored: from `wanted` on where a snapshot ended before it, else from the first that ended.

    Where nothing is wanted, from the newest on. Nothing where there is no snapshot.
    """
    ended = sorted(
        each.ended
        for each in found
        if each.ended is not None
        and each.state == "complete"
        and each.engine == "physical"
        and each.pruned_at is None
        and each.drilled != FAILED
    )
    if not ended:
        return None
    return ended[-1] if wanted is None else max(wanted, ended[0])
