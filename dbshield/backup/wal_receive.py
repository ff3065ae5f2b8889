"""Receiving WAL: the slot that makes the server keep it, the spool that it arrives in, and pg_receivewal between them.

- The slot is permanent: the server keeps its WAL while nobody receives it, and its disk fills up if that lasts. The server's
  `max_slot_wal_keep_size` bounds that, and costs the archive a gap.
- pg_receivewal goes on after the newest whole segment in its folder. So one always lies there: an empty one of the right size
  where there is no other. Nothing else in the spool is ever made by us.

Source: PostgreSQL manual, pg_receivewal, "Replication Slots", "Streaming Replication Protocol"; FindStreamingStart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from dbshield.backup import moment, wal
from dbshield.backup.command import Command
from dbshield.backup.source import Source
from dbshield.backup.wal_route import Fork, history
from dbshield.backup.work import LOCK, Work
from dbshield.cluster import Binaries
from dbshield.errors import BackupError, Refused

IN_USE = "55006"
"""object_in_use"""
LOCK_SECONDS = 15.0
"""What a pg_receivewal whose parent was killed needs to notice and end."""
POLL = 0.1
PARTIAL = ".partial"
STANDING = """
    select (select setting::bigint from pg_settings where name = 'wal_segment_size'), pg_is_in_recovery(),
        (select setting from pg_settings where name = 'wal_level')
"""
SLOT = "select restart_lsn::text, coalesce(wal_status, ''), active from pg_replication_slots where slot_name = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the server is: its system identifier, its timeline with the ancestors of that, and the LSN from which on the slot
    keeps its WAL. `renewed` says why the slot is a new one, where it is not for the first time."""

    system: str
    timeline: int
    forks: tuple[Fork, ...]
    kept_from: int
    segment_size: int
    renewed: str = ""


