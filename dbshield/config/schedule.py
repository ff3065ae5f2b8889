"""[schedule]: what the scheduler runs and when, and what a plan of backups says of its own."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AliasChoices, Field

from dbshield.config import cron
from dbshield.config.base import Name, Section


def _when(text: str) -> str:
    return cron.parse(text).text if text else ""


def _when_or_never(text: str) -> str:
    return text if text == cron.NEVER else _when(text)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'"{name}" is no time zone; write it as in Europe/Berlin, or UTC') from None
    return name


When = Annotated[str, AfterValidator(_when)]
WhenOrNever = Annotated[str, AfterValidator(_when_or_never)]


class ScheduleConfig(Section):
    """[schedule]: cron expressions, read on the clock of one time zone."""

    group: Name = Field(
        default="main",
        description="schedulers of one group have one leader and the same settings; a host that drills has its own",
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(default="UTC", description="zone of every expression: Europe/Berlin")
    snapshot: When = Field(default="", description='when each plan makes a snapshot, as in "0 2 * * *"; empty: never')
    wal: When = Field(default="", description='when the WAL is looked after; "* * * * *" starts it anew within a minute')
    drill: When = Field(default="", description="when the newest snapshot of each plan is restored on trial")
    drill_moment: When = Field(
        default="",
        validation_alias=AliasChoices("drill_moment", "drill-moment"),
        description="when a random moment that the WAL archive of each physical plan has is restored on trial",
    )
    prune: When = Field(default="", description="when snapshots that retention lets go are removed")
    guard_verify: When = Field(
        default="",
        validation_alias=AliasChoices("guard_verify", "guard-verify"),
        description="when the guard in each environment is compared with what was installed",
    )
    overdue_minutes: int = Field(
        default=60, ge=1, le=7 * 24 * 60, description="minutes after which a job that has not succeeded is overdue"
    )


class PlanSchedule(Section):
    """What a plan says in place of [schedule]."""

    snapshot_at: WhenOrNever = Field(default="", description="when, instead of [schedule] snapshot; never: not by the scheduler")
    drill_at: WhenOrNever = Field(default="", description="when, instead of [schedule] drill; or never")
    prune_at: WhenOrNever = Field(default="", description="when, instead of [schedule] prune; or never")
