"""The physical engine: pg_basebackup of the whole cluster, streamed to the destination, with the WAL that a restore of it needs.

Members: `base.tar` (the data folder with the WAL of the backup itself), `backup_manifest` (a copy of the one in it, for
pg_verifybackup and incremental backups), and `wal/<segment>`: what follows up to the record's `base.target`. A restore that
replays all records before that LSN shows exactly what was counted and fingerprinted (`still.py` says how).

- The base backup is on no disk of ours in clear; some segments of WAL are, in the work folder, until they are stored.
- While it runs, a slot that ends with our connection keeps the server's WAL: that disk needs room for what is written meanwhile.
- Tablespaces are refused: pg_basebackup streams one archive alone, and their folders are the old machine's.
- Configuration files outside of the data folder, as Debian has them, are not in it.

Source: PostgreSQL manual, pg_basebackup, "Backup Manifests", "Streaming Replication Protocol", and "Continuous Archiving".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from dbshield.backup import counting, look, moment, still, tail
from dbshield.backup.canary import CanaryRun
from dbshield.backup.command import Command
from dbshield.backup.engine import Taken, Task
from dbshield.backup.logical import NOW
from dbshield.backup.record import BaseRecord, Record
from dbshield.backup.source import Connection, told
from dbshield.backup.still import Moment
from dbshield.backup.tarball import LABEL, MANIFEST, Tarball
from dbshield.errors import BackupError

BASE = "base.tar"
WAL = "wal"
READY = """
    select current_setting('wal_level') <> 'minimal', pg_is_in_recovery(),
        exists (select from pg_tablespace where oid not in (1663, 1664)),
        (select setting::bigint from pg_settings where name = 'wal_segment_size'),
        (select sum(pg_database_size(oid))::bigint from pg_database where has_database_privilege(oid, 'connect'))
"""
SAID = {
    "start": re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE),
    "checkpoint": re.compile(rb"^CHECKPOINT LOCATION: ([0-9A-F]+/[0-9A-F]+)$", re.MULTILINE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the base backup says of itself. LSNs as PostgreSQL writes them."""

    label: str
    start: str
    end: str
    checkpoint: str
    timeline: int


class Physical:
    """The engine `physical`; full backups."""

    name = "physical"
    kind = "full"

    def back_up(self, task: Task) -> Taken:
        first = task.source.databases[0]
        with task.source.connect(first) as connection, told("the facts about the server"):
            segment_size, size = _ready(connection)
        canary = CanaryRun(task.source, first, task.writer.snapshot)
        with _kept_wal(task):
            task.progress.step("base backup", size)
            base = _base_backup(task)
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
                    server = replace(look.server(connection), lsn=moment.lsn_text(found.lsn), timeline=base.timeline)
                    record = Record(
                        taken=str((connection.execute(NOW).fetchone() or ("",))[0]),
                        settings=look.settings(connection),
                        roles=look.roles(connection),
                        members=look.members(connection),
                        databases=tuple(counting.database(task, name, found) for name in task.source.databases),
                        canary=after,
                        no_canary=canary.reason,
                        base=_record(base, found, segment_size),
                    )
        return Taken(server=server, record=record)


def _ready(connection: Connection) -> tuple[int, int]:
    """Bytes of a segment of WAL and of the cluster. Raises BackupError where the server cannot be backed up so."""
    enough, standby, tablespaces, segment, size = connection.execute(READY).fetchone() or (False, False, False, 0, 0)
    if standby:
        raise BackupError("the server is a standby", hint="Set source to the primary.")
    if not enough:
        raise BackupError(
            "the server's wal_level is minimal", hint="Set wal_level = replica, and restart it; or use the engine logical."
        )
    if tablespaces:
        raise BackupError(
            "the server has tablespaces, which the engine physical does not keep", hint="Use the engine logical for it."
        )
    return int(segment), int(size or 0)


@contextmanager
def _kept_wal(task: Task) -> Iterator[None]:
    """The server keeps its WAL from now on for as long as the block lasts, and not longer, whatever becomes of us."""
    name = "dbshield_" + task.writer.snapshot.replace("-", "_")
    with task.source.replication() as connection:
        try:
            slot = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY PHYSICAL RESERVE_WAL").format(sql.Identifier(name))
            connection.execute(slot)
        except psycopg.Error as error:
            raise BackupError(
                f"the server gives no replication slot: {str(error).strip().splitlines()[0]}",
                hint="The role needs REPLICATION; raise max_replication_slots or drop one that nobody uses.",
            ) from error
        yield


def _base_backup(task: Task) -> Base:
    """Stream the cluster to the destination."""
    label = f"dbshield {task.writer.snapshot}"
    command = Command(
        [
            task.programs.program("pg_basebackup"),
            "--pgdata=-",
            "--format=tar",
            "--wal-method=fetch",
            "--checkpoint=fast",
            "--manifest-checksums=SHA256",
            f"--label={label}",
            "--no-password",
        ],
        work=task.work,
        variables=task.source.variables(task.source.databases[0]),
        piped=True,
    )
    try:
        watched = Tarball(command.stdout, command.wait)
        task.writer.add(BASE, watched, passed=task.progress.advance)
        # Where the destination stops taking it, nobody has read to the end.
        command.wait()
    finally:
        command.end()
    manifest = bytes(watched.files[MANIFEST])
    base = _told(label, bytes(watched.files[LABEL]), manifest)
    task.writer.add(MANIFEST, io.BytesIO(manifest), expected=len(manifest))
    return base


def _told(label: str, text: bytes, manifest: bytes) -> Base:
    """What backup_label and backup_manifest say. Raises BackupError."""
    places = {name: match[1].decode() for name, pattern in SAID.items() if (match := pattern.search(text)) is not None}
    try:
        last = json.loads(manifest)["WAL-Ranges"][-1]
        timeline, end = int(last["Timeline"]), str(last["End-LSN"])
        moment.lsn(end)
        return Base(label=label, end=end, timeline=timeline, **places)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BackupError(
            "the base backup does not say where it begins and ends", hint="Look at which pg_basebackup runs."
        ) from error


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
    )
