"""[backup.NAME]: how long what was written to S3 can be deleted by nobody (S3 Object Lock)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbshield.config.base import Section


class ObjectLockConfig(Section):
    """The keys of [backup.NAME] about Object Lock. Both are given, or neither."""

    object_lock: Literal["none", "governance", "compliance"] = Field(
        default="none",
        description="s3:// alone: lock snapshots. governance: who has a right of its own may delete them; compliance: nobody",
    )
    object_lock_days: int = Field(default=0, ge=0, le=36_500, description="days for which a snapshot is locked")

    def lock_problem(self, scheme: str) -> str:
        """What does not go together, or nothing."""
        if self.object_lock == "none":
            return "object_lock_days is given without object_lock" if self.object_lock_days else ""
        if scheme != "s3":
            return 'object_lock is for a destination that begins with s3://; versioning or "none" for others'
        return "" if self.object_lock_days else "object_lock needs object_lock_days"
