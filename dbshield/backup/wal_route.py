"""Which pieces of the WAL archive lead from a base backup to a moment: timelines, gaps, and how far it reaches. Pure.

A server that was itself restored goes on under another timeline, whose history says from where. The way to a moment is along the
ancestors of one timeline: the newest that the base backup is an ancestor of, where nobody names another.

Source: src/backend/access/transam/timeline.c (readTimeLineHistory, tliOfPointInHistory).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbshield.backup import moment
from dbshield.backup.damage import Damaged
from dbshield.backup.moment import lsn_text, segment_name
from dbshield.backup.wal import Held, Kind, number_of
from dbshield.errors import BackupError

NAMED = 8
"""Missing segments that are named; a count tells of the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A timeline that ended where another one began: its number, and the LSN of the end."""

    timeline: int
    end: int


class MissingWal(Damaged):
    """Segments in the middle of the way are not in the archive; `names` has all of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        super().__init__(
            f"the WAL archive has no {', '.join(names[:NAMED])}{more}",
            hint="Restore to a moment before that, or from a snapshot that was made after it.",
        )


def history(text: bytes) -> tuple[Fork, ...]:
    """The ancestors that a timeline's history names, the oldest first. Raises Damaged."""
    found = []
    try:
        for line in text.decode().splitlines():
            parts = line.split("#", 1)[0].split()
            if parts:
                found.append(Fork(timeline=int(parts[0]), end=moment.lsn(parts[1])))
    except (ValueError, IndexError) as error:
        raise Damaged("a timeline's history in the WAL archive cannot be read", hint="It was changed there.") from error
    return tuple(found)


def timeline_from(start: int, lsn: int, histories: Mapping[int, Sequence[Fork]], there: Sequence[int]) -> int:
    """The newest of the timelines `there` that one which was at `lsn` on the timeline `start` leads to."""
    fitting = [start]
    for each in there:
        fitting += [each for fork in histories.get(each, ()) if fork.timeline == start and lsn <= fork.end]
    return max(fitting)


def timeline_at(lsn: int, target: int, forks: Sequence[Fork]) -> int:
    """On which timeline the way to `target` is at this LSN."""
    for fork in forks:
        if lsn < fork.end:
            return fork.timeline
    return target


def names(first: int, last: int, *, target: int, forks: Sequence[Fork], size: int) -> tuple[str, ...]:
    """The files of the segments numbered `first` to `last`, each on the timeline that has its last byte on the way to `target`.

    A segment in which a timeline begins has what was before in it as well.
    """
    return tuple(
        segment_name(timeline_at((number + 1) * size - 1, target, forks), number, size) for number in range(first, last + 1)
    )


def way(
    found: Sequence[Held], *, first: int, target: int, forks: Sequence[Fork], size: int, stop: int | None = None
) -> tuple[Held, ...]:
    """The pieces from the segment numbered `first` on, to the one that has the LSN `stop`, or to the end of the archive.

    Raises MissingWal where one in the middle is not there; BackupError where `stop` is after its end.
    """
    segments = {each.name: each for each in found if each.kind is Kind.SEGMENT}
    partial = {
        each.name: each
        for each in sorted(found, key=lambda each: each.length)
        if each.kind is Kind.PARTIAL and each.name not in segments
    }
    on_target = [number_of(name, size) for name in (*segments, *partial) if int(name[:8], 16) == target]
    last = max(on_target, default=first - 1)
    if stop is not None:
        if stop // size > last:
            raise BackupError(
                f"the WAL archive ends before {lsn_text(stop)}",
                hint="Name an earlier place; `dbshield backup wal --until-shipped` adds what is missing.",
            )
        last = stop // size
    wanted = names(first, last, target=target, forks=forks, size=size)
    missing = [name for name in wanted if name not in segments and not (name == wanted[-1] and name in partial)]
    if missing:
        raise MissingWal(missing)
    return tuple(segments.get(name) or partial[name] for name in wanted)


def gaps(found: Sequence[Held], size: int) -> tuple[str, ...]:
    """Segments that are missing between others of the same timeline."""
    missing = []
    for timeline in sorted({each.timeline for each in found if each.kind is not Kind.HISTORY}):
        numbers = {number_of(each.name, size) for each in found if each.timeline == timeline and each.kind is not Kind.HISTORY}
        missing += [segment_name(timeline, number, size) for number in range(min(numbers), max(numbers)) if number not in numbers]
    return tuple(missing)
