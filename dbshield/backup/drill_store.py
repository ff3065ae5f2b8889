"""Drills in the control database: each signed, and kept with every check and its measure.

The signature is over the canonical JSON of what stands in the row, so that the row itself proves what was found: who may write in
the control database can remove a drill, and cannot turn one that failed into one that passed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update

from dbshield.backup import keys
from dbshield.backup.checks import MOMENT
from dbshield.backup.keys import Signature, SigningKey
from dbshield.store.database import Database
from dbshield.store.schema import drills, snapshots

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One drill. Times have a zone; `checks` as `Check.tree` gives them; `rto` is seconds by phase."""

    snapshot: str
    began: datetime
    ended: datetime
    verdict: str
    checks: Sequence[Mapping[str, Any]]
    rpo_seconds: float | None
    rto: Mapping[str, float]

    @property
    def of_moment(self) -> bool:
        """Whether it restored a moment between snapshots, and not the snapshot's own."""
        return any(check["name"] == MOMENT for check in self.checks)

    def sign(self, key: SigningKey) -> Signature:
        return key.sign(keys.PURPOSE_DRILL, self.text())

    def text(self) -> bytes:
        """What is signed."""
        tree = {
            "format": FORMAT,
            "snapshot": self.snapshot,
            "began": _moment(self.began),
            "ended": _moment(self.ended),
            "verdict": self.verdict,
            "checks": list(self.checks),
            "rpo_seconds": self.rpo_seconds,
            "rto": dict(self.rto),
        }
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A drill as the control database has it."""

    id: int
    drill: Drill
    environment: str
    report: str | None
    signature: Signature | None


class Drills:
    """The drills in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, drill: Drill, signature: Signature, *, report: str | None) -> int:
        """Keep a drill, and its verdict with the snapshot; the drill's number."""
        row = {
            "snapshot": drill.snapshot,
            "began": drill.began,
            "ended": drill.ended,
            "verdict": drill.verdict,
            "checks": list(drill.checks),
            "rpo_seconds": drill.rpo_seconds,
            "rto": dict(drill.rto),
            "report": report,
            "signature": signature.value,
            "signing_key": signature.key,
        }
        with self._database.transaction() as connection:
            number = connection.execute(insert(drills).values(row).returning(drills.c.id)).scalar_one()
            if not drill.of_moment:
                # Of the snapshot itself a restore to another moment says neither that it is good nor that it is bad.
                connection.execute(update(snapshots).where(snapshots.c.id == drill.snapshot).values(drilled=drill.verdict))
        return int(number)

    def list(self, *, environment: str | None = None, limit: int = 30) -> tuple[Kept, ...]:
        """The newest first."""
        query = (
            select(drills, snapshots.c.environment)
            .join(snapshots, snapshots.c.id == drills.c.snapshot)
            .order_by(drills.c.id.desc())
            .limit(limit)
        )
        if environment is not None:
            query = query.where(snapshots.c.environment == environment)
        with self._database.transaction() as connection:
            return tuple(kept_of(row) for row in connection.execute(query).mappings())


def check(kept: Kept, trusted: Mapping[str, bytes]) -> None:
    """Raises Damaged unless a known key signed what the row says."""
    signature = kept.signature or Signature(key="none", value=b"")
    keys.check(signature, keys.PURPOSE_DRILL, kept.drill.text(), trusted, what=f"the drill {kept.id}")


def kept_of(row: Mapping[Any, Any]) -> Kept:
    """A drill from its row and the environment of its snapshot."""
    signed = row["signature"] is not None
    return Kept(
        id=row["id"],
        environment=row["environment"],
        report=row["report"],
        signature=Signature(key=row["signing_key"], value=bytes(row["signature"])) if signed else None,
        drill=Drill(
            snapshot=row["snapshot"],
            began=row["began"],
            ended=row["ended"],
            verdict=row["verdict"],
            checks=row["checks"],
            rpo_seconds=row["rpo_seconds"],
            rto=row["rto"],
        ),
    )


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
