"""Which snapshots may go. Pure: snapshots and rules in, a reason for each of them out.

Laws, which hold whatever the rules say (tests/unit/backup/test_retention.py tries to break them):
- The newest complete snapshot of a plan stays; so does the newest that failed no drill, and the newest that a drill has proven.
- What a snapshot that stays was made upon stays as well, and whatever the window of the WAL begins with.
- One that is being made stays. One that failed, or failed its drill, does not count as one of those that are to be kept, and is
  removed once it is older than `failed_for`, since nothing can be restored from it and somebody may want to look at it.
- A run removes no more than `at_most`, the oldest first, so that a wrong rule costs a little and is seen.

What is newer is what the catalogue recorded later, whatever a clock said: one that went back would make the newest the oldest,
and each snapshot would be removed as soon as it is made. Times are those of recording, counted in UTC: a name proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

COMPLETE, RUNNING, FAILED = "complete", "running", "failed"
PASSED = "passed"
NEEDED = "another needs it"
CALENDAR: Final[Mapping[str, Callable[[datetime], tuple[int, ...]]]] = {
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: tuple(at.isocalendar())[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: (at.year,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A snapshot that is still there. `number` is its place in the catalogue's order, `recorded` when it got that, with a zone.

    `drilled` is the verdict of its newest drill; `parent` is the id of the one that it was made upon.
    """

    id: str
    plan: str
    state: str
    number: int
    recorded: datetime
    drilled: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How many to keep: the last ones, and the newest of each of so many days, weeks (Monday to Sunday), months and years that
    have one. `wal_window` keeps every snapshot within it, and the newest before it. `at_most` bounds the removals of a run."""

    last: int = 7
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    wal_window: timedelta = timedelta()
    failed_for: timedelta = timedelta(days=7)
    at_most: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of a snapshot: the reasons to keep it, or none. `later` is true where it may go, and not in this run."""

    snapshot: Candidate
    keep: tuple[str, ...]
    later: bool = False

    @property
    def goes(self) -> bool:
        """Whether it is removed in this run."""
        return not self.keep and not self.later


def fates(
    snapshots: Sequence[Candidate], rules: Rules, now: datetime, held: Mapping[str, str] = MappingProxyType({})
) -> tuple[Fate, ...]:
    """The fate of every snapshot, the newest first. Plans do not know of each other, but for parents.

    `held` has reasons to keep that are not known here, by the snapshots' ids.
    """
    reasons: dict[str, list[str]] = {snapshot.id: [held[snapshot.id]] if snapshot.id in held else [] for snapshot in snapshots}
    for plan in {snapshot.plan for snapshot in snapshots}:
        for snapshot, reason in _wanted([one for one in snapshots if one.plan == plan], rules, now):
            reasons[snapshot.id].append(reason)
    _keep_parents(snapshots, reasons)
    now_gone = _gone_now(snapshots, [one for one in snapshots if not reasons[one.id]], rules.at_most)
    return tuple(
        Fate(
            snapshot=snapshot,
            keep=tuple(reasons[snapshot.id]),
            later=not reasons[snapshot.id] and snapshot.id not in now_gone,
        )
        for snapshot in _newest_first(snapshots)
    )


def _wanted(snapshots: Sequence[Candidate], rules: Rules, now: datetime) -> Iterable[tuple[Candidate, str]]:
    """The reasons of one plan, each with its snapshot."""
    complete = [snapshot for snapshot in _newest_first(snapshots) if snapshot.state == COMPLETE]
    good = [snapshot for snapshot in complete if snapshot.drilled != FAILED]
    for snapshot in snapshots:
        if snapshot.state == RUNNING:
            yield snapshot, "it is being made"
        elif snapshot.state not in {COMPLETE, FAILED}:
            yield snapshot, f'its state is "{snapshot.state}", which is not known here'
        elif FAILED in {snapshot.state, snapshot.drilled} and now - snapshot.recorded < rules.failed_for:
            yield snapshot, "it failed lately" if snapshot.state == FAILED else "it failed its drill, lately"
    yield from ((snapshot, "the newest") for snapshot in complete[:1])
    yield from ((snapshot, "the newest that did not fail a drill") for snapshot in good[:1] if snapshot not in complete[:1])
    yield from ((snapshot, "the newest that a drill proved") for snapshot in [one for one in good if one.drilled == PASSED][:1])
    yield from ((snapshot, f"one of the last {rules.last}") for snapshot in good[: rules.last])
    for word, count in (("daily", rules.daily), ("weekly", rules.weekly), ("monthly", rules.monthly), ("yearly", rules.yearly)):
        for snapshot in _newest_of_each(good, CALENDAR[word], count):
            yield snapshot, word
    if rules.wal_window:
        begin = now - rules.wal_window
        yield from ((snapshot, "within the window of the WAL") for snapshot in good if snapshot.recorded >= begin)
        before = [snapshot for snapshot in good if snapshot.recorded < begin]
        yield from ((snapshot, "the window of the WAL begins behind it") for snapshot in before[:1])


def _newest_of_each(
    complete: Sequence[Candidate], period: Callable[[datetime], tuple[int, ...]], count: int
) -> Iterable[Candidate]:
    seen: set[tuple[int, ...]] = set()
    for snapshot in complete:
        key = period(snapshot.recorded.astimezone(UTC))
        if key not in seen:
            if len(seen) == count:
                return
            seen.add(key)
            yield snapshot


def _keep_parents(snapshots: Sequence[Candidate], reasons: dict[str, list[str]]) -> None:
    """What a kept one was made upon is kept, and so on. A snapshot is named once, however many need it."""
    by_id = {snapshot.id: snapshot for snapshot in snapshots}
    todo = [snapshot for snapshot in snapshots if reasons[snapshot.id]]
    while todo:
        parent = by_id.get(todo.pop().parent or "")
        if parent is None:
            continue
        if not reasons[parent.id]:
            todo.append(parent)
        if NEEDED not in reasons[parent.id]:
            reasons[parent.id].append(NEEDED)


def _gone_now(snapshots: Sequence[Candidate], removable: Sequence[Candidate], at_most: int) -> set[str]:
    """The oldest first, and none while another that was made upon it is there: a run may end in the middle."""
    gone: set[str] = set()
    waiting = _newest_first(removable)[::-1]
    while waiting and len(gone) < at_most:
        needed = {snapshot.parent for snapshot in snapshots if snapshot.id not in gone}
        found = next((snapshot for snapshot in waiting if snapshot.id not in needed), None)
        if found is None:
            break
        waiting.remove(found)
        gone.add(found.id)
    return gone


def _newest_first(snapshots: Iterable[Candidate]) -> list[Candidate]:
    return sorted(snapshots, key=lambda snapshot: (snapshot.number, snapshot.id), reverse=True)


def wal_needed(decided: Sequence[Fate], rules: Rules, now: datetime) -> tuple[Candidate, ...]:
    """The snapshots from which on WAL is kept, all of one plan: of those that stay and did not fail a drill the ones within the
    window and the newest before it, the newest, and the newest that a drill proved. None where there is no such snapshot: then
    nobody knows what the WAL is good for, and all of it stays.
    """
    there = [fate.snapshot for fate in decided if not fate.goes]
    good = [one for one in _newest_first(there) if one.state == COMPLETE and one.drilled != FAILED]
    begin = now - rules.wal_window
    needed = {one.id: one for one in good if one.recorded >= begin}
    for group in (good, [one for one in good if one.recorded < begin], [one for one in good if one.drilled == PASSED]):
        needed |= {one.id: one for one in group[:1]}
    return tuple(needed.values())
