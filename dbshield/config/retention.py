"""How long a plan of backups keeps its snapshots. What is never removed whatever stands here: docs/decisions/0032."""

from __future__ import annotations

from pydantic import Field

from dbshield.config.base import Section


class RetentionConfig(Section):
    """The keys of [backup.NAME] that retention goes by. The rules add up: a snapshot stays while one of them wants it."""

    keep_last: int = Field(default=7, ge=0, description="snapshots that are kept, the newest ones")
    keep_daily: int = Field(default=0, ge=0, description="days of which the newest snapshot is kept, counted in UTC")
    keep_weekly: int = Field(default=0, ge=0, description="the same for weeks, Monday to Sunday")
    keep_monthly: int = Field(default=0, ge=0, description="the same for months")
    keep_yearly: int = Field(default=0, ge=0, description="the same for years")
    keep_wal_days: float = Field(
        default=0, ge=0, le=36_500, description="days within which any moment can be restored, so everything is kept"
    )
    keep_failed_days: float = Field(
        default=7,
        ge=0,
        le=36_500,
        description="days for which what failed, or did not restore in a drill, is kept to be looked at",
    )
    prune_at_most: int = Field(default=20, ge=0, description="snapshots that one run removes at most; 0: none")