@contextlib.contextmanager
def spool(folder: Path) -> Iterator[Work]:
    """The spool, for this process alone. Raises Refused where another one has it, BackupError where it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackupError(
            f"the spool {folder} cannot be used: {error.strerror}", hint="Set wal_spool to a folder that you may write to."
        ) from error
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Refused(
                        f"the WAL of this plan is archived already: {folder} is in use",
                        sqlstate=IN_USE,
                        hint="One process does it; `dbshield schedule show` tells whether the scheduler runs it.",
                    ) from error
                time.sleep(POLL)
        for log in folder.glob("pg_receivewal-*.log"):
            log.unlink(missing_ok=True)
        yield Work(folder=folder, lock=lock)
    finally:
        os.close(lock)


def place(source: Source, slot: str, *, pinned: str | None, known: bool) -> Place:
    """Where the server is, with a slot that keeps its WAL: made where there is none, and anew where the server let it go.

    `pinned` is the system identifier that it must have, if one is known; `known` says that the slot was there before. Raises
    BackupError where it is another server, on which no slot is made, or gives no WAL.
    """
    with source.connect(source.databases[0]) as connection:
        size, standby, level = connection.execute(STANDING).fetchone() or (0, True, "")
        if standby:
            raise BackupError("the server is a standby", hint="Set source to the primary.")
        if level == "minimal":
            raise BackupError("the server's wal_level is minimal", hint="Set wal_level = replica, and restart it.")
        with source.replication() as replication:
            try:
                system, timeline = (_text(each) for each in (replication.execute("IDENTIFY_SYSTEM").fetchone() or ("", 0))[:2])
                if pinned is not None and system != pinned:
                    raise BackupError(
                        f"another cluster answers: its system identifier is {system}, not {pinned}", hint="Look at source."
                    )
                forks = _forks(replication, int(timeline))
                renewed = _slot(replication, connection.execute(SLOT, [slot]).fetchone(), slot, known=known)
            except psycopg.Error as error:
                raise BackupError(
                    f"the server gives no replication slot: {str(error).strip().splitlines()[0]}",
                    hint="The role needs REPLICATION; raise max_replication_slots or drop one that nobody uses.",
                ) from error
        kept = (connection.execute(SLOT, [slot]).fetchone() or (None,))[0]
    if kept is None:
        raise BackupError(
            f"the replication slot {slot} keeps nothing", hint=f"Drop it: select pg_drop_replication_slot('{slot}')"
        )
    return Place(
        system=system,
        timeline=int(timeline),
        forks=forks,
        kept_from=moment.lsn(str(kept)),
        segment_size=int(size),
        renewed=renewed,
    )


def _forks(replication: psycopg.Connection[tuple[object, ...]], timeline: int) -> tuple[Fork, ...]:
    if timeline == 1:
        return ()
    row = replication.execute(sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline))).fetchone()
    if row is None:
        return ()
    return history(_text(row[1]).encode())


def _text(value: object) -> str:
    """A value as a replication connection gives it: its types are not known there."""
    return bytes(value).decode() if isinstance(value, (bytes, memoryview)) else str(value)


def _slot(
    replication: psycopg.Connection[tuple[object, ...]], found: tuple[object, ...] | None, slot: str, *, known: bool
) -> str:
    """Make the slot if it is not there, or lost; why, where it was there before."""
    if found is not None and found[0] is not None and found[1] != "lost":
        return ""
    if found is not None:
        replication.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(slot)))
    replication.execute(sql.SQL("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL").format(sql.Identifier(slot)))
    if not known:
        return ""
    if found is not None:
        return f"the server let the replication slot {slot} go, because it kept too much WAL"
    return f"the replication slot {slot} was gone"


def names(folder: Path) -> list[str]:
    """The names of whole segments, those that only mark where to go on among them."""
    return sorted(path.name for path in folder.iterdir() if wal.SEGMENT.fullmatch(path.name))


def segments(folder: Path) -> dict[str, Path]:
    """Whole segments of the spool, by name, without those that only mark where to go on: a page begins with a number."""
    return {name: folder / name for name in names(folder) if _has_pages(folder / name)}


def _has_pages(path: Path) -> bool:
    with path.open("rb") as stream:
        return any(stream.read(8))


def histories(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if wal.HISTORY.fullmatch(path.name)}


def partial(folder: Path) -> Path | None:
    """The newest segment that is not full."""
    return max((path for path in folder.iterdir() if path.name.endswith(PARTIAL)), default=None, key=lambda path: path.name)


def mark_beginning(folder: Path, timeline: int, number: int, size: int) -> None:
    """Let pg_receivewal begin with the segment of this number."""
    before = folder / moment.segment_name(timeline, number - 1, size)
    if not before.exists():
        with before.open("xb") as stream:
            stream.truncate(size)


def empty(path: Path, size: int) -> None:
    """Give back the room of a segment whose name is needed still."""
    os.truncate(path, 0)
    os.truncate(path, size)


def clear(folder: Path) -> None:
    """Nothing of an earlier place stays."""
    for path in folder.iterdir():
        if path.is_file() and (
            path.name.endswith(PARTIAL) or wal.SEGMENT.fullmatch(path.name) or wal.HISTORY.fullmatch(path.name)
        ):
            path.unlink()


def received(path: Path) -> bytes:
    """What there is of a segment that is not full: WAL is written in order, and the rest of the file is empty.

    Where it ends is looked for first, so that all before that was there when it is read. Zeros at the end of a record are taken
    for the empty rest, which is as good: whoever restores fills up with zeros.
    """
    with path.open("rb") as stream:
        block = 64 << 10
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - block)
            stream.seek(begin)
            data = stream.read(end - begin).rstrip(b"\0")
            if data:
                end = begin + len(data)
                break
            end = begin
        stream.seek(0)
        return stream.read(end)


def holds(folder: Path, timeline: int, lsn: int, size: int) -> bool:
    """Whether the record that begins at an LSN has begun to arrive: its first bytes are its length, or a page's magic number."""
    name = wal.segment_at(timeline, lsn, size)
    if (folder / name).exists():
        return True
    try:
        with (folder / (name + PARTIAL)).open("rb") as stream:
            stream.seek(lsn % size)
            return any(stream.read(8))
    except FileNotFoundError:
        # It may have become full between the two looks.
        return (folder / name).exists()


def receiver(source: Source, programs: Binaries, work: Work, folder: Path, slot: str) -> Command:
    """pg_receivewal under way, into a folder of the spool; it ends with this process."""
    arguments: list[str | Path] = [
        programs.program("pg_receivewal"),
        f"--directory={folder}",
        f"--slot={slot}",
        "--no-loop",
        "--no-password",
        "--status-interval=5",
    ]
    return Command(arguments, work=work, variables=source.variables(source.databases[0]), tethered=True)
