"""The engine pgbackrest: pgBackRest makes the backup in its own repository; the snapshot has what a drill needs to prove it.

Members: `wal/<segment>`, what follows the backup up to the record's `base.target`, and the record. The data is in pgBackRest's
repository: the signed manifest names the backup and has the SHA-256 of the list of its files' checksums. Counts, fingerprints and
the rest of the record are taken as the engine physical takes them, at a place in the WAL after the backup's end (`still.py`).

- pgBackRest reads the server's files, so this runs where pgBackRest's `backup` does. The role of the plan needs REPLICATION.
- The server's own archive_command brings the WAL of the backup into pgBackRest's archive.
- Tablespaces are refused: a restore would have to know where each goes on the new machine.

Source: pgBackRest's user guide and command reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dbshield.backup import counting, destination, look, moment, still, tail
from dbshield.backup.canary import CanaryRun
from dbshield.backup.engine import Taken, Task
from dbshield.backup.manifest import Outside
from dbshield.backup.pgbackrest import ARCHIVE_TIMEOUT, Backed, PgBackRest, Stanza
from dbshield.backup.record import BaseRecord
from dbshield.backup.source import Connection, told
from dbshield.backup.still import Moment
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, Refused
from dbshield.model import Upstream

WAL = "wal"
READY = """
    select current_setting('archive_mode') <> 'off',
        current_setting('archive_command') not in ('', '(disabled)') or current_setting('archive_library', true) <> '',
        pg_is_in_recovery(), exists (select from pg_tablespace where oid not in (1663, 1664)),
        (select setting::bigint from pg_settings where name = 'wal_segment_size')
"""
HERE = """
    select pg_current_wal_lsn()::text, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
"""
"""The place in the WAL, and the timeline that is written now: a checkpoint after a promotion may be to come."""


class PgBackRestEngine:
    """The engine `pgbackrest`; full, differential and incremental backups."""

    name = "pgbackrest"
    kind = "full"

    def back_up(self, task: Task) -> Taken:
        first = task.source.databases[0]
        tool = PgBackRest(task.plan, task.work)
        with task.source.connect(first) as connection, told("the facts about the server"):
            segment_size = _ready(connection, task.plan.stanza)
            _same(tool.stanza(), connection, task.plan)
        task.progress.step("pgbackrest backup", None)
        made = tool.back_up(task.writer.snapshot, jobs=task.jobs)
        try:
            return self._recorded(task, tool, made, segment_size)
        except BaseException:
            # Where it may not go (the only full one), it goes when this snapshot's row does.
            with contextlib.suppress(BackupError):
                tool.forget(task.writer.snapshot)
            raise

    def _recorded(self, task: Task, tool: PgBackRest, made: Backed, segment_size: int) -> Taken:
        """Find the moment that a restore shows, and count what there is then."""
        first = task.source.databases[0]
        outside = Outside(
            stanza=task.plan.stanza,
            repository=task.plan.pgbackrest_repository,
            label=made.label,
            sha256=tool.manifest_sha256(made.label),
            bytes=made.bytes,
            stored=made.stored,
        )
        wal_sha1 = tool.wal_sha1(made.segments(segment_size))
        canary = CanaryRun(task.source, first, task.writer.snapshot)
        task.progress.step("find its moment", None)
        canary.before()
        with tail.kept(task.source, task.writer.snapshot):
            here = _bridge(task, made, segment_size)
            with (
                tail.following(task, timeline=made.timeline, end=here, segment_size=segment_size) as wal,
                still.found(task.source, task.writer.snapshot, wal.ends_until) as found,
            ):
                after = canary.after()
                for name, path in wal.files().items():
                    task.writer.add_file(f"{WAL}/{name}", path)
                with task.source.connect(first) as connection, told("the facts about the server"):
                    facts = replace(look.server(connection), lsn=moment.lsn_text(found.lsn), timeline=made.timeline)
                    base = _base(made, found, segment_size, wal_sha1)
                    record = counting.record(task, connection, found, canary=after, no_canary=canary.reason, base=base)
        return Taken(
            server=facts,
            record=record,
            kind="full" if made.type == "full" else "incremental",
            parent=_parent(task, tool, made),
            outside=outside,
        )


def check_repository(plan: BackupConfig, tool: PgBackRest, state: Path, server: Upstream, connection: Connection) -> None:
    """The rules for destinations hold for pgBackRest's repository as well. Raises Refused."""
    if plan.encryption != "none" and not tool.stanza().encrypted:
        raise Refused(
            f"pgBackRest's repository {plan.pgbackrest_repository} is not encrypted",
            sqlstate=destination.NOT_SAFE,
            hint='Make one with repo1-cipher-type = aes-256-cbc; or say encryption = "none", and who reads it reads the data.',
        )
    folder = tool.place.repository
    if folder is not None:
        there = plan.model_copy(update={"destination": f"file://{folder.absolute()}"})
        destination.check(there, state, server, connection)


