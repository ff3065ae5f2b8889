"""When an agent is frozen because too much of what it sends is refused: a part of [environments.NAME]."""

from __future__ import annotations

from pydantic import Field

from dbshield.config.base import Section


class RefusalsConfig(Section):
    """The part of [environments.NAME] about agents that are refused again and again."""

    freeze_after_refusals: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="refused statements of one agent in freeze_window_minutes, after which it writes nothing; 0: never",
    )
    freeze_window_minutes: float = Field(default=10, gt=0, le=1440, description="minutes in which its refusals are counted")
