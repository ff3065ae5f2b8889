"""The same schedule for others to run: lines of a crontab, and timers of systemd. Pure.

Sources: crontab(5) (CRON_TZ is cronie's; Debian's cron reads the machine's own zone), systemd.time(7), systemd.timer(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from dbshield.config.cron import Cron
from dbshield.schedule.jobs import Job

WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
FROM_MONDAY = (1, 2, 3, 4, 5, 6, 0)


def crontab(jobs: Sequence[Job], program: Sequence[str]) -> str:
    """Lines for a crontab of cronie. `program` are the words that start dbshield, before those of a job, and `after` them.

    In a crontab `%` ends the command, so it is written with a backslash.
    """
    zones = {job.zone.key for job in jobs}
    lines = [f"CRON_TZ={zone}" for zone in sorted(zones)]
    lines += [f"{job.cron.text} {_command(job, program).replace('%', chr(92) + '%')}" for job in jobs if not job.lasting]
    return "\n".join(lines)


def units(job: Job, program: Sequence[str]) -> dict[str, str]:
    """The unit files of a job by their names: a service, and the timer that starts it; of a lasting job the service alone."""
    name = re.sub(r"[^a-z0-9-]", "-", f"dbshield-{job.kind}-{job.target}")
    # In a unit file `%` begins a specifier and `$` a variable.
    command = _command(job, program).replace("%", "%%").replace("$", "$$")
    lines = ["[Unit]", f"Description=dbshield {job.name}", "", "[Service]"]
    if job.lasting:
        lines += [f"ExecStart={command}", "Restart=always", "RestartSec=60", "", "[Install]", "WantedBy=multi-user.target"]
        return {f"{name}.service": "\n".join(lines)}
    lines += ["Type=oneshot", f"ExecStart={command}"]
    timer = [
        *("[Unit]", f"Description=when dbshield {job.name} is due", ""),
        *("[Timer]", f"OnCalendar={calendar(job.cron)} {job.zone.key}", "Persistent=true", ""),
        *("[Install]", "WantedBy=timers.target"),
    ]
    return {f"{name}.service": "\n".join(lines), f"{name}.timer": "\n".join(timer)}


def calendar(cron: Cron) -> str:
    """An expression as OnCalendar= takes it, without its zone."""
    weekdays = tuple(place for place, day in enumerate(FROM_MONDAY) if day in cron.weekdays)
    named = ",".join(
        WEEKDAYS[FROM_MONDAY[first]] if first == last else f"{WEEKDAYS[FROM_MONDAY[first]]}..{WEEKDAYS[FROM_MONDAY[last]]}"
        for first, last in _spans(weekdays)
    )
    date = f"*-{_numbers(cron.months, 12)}-{_numbers(cron.days, 31)}"
    time = f"{_numbers(cron.hours, 24)}:{_numbers(cron.minutes, 60)}:00"
    return f"{date} {time}" if len(weekdays) == 7 else f"{named} {date} {time}"


def _command(job: Job, program: Sequence[str]) -> str:
    return shlex.join([program[0], *job.command, *program[1:]])


def _numbers(values: Sequence[int], all_of_them: int) -> str:
    if len(values) == all_of_them:
        return "*"
    return ",".join(f"{first:02}" if first == last else f"{first:02}..{last:02}" for first, last in _spans(values))


def _spans(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers in order as runs of neighbours."""
    begin = 0
    for place, value in enumerate(values):
        if place + 1 == len(values) or values[place + 1] != value + 1:
            yield values[begin], value
            begin = place + 1