def _ready(connection: Connection, stanza: str) -> int:
    """Bytes of a segment of WAL. Raises BackupError where pgBackRest cannot back it up, or nobody could restore it."""
    mode, command, standby, tablespaces, segment = connection.execute(READY).fetchone() or (False, False, False, True, 0)
    archiving = f"Set archive_mode = on and archive_command = 'pgbackrest --stanza={stanza} archive-push %p', and restart it."
    if standby:
        raise BackupError("the server is a standby", hint="Set source to the primary; pgBackRest itself may read a standby.")
    if not mode:
        raise BackupError("the server archives no WAL: its archive_mode is off", hint=archiving)
    if not command:
        raise BackupError("the server archives no WAL: its archive_command is not set", hint=archiving)
    if tablespaces:
        raise BackupError(
            "the server has tablespaces, which the engine pgbackrest does not restore", hint="Use the engine physical or logical."
        )
    return int(segment)


def _same(stanza: Stanza, connection: Connection, plan: BackupConfig) -> None:
    """The stanza is of this cluster. Raises BackupError."""
    server = look.server(connection)
    if server.system != stanza.system or str(server.version // 10000) != stanza.version.split(".")[0]:
        raise BackupError(
            f"the stanza {plan.stanza} is of another cluster: PostgreSQL {stanza.version}, system identifier {stanza.system},"
            f" and the server is {server.version // 10000}, {server.system}",
            hint=f"Look at pg1-path and source; after an upgrade: pgbackrest --stanza={plan.stanza} stanza-upgrade",
        )


def _bridge(task: Task, made: Backed, size: int) -> int:
    """Store the segments between the backup's last one and the one where the server is now; an LSN in that.

    Raises BackupError where they do not get into the archive, or the server is on another timeline by now.
    """
    with task.source.connect(task.source.databases[0]) as connection, told("the place in the WAL"):
        lsn, timeline = connection.execute(HERE).fetchone() or ("0/0", 0)
    if timeline != made.timeline:
        raise BackupError("the server went on to another timeline meanwhile", hint="Make another backup.")
    here = max(moment.lsn(lsn), moment.lsn(made.stop))
    reader = PgBackRest(task.plan, task.work, reading=True)
    folder = task.work.make("bridge")
    for number in range((moment.lsn(made.stop) - 1) // size + 1, here // size):
        name = moment.segment_name(made.timeline, number, size)
        reader.segment(name, folder / name, patience=ARCHIVE_TIMEOUT)
        task.writer.add_file(f"{WAL}/{name}", folder / name)
    return here + 1


def _base(made: Backed, found: Moment, segment_size: int, wal_sha1: Mapping[str, str]) -> BaseRecord:
    return BaseRecord(
        label=made.label,
        start=made.start,
        end=made.stop,
        checkpoint=made.start,
        timeline=made.timeline,
        target=moment.lsn_text(found.lsn),
        segment_size=segment_size,
        inexact=found.inexact,
        wal_sha1=wal_sha1,
    )


def _parent(task: Task, tool: PgBackRest, made: Backed) -> str | None:
    """The snapshot that it was made upon, where that is one of ours."""
    if made.prior is None:
        return None
    snapshot = tool.stanza().labelled(made.prior).snapshot
    return snapshot if snapshot and task.known(snapshot) else None
