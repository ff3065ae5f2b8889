"""The WAL that follows a base backup, up to the moment that a restore of the snapshot shows.

pg_receivewal fetches it into the work folder; a slot that ends with our connection keeps the server from removing it before.
It starts after the newest whole segment that it finds in its folder, so an empty one of the right size and name says where.

Source: PostgreSQL manual, pg_receivewal and pg_waldump; src/bin/pg_basebackup/pg_receivewal.c (FindStreamingStart).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from dbshield.backup import moment
from dbshield.backup.command import Command
from dbshield.backup.engine import Task
from dbshield.backup.moment import End
from dbshield.backup.source import Source
from dbshield.backup.work import Work
from dbshield.cluster import Binaries
from dbshield.errors import BackupError

ARRIVAL_TIMEOUT = 60.0
"""Seconds in which WAL that is on the server's disk has to be here."""
POLL = 0.05
SEGMENT = re.compile(r"(?P<name>[0-9A-F]{24})(?:\.partial)?")
FOLDER = "wal"


class Tail:
    """WAL of one timeline that arrives in a folder."""

    def __init__(self, command: Command, programs: Binaries, work: Work, folder: Path, *, timeline: int, first: str) -> None:
        self._command = command
        self._programs = programs
        self._work = work
        self._folder = folder
        self._view = work.make("scan")
        self._timeline = timeline
        self._first = first

    def ends_until(self, start: int, xid: int) -> tuple[End, ...]:
        """The ends of transactions from an LSN on, when that of this transaction is there as well. Raises BackupError."""
        deadline = time.monotonic() + ARRIVAL_TIMEOUT
        while True:
            found = self._ends(start)
            if any(end.committed and end.xid == xid % moment.XIDS for end in found):
                return found
            if self._command.poll() is not None or time.monotonic() > deadline:
                raise BackupError(
                    f"the WAL after the base backup does not arrive; pg_receivewal: {self._command.last_lines()}",
                    hint="Look at the server's log.",
                )
            time.sleep(POLL)

    def files(self) -> dict[str, Path]:
        """The segments that are there, by name; the newest is not full. Without the empty one."""
        found = {match["name"]: path for path in self._folder.iterdir() if (match := SEGMENT.fullmatch(path.name)) is not None}
        return {name: path for name, path in sorted(found.items()) if name >= self._first}

    def _ends(self, start: int) -> tuple[End, ...]:
        """What pg_waldump reads of what is there; it ends with an error where the WAL does."""
        for link in self._view.iterdir():
            link.unlink()
        for name, path in self.files().items():
            # A segment may have got its name just now; then it is seen the next time.
            (self._view / name).symlink_to(path)
        output = self._work.folder / "waldump.txt"
        arguments: list[str | Path] = [
            self._programs.program("pg_waldump"),
            f"--path={self._view}",
            f"--timeline={self._timeline}",
            f"--start={moment.lsn_text(start)}",
            "--rmgr=Transaction",
        ]
        command = Command(arguments, work=self._work, variables={"LC_ALL": "C", "TZ": "UTC"}, output=output)
        try:
            with contextlib.suppress(BackupError):
                command.wait()
        finally:
            command.end()
            command.forget()
        with output.open(encoding="utf-8", errors="replace") as lines:
            return moment.ends(lines)


@contextlib.contextmanager
def kept(source: Source, snapshot: str) -> Iterator[None]:
    """The server keeps its WAL from now on for as long as the block lasts, and not longer, whatever becomes of us.

    Raises BackupError where it gives no slot.
    """
    name = "dbshield_" + snapshot.replace("-", "_")
    with source.replication() as connection:
        try:
            slot = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY PHYSICAL RESERVE_WAL").format(sql.Identifier(name))
            connection.execute(slot)
        except psycopg.Error as error:
            raise BackupError(
                f"the server gives no replication slot: {str(error).strip().splitlines()[0]}",
                hint="The role needs REPLICATION; raise max_replication_slots or drop one that nobody uses.",
            ) from error
        yield


@contextlib.contextmanager
def following(task: Task, *, timeline: int, end: int, segment_size: int) -> Iterator[Tail]:
    """The WAL from the segment on in which a base backup ends, for as long as the block lasts."""
    folder = task.work.make(FOLDER)
    number = (end - 1) // segment_size
    with (folder / moment.segment_name(timeline, number - 1, segment_size)).open("xb") as before:
        before.truncate(segment_size)
    arguments: list[str | Path] = [
        task.programs.program("pg_receivewal"),
        f"--directory={folder}",
        "--no-loop",
        "--no-sync",
        "--no-password",
    ]
    variables = task.source.variables(task.source.databases[0])
    command = Command(arguments, work=task.work, variables=variables, tethered=True)
    try:
        first = moment.segment_name(timeline, number, segment_size)
        yield Tail(command, task.programs, task.work, folder, timeline=timeline, first=first)
    finally:
        command.end()
