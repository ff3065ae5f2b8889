"""The physical engine: pg_basebackup of the whole cluster, streamed to the destination, with the WAL that a restore of it needs.

Members: `base.tar` (the data folder with the WAL of the backup itself), `tablespaces/<oid>.tar`, `backup_manifest` (for
pg_verifybackup and incremental backups), and `wal/<segment>`: what follows up to the record's `base.target`. A restore that
replays all records before that LSN shows exactly what was counted and fingerprinted (`still.py` says how).

- An incremental one has only what changed since its parent in `base.tar`, and cannot be restored without it (`chain.py`).
- The base backup is on no disk of ours in clear, unless there are tablespaces (`base_backup.py`); some segments of WAL are, in
  the work folder, until they are stored.
- While it runs, a slot that ends with our connection keeps the server's WAL: that disk needs room for what is written meanwhile.
- A tablespace that is made meanwhile makes it fail: its WAL would be replayed into the folder that it has on the source.
- Configuration files outside of the data folder, as Debian has them, are not in it.

Source: PostgreSQL manual, pg_basebackup, "Backup Manifests", "Streaming Replication Protocol", and "Continuous Archiving".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dbshield.backup import counting, look, moment, still, tail
from dbshield.backup.base_backup import Base, base_backup
from dbshield.backup.canary import CanaryRun
from dbshield.backup.chain import FULL, INCREMENTAL
from dbshield.backup.engine import Taken, Task
from dbshield.backup.record import BaseRecord
from dbshield.backup.source import Connection, told
from dbshield.backup.still import Moment
from dbshield.errors import BackupError

WAL = "wal"
READY = """
    select current_setting('wal_level') <> 'minimal', pg_is_in_recovery(),
        (select coalesce(json_object_agg(oid::text, spcname), '{}') from pg_tablespace where pg_tablespace_location(oid) ~ '^/'),
        (select setting::bigint from pg_settings where name = 'wal_segment_size'),
        (select sum(pg_database_size(oid))::bigint from pg_database where has_database_privilege(oid, 'connect'))
"""


class Physical:
    """The engine `physical`; full backups."""

    name = "physical"
    kind = "full"

    def back_up(self, task: Task) -> Taken:
        first = task.source.databases[0]
        with task.source.connect(first) as connection, told("the facts about the server"):
            segment_size, size, tablespaces = _ready(connection)
        canary = CanaryRun(task.source, first, task.writer.snapshot)
        with tail.kept(task.source, task.writer.snapshot):
            task.progress.step("base backup", size)
            base = base_backup(task, tablespaces, task.parent)
            task.progress.step("find its moment", None)
            canary.before()
            end = moment.lsn(base.end)
            with (
                tail.following(task, timeline=base.timeline, end=end, segment_size=segment_size) as wal,
                still.found(task.source, task.writer.snapshot, wal.ends_until) as found,
            ):
                after = canary.after()
                _store(task, wal)
                with task.source.connect(first) as connection, told("the facts about the server"):
                    if _ready(connection)[2] != tablespaces:
                        # The WAL would make it where it is on the source, wherever that WAL is replayed.
                        raise BackupError("tablespaces were made or dropped meanwhile", hint="Make another backup.")
                    server = replace(look.server(connection), lsn=moment.lsn_text(found.lsn), timeline=base.timeline)
                    facts = _record(base, found, segment_size)
                    record = counting.record(task, connection, found, canary=after, no_canary=canary.reason, base=facts)
        return Taken(
            server=server,
            record=record,
            kind=FULL if task.parent is None else INCREMENTAL,
            parent=None if task.parent is None else task.parent.snapshot,
            backup_manifest=base.manifest,
        )


def _ready(connection: Connection) -> tuple[int, int, Mapping[str, str]]:
    """Bytes of a segment of WAL and of the cluster, and its tablespaces, names by OID.

    Raises BackupError where the server cannot be backed up so.
    """
    enough, standby, tablespaces, segment, size = connection.execute(READY).fetchone() or (False, False, {}, 0, 0)
    if standby:
        raise BackupError("the server is a standby", hint="Set source to the primary.")
    if not enough:
        raise BackupError(
            "the server's wal_level is minimal", hint="Set wal_level = replica, and restart it; or use the engine logical."
        )
    return int(segment), int(size or 0), tablespaces


def _store(task: Task, wal: tail.Tail) -> None:
    """The WAL after the base backup. What arrives now is after the moment, and need not be in it."""
    for name, path in wal.files().items():
        task.writer.add_file(f"{WAL}/{name}", path)


def _record(base: Base, found: Moment, segment_size: int) -> BaseRecord:
    return BaseRecord(
        label=base.label,
        start=base.start,
        end=base.end,
        checkpoint=base.checkpoint,
        timeline=base.timeline,
        target=moment.lsn_text(found.lsn),
        segment_size=segment_size,
        inexact=found.inexact,
        manifest_sha256=base.manifest_sha256,
        tablespaces=base.tablespaces,
    )
