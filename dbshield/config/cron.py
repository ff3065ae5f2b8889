"""Cron expressions as crontab(5) has them: minute, hour, day of the month, month, day of the week.

Laws:
- What cron would understand in another way than we do is refused. Where cron takes a restricted day of the month and a restricted
  day of the week to mean either, and APScheduler both, neither is guessed at.
- An expression that no date ever meets is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIELDS: tuple[tuple[str, int, int], ...] = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, start=1)}
WEEKDAYS = {name: number for number, name in enumerate(WEEKDAY_NAMES)}
NAMES: Mapping[str, Mapping[str, int]] = {"month": MONTHS, "day of the week": WEEKDAYS}
LONGEST = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """An expression as the numbers that each field allows, in order. `weekdays` counts from Sunday, 0, as cron does.

    `text` is what was written, with one space between the fields and without a macro.
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    @property
    def every_hour(self) -> bool:
        """Whether it goes by minutes alone: then it is due in an hour that the clock repeats as well."""
        return len(self.hours) == 24


def parse(text: str) -> Cron:
    """Raises ValueError, which names the field."""
    text = " ".join(text.split())
    text = MACROS.get(text.lower(), text)
    written = text.split(" ")
    if len(written) != len(FIELDS):
        raise ValueError(f'"{text}" has not the five fields of cron: minute, hour, day of the month, month, day of the week')
    minutes, hours, days, months, weekdays = (_field(part, *field) for part, field in zip(written, FIELDS, strict=True))
    weekdays = tuple(sorted({number % 7 for number in weekdays}))
    if len(days) < 31 and len(weekdays) < 7:
        raise ValueError(f'"{text}" names days of the month and of the week, which cron reads as either; keep one')
    if min(days) > max(LONGEST[month] for month in months):
        raise ValueError(f'"{text}" never comes: there is no such date')
    return Cron(text=text, minutes=minutes, hours=hours, days=days, months=months, weekdays=weekdays)


def _field(text: str, name: str, least: int, most: int) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        begin, dash, end = span.partition("-")
        if span == "*":
            # A Sunday is 0 or 7, and `*` is seven days.
            first, last = least, 6 if most == 7 else most
        else:
            first = _number(begin, name, least, most)
            last = _number(end, name, least, most) if dash else first
            if slash and not dash:
                raise ValueError(f'"{part}" is no {name}; write {begin}-{most}/{step}')
        if last < first:
            raise ValueError(f'"{part}" is no {name}: it ends before it begins')
        if slash and (not step.isascii() or not step.isdigit() or int(step) == 0):
            raise ValueError(f'"{part}" is no {name}: "{step}" is no step')
        found.update(range(first, last + 1, int(step) if slash else 1))
    return tuple(sorted(found))


def _number(text: str, name: str, least: int, most: int) -> int:
    named = NAMES.get(name, {}).get(text.lower())
    if named is not None:
        return named
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f'"{text}" is no {name}; it goes from {least} to {most}')
    return int(text)
