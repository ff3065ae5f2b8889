"""Removing WAL that nothing needs: what lies before every snapshot from which on any moment is to be restored.

Laws:
- A segment goes when it ends before the start of each of those snapshots, on their timelines or on older ones. A history stays.
- Where one of those snapshots does not say where it begins, nothing goes.
- The beginning of a segment goes when more of it, or all of it, is there.
- What the store keeps locked stays, and what was put after it as well: its lock ends later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dbshield.backup import moment
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.retention import Candidate
from dbshield.backup.wal import Held, Kind, number_of
from dbshield.backup.wal_archive import Archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the WAL that a snapshot needs begins."""

    system: str
    timeline: int
    lsn: int
    segment_size: int


def starts(catalogue: Catalogue, needed: Sequence[Candidate]) -> tuple[Start, ...] | None:
    """Where the WAL of each begins; nothing where one of them does not say so."""
    found = []
    for snapshot in needed:
        manifest, record = catalogue.details(snapshot.id)
        base = (record or {}).get("base")
        if manifest is None or base is None:
            return None
        found.append(
            Start(
                system=str(manifest["server"]["system"]),
                timeline=int(base["timeline"]),
                lsn=moment.lsn(base["start"]),
                segment_size=int(base["segment_size"]),
            )
        )
    return tuple(found)


def going(there: Sequence[Held], needed: Sequence[Start]) -> Iterator[Held]:
    """What of an archive nothing needs. Nothing where there is no snapshot at all."""
    longest = {each.name: each.length for each in sorted(there, key=lambda each: each.length) if each.kind is Kind.PARTIAL}
    whole = {each.name for each in there if each.kind is Kind.SEGMENT}
    for each in there:
        own = [start for start in needed if start.system == each.system]
        if each.kind is Kind.HISTORY or not own:
            continue
        more = each.kind is Kind.PARTIAL and (each.name in whole or each.length < longest[each.name])
        if more or all(_before(each, start) for start in own):
            yield each


def _before(each: Held, start: Start) -> bool:
    end = (number_of(each.name, start.segment_size) + 1) * start.segment_size
    return each.timeline <= start.timeline and end <= start.lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """How many objects went, and until when the store keeps the first of those that it did not let go."""

    gone: int = 0
    locked_until: datetime | None = None


def trim(archive: Archive, needed: Sequence[Start], now: datetime) -> Trimmed:
    """Remove what nothing needs, the oldest first. Raises BackupError."""
    gone = 0
    locked: dict[tuple[str, int, Kind], datetime] = {}
    for each in going(archive.held(), needed):
        # One request tells of all that came after it: there may be thousands.
        row = (each.system, each.timeline, each.kind)
        if row in locked:
            continue
        until = archive.held_until(each)
        if until is not None and until > now:
            locked[row] = until
            continue
        archive.remove(each)
        gone += 1
    return Trimmed(gone=gone, locked_until=min(locked.values(), default=None))
