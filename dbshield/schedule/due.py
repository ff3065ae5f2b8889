"""When a cron expression is due on the clock of a time zone. Pure.

APScheduler's trigger walks the wall clock as if it had no zone; what a clock does twice a year is decided here, as cron(8) does:
- A time that the clock leaves out (02:30 on a Sunday in March) is due right after the gap, once.
- A time that the clock shows twice is due the first time. What goes by minutes alone (`*/15 * * * *`) is due both times.

Left to its own zone arithmetic, APScheduler 3.11 is due at 02:30 both times; and it counts weekdays from Monday, cron from Sunday
(tests/unit/schedule/test_due.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import islice
from typing import Final, cast
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from dbshield.config.cron import Cron

SHIFT: Final = timedelta(hours=3)
"""More than any clock is put forward or back, but for the two islands that moved across the date line."""
COUNTED: Final = 100
"""Due times that are counted one by one when nobody ran them. More are said to be so many."""
MINUTE: Final = timedelta(minutes=1)
SPANS: Final = tuple(timedelta(days=days) for days in (1, 32, 367, 8 * 366))
"""Within which the newest due time before now is looked for; the last has a 29 February in it, whatever the century."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The newest due time of a job that a run was recorded for, and what became of it."""

    due: datetime
    state: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A run that should be under way. `missed` are due times before this one that nobody ran."""

    due: datetime
    attempt: int = 1
    missed: int = 0


AGAIN: Final = frozenset({"lost", "stopped"})
"""States of runs that did not end by themselves; they are tried once more."""


def dues(cron: Cron, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Due times after a moment, in order, in UTC. It ends only at the end of the calendar."""
    trigger = _trigger(cron)
    waiting: list[datetime] = []
    last = after
    wall = after.astimezone(zone).replace(tzinfo=UTC) - SHIFT
    while (found := cast("datetime | None", trigger.get_next_fire_time(None, wall))) is not None:
        first = _instant(found, zone, fold=0)
        while waiting and waiting[0] < first - SHIFT:
            if (ready := heappop(waiting)) > last:
                last = ready
                yield ready
        heappush(waiting, first)
        if cron.every_hour:
            heappush(waiting, _instant(found, zone, fold=1))
        wall = found + MINUTE
    while waiting:
        if (ready := heappop(waiting)) > last:
            last = ready
            yield ready


def next_due(cron: Cron, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first due time after a moment; nothing where the calendar has none."""
    return next(dues(cron, zone, after), None)


def newest_due(cron: Cron, zone: ZoneInfo, after: datetime, now: datetime) -> Due | None:
    """The last due time in (after, now], and how many before it, `COUNTED` at the most; nothing where there is none."""
    found = list(islice(_until(cron, zone, after, now), COUNTED + 1))
    if not found:
        return None
    if len(found) <= COUNTED:
        return Due(due=found[-1], missed=len(found) - 1)
    for span in SPANS:
        for newest in _until(cron, zone, max(after, now - span), now):
            found[-1] = newest
        if found[-1] > now - span:
            break
    return Due(due=found[-1], missed=COUNTED)


def what_is_due(cron: Cron, zone: ZoneInfo, *, since: datetime, ran: Ran | None, now: datetime) -> Due | None:
    """The run that should be under way now. However many due times passed, they are one run, the newest.

    `since` is when the job was first seen with this expression: nothing is due before. A run that did not end by itself is due
    again, once, unless a newer time has come.
    """
    newest = newest_due(cron, zone, max(since, ran.due) if ran is not None else since, now)
    if newest is None and ran is not None and ran.state in AGAIN and ran.attempt == 1:
        return Due(due=ran.due, attempt=2)
    return newest


def overdue(
    cron: Cron,
    zone: ZoneInfo,
    *,
    since: datetime,
    done: datetime | None,
    running: datetime | None,
    now: datetime,
    grace: timedelta,
) -> datetime | None:
    """The due time that should have been met by now and was not; nothing where all is well.

    `done` is the newest due time with a run that ended well, `running` that of the one under way. A run that takes long is late
    only when the time after its own has come as well: a large database is no reason for an alarm every night.
    """
    first = next_due(cron, zone, max(since, done) if done is not None else since)
    if first is None or now < first + grace:
        return None
    if running is not None and running >= first:
        after = next_due(cron, zone, running)
        return first if after is not None and now >= after + grace else None
    return first


def _until(cron: Cron, zone: ZoneInfo, after: datetime, now: datetime) -> Iterator[datetime]:
    for due in dues(cron, zone, after):
        if due > now:
            return
        yield due


def _instant(wall: datetime, zone: ZoneInfo, *, fold: int) -> datetime:
    """What the clock shows, as a moment. With fold 0 a time that is left out becomes the one after the gap (PEP 495)."""
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _trigger(cron: Cron) -> CronTrigger:
    weekdays = sorted((day - 1) % 7 for day in cron.weekdays)
    return CronTrigger(
        month=_numbers(cron.months, 12),
        day=_numbers(cron.days, 31),
        day_of_week=_numbers(tuple(weekdays), 7),
        hour=_numbers(cron.hours, 24),
        minute=_numbers(cron.minutes, 60),
        timezone=UTC,
    )


def _numbers(values: tuple[int, ...], all_of_them: int) -> str:
    return "*" if len(values) == all_of_them else ",".join(map(str, values))
