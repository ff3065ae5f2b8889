"""What restores and drills of a plan need on the machine that runs them; a section's part of [backup.NAME]."""

from __future__ import annotations

from pydantic import Field

from dbshield.config.base import OptionalPath, Section


class DrillConfig(Section):
    """Settings of restores and drills."""

    identity_file: OptionalPath = Field(
        default=None, description="age identity that drills open snapshots with; only on a machine that makes no backups"
    )
    assertions: OptionalPath = Field(default=None, description="folder of SQL files that a restored database must hold to")
    drill_folder: OptionalPath = Field(
        default=None,
        description="folder for throwaway clusters; empty: in the state folder, or the system's temporary one",
    )
    report_folder: OptionalPath = Field(default=None, description="folder for reports of drills; empty: in the state folder")
