"""Hours in which a token works, as people write them: `Mon-Fri 08:00-18:00 Europe/Berlin`.

The form is `DAYS HH:MM-HH:MM[, DAYS HH:MM-HH:MM …] ZONE`. DAYS is a day (`Sat`), a range (`Mon-Fri`, also `Fri-Mon`) or `daily`.
A window whose end is not after its beginning goes on into the next day and belongs to the day on which it begins. 24:00 is the
end of a day. ZONE is a name of the IANA time zone database. Where a clock is put back, the hour that comes twice counts twice.

No clock is read here. Source of the zones: PEP 615.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from dbshield.errors import ConfigError

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAILY: Final = "daily"
DAY_MINUTES: Final = 24 * 60
MAX_LENGTH: Final = 500
"""Characters; a text that is longer is no schedule of people."""

_WINDOW = re.compile(r"(?P<days>[A-Za-z]+(?:-[A-Za-z]+)?) +(?P<begin>[0-9]{2}:[0-9]{2})-(?P<end>[0-9]{2}:[0-9]{2})")
_HINT = 'Write them as in "Mon-Fri 08:00-18:00 Europe/Berlin" or "daily 22:00-06:00, Sat 08:00-12:00 UTC".'


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of each of some days: `first` to `last` count from Monday, 0; `begin` and `end` are minutes of the day (0–1440)."""

    first: int
    last: int
    begin: int
    end: int

    def begins_on(self, day: int) -> bool:
        if self.first <= self.last:
            return self.first <= day <= self.last
        return day >= self.first or day <= self.last

    def holds(self, day: int, minute: int) -> bool:
        """Whether that minute of that day lies in the window, which may have begun on the day before."""
        if self.begin < self.end:
            return self.begins_on(day) and self.begin <= minute < self.end
        return (self.begins_on(day) and minute >= self.begin) or (self.begins_on((day - 1) % 7) and minute < self.end)

    def __str__(self) -> str:
        if (self.first, self.last) == (0, 6):
            days = DAILY
        else:
            days = DAYS[self.first] if self.first == self.last else f"{DAYS[self.first]}-{DAYS[self.last]}"
        return f"{days} {_clock(self.begin)}-{_clock(self.end)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """When a token works: in any of the windows, by the clock of `zone`."""

    windows: tuple[Window, ...]
    zone: ZoneInfo

    def contain(self, moment: datetime) -> bool:
        """Whether `moment`, a time with a zone, lies in them."""
        there = moment.astimezone(self.zone)
        minute = there.hour * 60 + there.minute
        return any(window.holds(there.weekday(), minute) for window in self.windows)

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.windows))} {self.zone.key}"


@lru_cache(maxsize=1024)
def parse_hours(text: str) -> Hours:
    """The hours that a text names. Raises ConfigError, which says what is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"hours have at most {MAX_LENGTH} characters", hint=_HINT)
    windows, _, zone = text.strip().rpartition(" ")
    if not windows.strip():
        raise ConfigError(f"{_shown(text)} names no hours, or no time zone behind them", hint=_HINT)
    found = _zone(zone)
    return Hours(windows=tuple(_window(part.strip()) for part in windows.split(",")), zone=found)


def _window(text: str) -> Window:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ConfigError(f"{_shown(text)} is no span of hours", hint=_HINT)
    first, last = _days(match["days"])
    begin, end = _minute(match["begin"]), _minute(match["end"])
    if begin in {end, DAY_MINUTES}:
        raise ConfigError(f"{_shown(text)} is an empty span of hours", hint="The whole day is 00:00-24:00.")
    return Window(first=first, last=last, begin=begin, end=end)


def _days(text: str) -> tuple[int, int]:
    if text.lower() == DAILY:
        return 0, 6
    first, dash, last = text.partition("-")
    try:
        one = DAYS.index(first.capitalize())
        return one, DAYS.index(last.capitalize()) if dash else one
    except ValueError:
        raise ConfigError(f"{_shown(text)} are no days", hint=f"Days are {', '.join(DAYS)}, or {DAILY}.") from None


def _minute(text: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute >= 60 or hour * 60 + minute > DAY_MINUTES:
        raise ConfigError(f"{_shown(text)} is no time of day", hint="Write it as HH:MM, from 00:00 to 24:00.")
    return hour * 60 + minute


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"{_shown(name)} is no time zone known here", hint=_HINT) from error


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _shown(text: str) -> str:
    return ascii(text[:40])
