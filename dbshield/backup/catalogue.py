"""The catalogue of snapshots in the control database.

Laws (the second is kept by the table's own constraints and trigger as well):
- One backup of a plan at a time, on however many machines: whoever makes one holds an advisory lock on a connection of its own,
  which the database gives back when that process dies.
- `running` becomes `complete` or `failed`, once. Whoever gets the lock and finds a `running` one of the same plan knows that its
  maker is dead, and marks it failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from dbshield.backup.keys import Signature, SigningKey
from dbshield.backup.manifest import Manifest
from dbshield.backup.record import Record
from dbshield.errors import BackupError, Refused, StoreError
from dbshield.store.database import Database
from dbshield.store.schema import backup_keys, environments, snapshots

LOCK_CLASS = 0x6462_6B70
"""The first number of our advisory locks: "dbkp"."""
IN_USE = "55006"
"""object_in_use"""
INTERRUPTED = "interrupted: the process that made it is gone"
ERROR_MAX = 2000
COLUMNS = (
    *(
        snapshots.c[name]
        for name in (
            "id", "environment", "plan", "engine", "kind", "destination", "state", "began", "ended", "error", "objects", "lsn",
            "timeline", "server_version", "parent", "drilled", "pruned_at", "manifest_sha256", "signing_key",
        )
    ),
    snapshots.c.bytes.label("size"),
    snapshots.c.stored_bytes.label("stored"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One row of the catalogue without manifest and record. `size` in bytes before compression, `stored` at the destination."""

    id: str
    environment: str
    plan: str
    engine: str
    kind: str
    destination: str
    state: str
    began: datetime
    ended: datetime | None
    error: str | None
    size: int | None
    stored: int | None
    objects: int | None
    lsn: str | None
    timeline: int | None
    server_version: int | None
    parent: str | None
    drilled: str | None
    pruned_at: datetime | None
    manifest_sha256: bytes | None
    signing_key: str | None


