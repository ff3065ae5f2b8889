"""Restoring beyond a snapshot's own moment: the WAL archive's pieces that lead there, and what recovery is told.

What is missing is found from the archive's names before anything is fetched, and how far it reaches from its newest piece: a
server that is started with a hole in its WAL may say that all is well (tried).

Source: PostgreSQL manual, "Recovery Target"; xlogrecovery.c (recoveryStopsBefore, recoveryStopsAfter).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbshield.backup import moment, tablespaces, wal_route
from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.damage import Damaged
from dbshield.backup.moment import lsn_text
from dbshield.backup.record import BaseRecord
from dbshield.backup.restore import Goal, Order
from dbshield.backup.wal import Held, Kind, Piece
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_route import Fork
from dbshield.cluster.account import Account
from dbshield.errors import BackupError, ConfigError

LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
TOO_EARLY = "requested recovery stop point is before consistent recovery point"
"""What recovery says of a target that lies before the end of the base backup."""
SEARCHED = 1000
"""Snapshots that are looked through for one that ends before a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """From a base backup to a goal: the pieces in their order, the histories by timeline, and the newest piece, to whose mark the
    archive reaches."""

    archive: Archive
    pieces: tuple[Held, ...]
    histories: Mapping[int, bytes]
    timeline: int
    forks: tuple[Fork, ...]
    newest: Piece


