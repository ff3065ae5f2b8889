"""Archiving WAL: what pg_receivewal brings into the spool is sealed, put at the destination, and only then let go of.

Laws:
- A segment leaves the spool after the destination confirmed that it has it. Its name stays, empty, as the place to go on from.
- At least every `wal_max_seconds` a mark is written into the WAL, and what has arrived by then is put there, full or not. The
  mark tells up to when a restore can go: nothing that was committed before it is missing.
- A gap is never passed over in silence: it is told, once, and archiving goes on, so that a new snapshot has its WAL.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import psycopg
import structlog

from dbshield.backup import moment, sealing, wal, wal_receive
from dbshield.backup.keys import SigningKey
from dbshield.backup.source import Connection, Source
from dbshield.backup.store import Holding
from dbshield.backup.wal import Held, Kind, Piece
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_receive import Place
from dbshield.backup.work import Work
from dbshield.cluster import Binaries
from dbshield.errors import BackupError, DbshieldError

LOOK = 0.2
"""Seconds between two looks into the spool."""
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
"""Seconds until the next attempt after one that failed, doubled each time."""
PATIENCE = 20.0
"""Seconds of failing after which it is told."""
ARRIVAL = 60.0
"""Seconds in which a mark has to arrive."""
MARK = "select clock_timestamp()::timestamptz, pg_logical_emit_message(true, 'dbshield', 'archive')::text"
"""A transaction that changes nothing; its commit begins at the LSN or after it, and is later than the time."""

Told = Callable[[str, str], None]
"""Called with `wal-failed`, `wal-gap` or `backup-tampered`, and what happened."""
Noted = Callable[[Piece], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in the WAL, and the server's time before it. `after` begins a record that lies after the mark's commit."""

    lsn: int
    at: datetime
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the WAL of a plan needs to be archived. `pinned` is the system identifier that the server must have, if one is known;
    `max_seconds` how old what is not at the destination may get."""

    archive: Archive
    source: Source
    programs: Binaries
    spool: Path
    recipients: tuple[str, ...]
    level: int
    max_seconds: float
    key: SigningKey
    trusted: Mapping[str, bytes] = field(repr=False)
    pinned: str | None
    told: Told
    noted: Noted

    @property
    def slot(self) -> str:
        return wal.slot_name(self.archive.plan)


class Shipper:
    """Archives the WAL of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._to: Sequence[sealing.Recipient] = sealing.recipients(plan.recipients)
        self._log = structlog.get_logger("dbshield.wal").bind(plan=plan.archive.plan, environment=plan.archive.environment)
        self._place: Place | None = None
        self._partials: dict[str, list[Held]] = {}
        self._pending: Mark | None = None
        self._marks: list[Mark] = []
        """The newest two that have arrived: what was whole before the newest has that before it."""
        self._marked = 0.0
        self._shipped_to = 0
        self._connection: Connection | None = None
        self._failed_since: float | None = None
        self._failing = ""
        self._histories: set[str] = set()
        self._covered: set[str] = set()
        self.newest: Piece | None = None

    def run(self, stop: Event, *, once: bool = False) -> None:
        """Works until told to stop; with `once` until everything that is committed now is at the destination.

        What fails is told and tried again; with `once` it raises BackupError. Refused where another process archives the plan.
        """
        pause = RETRY_FIRST
        with wal_receive.spool(self._plan.spool) as work:
            while not stop.is_set():
                try:
                    self._session(work, stop, once=once)
                except (DbshieldError, psycopg.Error, OSError) as error:
                    why = error.message if isinstance(error, DbshieldError) else " ".join(str(error).split())
                    self._log.warning("archiving the WAL failed", why=why)
                    if self._failed_since is None:
                        self._failed_since, pause = time.monotonic(), RETRY_FIRST
                    # A server that is started again is no reason to wake people up: it is told when it lasts.
                    if once or time.monotonic() - self._failed_since >= PATIENCE:
                        self._fail(why)
                    if once:
                        raise BackupError(f"archiving the WAL failed: {why}", hint=getattr(error, "hint", "")) from error
                    stop.wait(pause)
                    pause = min(pause * 2, RETRY_MOST)
                else:
                    return

    def _fail(self, why: str) -> None:
        if self._failing != why:
            self._failing = why
            with contextlib.suppress(DbshieldError):
                self._plan.told("wal-failed", why)

    def _works(self) -> None:
        if self._failing:
            self._log.info("archiving the WAL works again")
        self._failed_since, self._failing = None, ""

    # One connection to the server -------------------------------------------------------------------------------------------

    def _session(self, work: Work, stop: Event, *, once: bool) -> None:
        folder = self._begin(work.folder)
        command = wal_receive.receiver(self._plan.source, self._plan.programs, work, folder, self._plan.slot)
        try:
            with self._plan.source.connect(self._plan.source.databases[0]) as connection:
                connection.execute("set synchronous_commit = 'local'")
                self._connection, self._pending = connection, None
                self._marked = time.monotonic() - self._plan.max_seconds
                while not stop.is_set():
                    if self._step(folder) and once:
                        return
                    if command.poll() is not None:
                        raise BackupError(f"pg_receivewal ended: {command.last_lines()}", hint="Look at the server's log.")
                    stop.wait(LOOK)
        finally:
            self._connection = None
            command.end()
            command.forget()

    def _begin(self, spool: Path) -> Path:
        """Find where to go on: after what the archive has, if the server has that still. The folder of this cluster's WAL."""
        plan = self._plan
        if isinstance(plan.archive.store, Holding):
            plan.archive.store.require_lock()
        there = plan.archive.held()
        place = wal_receive.place(plan.source, plan.slot, pinned=plan.pinned, known=bool(there))
        folder = spool / place.system
        folder.mkdir(exist_ok=True, mode=0o700)
        own = [each for each in there if each.system == place.system]
        self._partials = {}
        for each in own:
            if each.kind is Kind.PARTIAL:
                self._partials.setdefault(each.name, []).append(each)
        newest = max((each.timeline for each in own), default=0)
        if newest > place.timeline:
            raise BackupError(
                f"the server is on timeline {place.timeline}, and the archive has timeline {newest} of it already",
                hint="It is an older one than that which was archived last; look at source.",
            )
        self._go_on_from(own, place)
        self._ship_spool(folder)
        size = place.segment_size
        expected = self._expected(folder, own, place)
        kept = place.kept_from // size
        if expected is not None and expected < kept:
            first, last = (wal.segment_at(place.timeline, number * size, size) for number in (expected, kept - 1))
            self._log.error("a gap in the WAL archive", first=first, last=last)
            why = place.renewed or "the server has them no longer"
            plan.told("wal-gap", f"{why}: the WAL archive has no {first} to {last}; make a new snapshot")
        begin = expected if expected is not None and expected >= kept else kept
        newest_there = max(wal_receive.names(folder), default="")
        if newest_there != moment.segment_name(place.timeline, begin - 1, size):
            if (left := wal_receive.partial(folder)) is not None and not left.name.startswith(f"{place.timeline:08X}"):
                self._ship_partial(left)
            wal_receive.clear(folder)
            wal_receive.mark_beginning(folder, place.timeline, begin, size)
        return folder

    def _go_on_from(self, own: Sequence[Held], place: Place) -> None:
        """What is known of the place from before: its newest mark, by which whole segments are marked as well."""
        if self._place is None or (self._place.system, self._place.timeline) != (place.system, place.timeline):
            self._marks, self._shipped_to = [], 0
            here = [each for each in own if each.timeline == place.timeline]
            newest = self._plan.archive.newest_mark(here, self._plan.trusted)
            if newest is not None and newest.marked is not None:
                self._marks = [Mark(lsn=newest.mark, at=newest.marked, after=newest.mark)]
        self._place = place

    def _expected(self, folder: Path, own: Sequence[Held], place: Place) -> int | None:
        """The number of the segment that has to come next; nothing where nothing was archived yet."""
        size, timeline = place.segment_size, place.timeline
        here = [each for each in own if each.timeline == timeline]
        next_ones = [wal.number_of(each.name, size) + 1 for each in here if each.kind is Kind.SEGMENT]
        next_ones += [wal.number_of(each.name, size) for each in here if each.kind is Kind.PARTIAL]
        next_ones += [wal.number_of(name, size) + 1 for name in wal_receive.names(folder) if wal.timeline_of(name) == timeline]
        if next_ones:
            return max(next_ones)
        if place.forks and any(each.kind is not Kind.HISTORY for each in own):
            return place.forks[-1].end // size
        return None

    # The spool --------------------------------------------------------------------------------------------------------------

    def _step(self, folder: Path) -> bool:
        """Put what has arrived; whether all that was committed before a mark is there now."""
        self._mark_if_due()
        arrived = self._arrived(folder)
        if arrived is not None:
            self._marks, self._pending = [*self._marks, arrived][-2:], None
        shipped = self._ship_spool(folder)
        if arrived is not None and (left := wal_receive.partial(folder)) is not None:
            # A segment may have been finished meanwhile: nothing goes there before what is in front of it.
            shipped = self._ship_spool(folder) or shipped
            shipped = self._ship_partial(left) or shipped
        if shipped:
            self._works()
        if arrived is None:
            return False
        if self.newest is None or self.newest.mark < arrived.lsn:
            # It lies at the very end of what is whole; the next one does not.
            self._marked = -math.inf
            return False
        return True

    def _mark_if_due(self) -> None:
        if self._pending is not None:
            if time.monotonic() - self._marked > ARRIVAL:
                raise BackupError("the WAL does not arrive", hint="Look at pg_stat_replication and the server's log.")
            return
        if time.monotonic() - self._marked < self._plan.max_seconds:
            return
        assert self._connection is not None, "a session has one"
        at, lsn = self._connection.execute(MARK).fetchone() or (datetime.now(UTC), "0/0")
        _, after = self._connection.execute(MARK).fetchone() or (at, "0/0")
        self._marked = time.monotonic()
        self._pending = Mark(lsn=moment.lsn(lsn), at=at, after=moment.lsn(after))

    def _arrived(self, folder: Path) -> Mark | None:
        place, pending = self._place, self._pending
        assert place is not None, "a session begins by finding it"
        if pending is not None and (
            pending.after < self._shipped_to or wal_receive.holds(folder, place.timeline, pending.after, place.segment_size)
        ):
            return pending
        return None

    def _ship_spool(self, folder: Path) -> bool:
        """Put histories and whole segments that are not there yet; whether there was one."""
        place = self._place
        assert place is not None, "a session begins by finding it"
        for name, path in wal_receive.histories(folder).items():
            if name not in self._histories:
                self._put(Kind.HISTORY, name, path.read_bytes())
                self._histories.add(name)
        whole = wal_receive.segments(folder)
        for name, path in whole.items():
            self._put(Kind.SEGMENT, name, path.read_bytes())
            self._drop_partials(name)
            wal_receive.empty(path, place.segment_size)
        # Others may have arrived meanwhile: what goes is older, and empty.
        waiting = wal_receive.segments(folder)
        for name in wal_receive.names(folder):
            if whole and name < max(whole) and name not in waiting:
                (folder / name).unlink()
        return bool(whole)

    def _ship_partial(self, path: Path) -> bool:
        """Put what there is of a segment, whatever of it was there before."""
        try:
            data = wal_receive.received(path)
        except FileNotFoundError:
            # It has become full since somebody saw it, and goes there whole.
            return False
        name = path.name.removesuffix(wal_receive.PARTIAL)
        if not data or len(data) <= max((each.length for each in self._partials.get(name, ())), default=0):
            return False
        piece = self._put(Kind.PARTIAL, name, data)
        self._drop_partials(name)
        found = wal.held(piece.key, piece.stored, environment=piece.environment, plan=piece.plan)
        assert found is not None, "its name is one of ours"
        self._partials[name] = [found]
        return True

    def _drop_partials(self, name: str) -> None:
        """Where removing is not allowed they stay, and `backup prune` takes them."""
        for each in self._partials.pop(name, ()):
            with contextlib.suppress(BackupError):
                self._plan.archive.remove(each)

    def _tell_covered(self) -> None:
        """Tell, once, that something lies over what was read here."""
        store = self._plan.archive.store
        for what in store.covered() if isinstance(store, Holding) else ():
            if what not in self._covered:
                self._covered.add(what)
                self._plan.told("backup-tampered", what)

    def _put(self, kind: Kind, name: str, data: bytes) -> Piece:
        plan, place = self._plan, self._place
        assert place is not None, "a session begins by finding it"
        start = wal.number_of(name, place.segment_size) * place.segment_size if kind is not Kind.HISTORY else 0
        end = start + len(data) if kind is not Kind.HISTORY else 0
        # What is left of another timeline has other marks.
        here = wal.timeline_of(name) == place.timeline
        known = next((mark for mark in reversed(self._marks) if here and mark.after < end), None)
        piece = Piece(
            environment=plan.archive.environment,
            plan=plan.archive.plan,
            system=place.system,
            timeline=wal.timeline_of(name),
            kind=str(kind),
            name=name,
            segment_size=place.segment_size,
            start=start,
            end=end,
            size=0,
            stored=0,
            sha256="",
            plain="",
            recipients=plan.recipients,
            mark=known.lsn if known is not None else 0,
            marked_at=wal_time(known.at) if known is not None else "",
            shipped_at=wal_time(datetime.now(UTC)),
        )
        made, _ = plan.archive.put(piece, data, to=self._to, level=plan.level, key=plan.key, trusted=plan.trusted)
        self._tell_covered()
        if kind is not Kind.HISTORY:
            self.newest = made
            self._shipped_to = max(self._shipped_to, end if kind is Kind.SEGMENT and here else 0)
            with contextlib.suppress(DbshieldError):
                # The archive is whole without the control database, and may be what is left of both.
                plan.noted(made)
        return made


def wal_time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