class Catalogue:
    """The snapshots in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Keys -------------------------------------------------------------------------------------------------------------------

    def trust(self, key: SigningKey, *, by: str) -> bool:
        """Keep the public half of a key; whether it is new."""
        row = {"id": key.name, "public_key": key.public, "created_by": by}
        with self._database.transaction() as connection:
            return bool(connection.execute(insert_or(backup_keys).values(row).on_conflict_do_nothing()).rowcount)

    def trusted(self) -> Mapping[str, bytes]:
        """The public keys whose signatures count, by name."""
        with self._database.transaction() as connection:
            return {name: bytes(key) for name, key in connection.execute(select(backup_keys.c.id, backup_keys.c.public_key))}

    # Making one -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self, environment: str, plan: str, now: datetime) -> Iterator[tuple[str, ...]]:
        """Hold the plan's lock; the ids of snapshots whose makers died. Raises Refused where another backup of the plan runs."""
        try:
            connection = self._database.engine.connect()
        except Exception as error:
            raise StoreError("the control database does not answer", hint="Look at [control] url, and at the server.") from error
        name = f"{environment}/{plan}"
        with connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            lock = select(func.pg_try_advisory_lock(LOCK_CLASS, func.hashtext(name)))
            if not connection.scalar(lock):
                raise Refused(
                    f"a backup of {name} runs already",
                    sqlstate=IN_USE,
                    hint="`dbshield backup list` shows it; wait until it ends.",
                )
            try:
                dead = connection.execute(
                    update(snapshots)
                    .where(snapshots.c.environment == environment, snapshots.c.plan == plan, snapshots.c.state == "running")
                    .values(state="failed", ended=now, error=INTERRUPTED)
                    .returning(snapshots.c.id)
                ).scalars()
                yield tuple(dead)
            finally:
                connection.execute(select(func.pg_advisory_unlock(LOCK_CLASS, func.hashtext(name))))

    def begin(
        self, snapshot: str, *, environment: str, plan: str, engine: str, kind: str, destination: str, now: datetime
    ) -> None:
        """A snapshot is under way."""
        row = {
            "id": snapshot,
            "environment": environment,
            "plan": plan,
            "engine": engine,
            "kind": kind,
            "destination": destination,
            "state": "running",
            "began": now,
        }
        with self._database.transaction() as connection:
            connection.execute(insert_or(environments).values(name=environment).on_conflict_do_nothing())
            connection.execute(insert(snapshots).values(row))

    def complete(self, manifest: Manifest, signature: Signature, record: Record, *, now: datetime) -> None:
        """It is whole. BackupError where somebody else has called it failed meanwhile."""
        values = {
            "state": "complete",
            "kind": manifest.kind,
            "ended": now,
            "bytes": manifest.size_everywhere,
            "stored_bytes": manifest.stored_everywhere,
            "objects": len(manifest.members),
            "lsn": manifest.server.lsn,
            "timeline": manifest.server.timeline,
            "server_version": manifest.server.version,
            "system_identifier": int(manifest.server.system),
            "manifest": manifest.tree(),
            "manifest_sha256": manifest.sha256(),
            "signature": signature.value,
            "signing_key": signature.key,
            "record": record.tree(),
            "parent": manifest.parent,
        }
        running = (snapshots.c.id == manifest.snapshot, snapshots.c.state == "running")
        with self._database.transaction() as connection:
            if not connection.execute(update(snapshots).where(*running).values(values)).rowcount:
                raise BackupError(
                    f"the snapshot {manifest.snapshot} was called failed by somebody else",
                    hint="The control database was away meanwhile; make another one.",
                )

    def fail(self, snapshot: str, reason: str, *, now: datetime) -> None:
        """It came to nothing."""
        with self._database.transaction() as connection:
            connection.execute(
                update(snapshots)
                .where(snapshots.c.id == snapshot, snapshots.c.state == "running")
                .values(state="failed", ended=now, error=reason[:ERROR_MAX])
            )

    # Looking ----------------------------------------------------------------------------------------------------------------

    def list(self, *, environment: str | None = None, plan: str | None = None, limit: int = 100) -> tuple[Snapshot, ...]:
        """The newest first, as they were recorded: a machine's clock may have been ahead."""
        query = select(*COLUMNS).order_by(snapshots.c.number.desc())
        if environment is not None:
            query = query.where(snapshots.c.environment == environment)
        if plan is not None:
            query = query.where(snapshots.c.plan == plan)
        with self._database.transaction() as connection:
            return tuple(_snapshot(row) for row in connection.execute(query.limit(limit)).mappings())

    def get(self, snapshot: str) -> Snapshot:
        """One snapshot by its id, or by a beginning of it that only one has. Raises BackupError."""
        query = select(*COLUMNS).where(snapshots.c.id.startswith(snapshot, autoescape=True))
        with self._database.transaction() as connection:
            found = [_snapshot(row) for row in connection.execute(query.order_by(snapshots.c.id).limit(2)).mappings()]
        if len(found) != 1 or not snapshot:
            raise BackupError(
                f'there is no snapshot "{snapshot}"' if not found else f'"{snapshot}" begins several snapshots',
                hint="`dbshield backup list` shows them.",
            )
        return found[0]

    def has(self, snapshot: str) -> bool:
        """Whether there is a complete one of exactly this id, which was not removed."""
        query = select(snapshots.c.id).where(
            snapshots.c.id == snapshot, snapshots.c.state == "complete", snapshots.c.pruned_at.is_(None)
        )
        with self._database.transaction() as connection:
            return connection.scalar(query) is not None

    def newest(self, environment: str, *, plan: str | None = None) -> Snapshot:
        """The newest that is complete and still there. Raises BackupError where there is none."""
        for found in self.list(environment=environment, plan=plan, limit=1000):
            if found.state == "complete" and found.pruned_at is None:
                return found
        raise BackupError(f"there is no complete snapshot of {environment}", hint="`dbshield backup` makes one.")

    def details(self, snapshot: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Manifest and record as they were kept; nothing for one that is not complete."""
        query = select(snapshots.c.manifest, snapshots.c.record).where(snapshots.c.id == snapshot)
        with self._database.transaction() as connection:
            row = connection.execute(query).one_or_none()
        return (row[0], row[1]) if row is not None else (None, None)

    def pinned(self, environment: str) -> int | None:
        """The system identifier that the environment's cluster had when it was first seen."""
        query = select(environments.c.system_identifier).where(environments.c.name == environment)
        with self._database.transaction() as connection:
            found = connection.scalar(query)
        return int(found) if found is not None else None

    def alive(self, snapshot: Snapshot) -> bool:
        """Whether the lock of a running snapshot's plan is held, so that somebody makes it."""
        query = text("""
            select exists (
                select from pg_locks l
                where l.locktype = 'advisory' and l.granted and l.classid = :class and l.objsubid = 2
                    and l.objid = (hashtext(:name)::bigint & 4294967295)::oid
                    and l.database = (select oid from pg_database where datname = current_database())
            )
        """)
        with self._database.transaction() as connection:
            return bool(connection.scalar(query, {"class": LOCK_CLASS, "name": f"{snapshot.environment}/{snapshot.plan}"}))


def _snapshot(row: RowMapping) -> Snapshot:
    return Snapshot(**row)