def moment_of(text: str) -> datetime:
    """A time as people write it, with a zone: RFC 3339, or with a space. Raises ConfigError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f'"{text}" is no time', hint="Write it as in 2026-05-01T12:00:00Z.") from None
    if found.tzinfo is None:
        raise ConfigError(f'"{text}" has no time zone', hint="Write it as in 2026-05-01T12:00:00Z or 2026-05-01T14:00:00+02:00.")
    return found


def place_of_text(text: str) -> int:
    """An LSN as a number. Raises ConfigError."""
    if LSN.fullmatch(text) is None:
        raise ConfigError(f'"{text}" is no LSN', hint="Write it as PostgreSQL does: 16/B374D848.")
    return moment.lsn(text)


def newest_before(catalogue: Catalogue, environment: str, plan: str | None, goal: Goal) -> Snapshot:
    """The newest physical snapshot that ended before the goal. Raises BackupError where there is none."""
    there = [
        found
        for found in catalogue.list(environment=environment, plan=plan, limit=SEARCHED)
        if found.state == "complete" and found.pruned_at is None and found.engine == "physical"
    ]
    for found in there:
        if is_before(goal, ended=found.ended, lsn=found.lsn):
            return found
    if goal.lsn and there:
        # The place may be among the WAL that the oldest has itself.
        return there[-1]
    raise BackupError(
        f"no physical snapshot of {environment} ended before {goal}",
        hint="`dbshield backup list` shows what there is; WAL leads onward from a snapshot, never back.",
    )


def is_before(goal: Goal, *, ended: datetime | None, lsn: str | None) -> bool:
    """Whether a snapshot that ended then, at that LSN, leads to the goal."""
    if goal.at:
        return ended is not None and ended <= moment_of(goal.at)
    return lsn is not None and moment.lsn(lsn) <= place_of_text(goal.lsn)


def look(order: Order, base: BaseRecord) -> Route | None:
    """The way to the order's goal; nothing where the snapshot's own WAL leads there. Nothing is fetched but heads and histories.

    Raises MissingWal with what is not there, BackupError where the goal is out of reach, with the newest moment that is not.
    """
    goal, manifest = order.goal, order.reader.manifest
    if not goal:
        return None
    place = place_of_text(goal.lsn) if goal.lsn else None
    if place is not None and place < moment.lsn(base.end):
        raise BackupError(f"the snapshot {manifest.snapshot} ends at {base.end}, after {goal.lsn}", hint="Name an older one.")
    if place is not None and place <= moment.lsn(base.target) and not goal.timeline:
        return None
    archive = Archive(order.repository.store, manifest.environment, manifest.plan)
    found = archive.held(manifest.server.system)
    if not any(each.kind is not Kind.HISTORY for each in found):
        raise BackupError(
            f"there is no WAL archive of {manifest.environment} for the plan {manifest.plan}, so only the snapshot's own"
            f" moment, {base.target}, can be restored",
            hint="`dbshield backup wal` makes one from now on.",
        )
    histories = {
        each.timeline: archive.read(each.key, order.trusted, order.identities)[1] for each in found if each.kind is Kind.HISTORY
    }
    forks = {timeline: wal_route.history(text) for timeline, text in histories.items()}
    there = sorted({each.timeline for each in found if each.kind is not Kind.HISTORY})
    end = moment.lsn(base.end)
    timeline = goal.timeline or wal_route.timeline_from(base.timeline, end, forks, there)
    if place is not None and not goal.timeline:
        timeline = wal_route.timeline_at(place, timeline, forks.get(timeline, ()))
    newest = archive.newest_mark([each for each in found if each.timeline == timeline], order.trusted)
    _require_reach(goal, place, newest, timeline)
    assert newest is not None, "it is within reach"
    pieces = wal_route.way(
        found,
        # The snapshot has whole segments of its own before this one.
        first=moment.lsn(base.target) // base.segment_size,
        target=timeline,
        forks=forks.get(timeline, ()),
        size=base.segment_size,
        stop=place,
    )
    return Route(
        archive=archive, pieces=pieces, histories=histories, timeline=timeline, forks=forks.get(timeline, ()), newest=newest
    )


def _require_reach(goal: Goal, place: int | None, newest: Piece | None, timeline: int) -> None:
    if newest is None or newest.marked is None:
        raise BackupError(f"the WAL archive has nothing of timeline {timeline} that could be restored", hint="Name another one.")
    late = newest.mark < place if place is not None else newest.marked <= moment_of(goal.at)
    if late:
        raise BackupError(
            f"the WAL archive ends before {goal}",
            hint=f"The newest moment that it has is {newest.marked_at}, at {lsn_text(newest.mark)}.",
        )


def fetch(order: Order, route: Route, folder: Path, account: Account) -> None:
    """The pieces of the way, opened, into the folder that recovery reads, until the goal is among them.

    Raises Absent, Damaged, WrongKey, and BackupError where the destination or this disk fails. Damaged as well where the WAL
    makes a tablespace, which recovery would put where it is on the source.
    """
    until = moment_of(order.goal.at) if order.goal.at else None
    order.progress.step("WAL", sum(each.stored for each in route.pieces))
    for timeline, text in route.histories.items():
        _write(folder / f"{timeline:08X}.history", text, account)
    spans: dict[int, tuple[int, int]] = {}
    for each in route.pieces:
        piece, data = route.archive.read(each.key, order.trusted, order.identities)
        order.progress.advance(each.stored)
        if len(data) > piece.segment_size:
            raise Damaged(f"{piece.object_name} of the WAL archive is longer than a segment", hint="It was not made by dbshield.")
        _write(folder / each.name, data, account, size=piece.segment_size)
        spans[piece.timeline] = (spans.get(piece.timeline, (piece.start, 0))[0], piece.end)
        if until is not None and piece.marked is not None and piece.marked > until:
            break
    program = order.binaries.program("pg_waldump")
    for timeline, (start, end) in spans.items():
        last = min(end, place_of_text(order.goal.lsn)) if order.goal.lsn else end
        if start < last:
            tablespaces.require_none_made(program, folder, timeline=timeline, start=lsn_text(start), end=lsn_text(last))


def _write(path: Path, data: bytes, account: Account, *, size: int = 0) -> None:
    """A file of the archive's under its name, filled up with zeros as PostgreSQL does."""
    try:
        # The snapshot's own copy of the segment that it ends in has less in it.
        path.unlink(missing_ok=True)
        with path.open("xb") as stream:
            path.chmod(0o600)
            stream.write(data)
            if size:
                stream.truncate(size)
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}", hint="Look at that disk.") from error
    account.own(path, 0o600)


def target(goal: Goal, base: BaseRecord, route: Route | None) -> Mapping[str, str]:
    """What recovery is told. Without a goal the place that was counted."""
    common = {
        "recovery_target_action": "pause",
        "recovery_target_timeline": str(route.timeline if route is not None else base.timeline),
    }
    if goal.at:
        inclusive = "off" if goal.before else "on"
        when = moment_of(goal.at).astimezone(UTC).isoformat(sep=" ")
        return {"recovery_target_time": when, "recovery_target_inclusive": inclusive, **common}
    return {"recovery_target_lsn": goal.lsn or base.target, "recovery_target_inclusive": "off", **common}
