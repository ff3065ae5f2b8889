"""What a person wants to know before they let something be destroyed: which snapshot is the newest, and whether drills pass."""

from __future__ import annotations

from datetime import UTC, datetime

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.drill_store import Drills
from dbshield.errors import BackupError
from dbshield.store.database import Database


def newest_snapshot(database: Database, environment: str) -> dict[str, str] | None:
    """The newest complete snapshot of an environment that is still there, in words; None where there is none."""
    try:
        found = Catalogue(database).newest(environment)
    except BackupError:
        return None
    return {"of": _moment(found.began), "id": found.id, "drill": found.drilled or "none yet"}


def newest_drill(database: Database, environment: str) -> dict[str, str] | None:
    """The newest drill of an environment, whatever it found, in words; None where there is none."""
    kept = next(iter(Drills(database).list(environment=environment, limit=1)), None)
    if kept is None:
        return None
    return {"of": _moment(kept.drill.ended), "verdict": kept.drill.verdict, "snapshot": kept.drill.snapshot}


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
