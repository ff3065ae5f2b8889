"""How held statements are asked for and decided on, as the configuration says it: a part of [environments.NAME]."""

from __future__ import annotations

from pydantic import Field

from dbshield.config.base import Section


class ApprovalsConfig(Section):
    """The part of [environments.NAME] that says how humans decide."""

    approval_wait: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="seconds that a session waits for a human; 0: refused at once, with the approval's id",
    )
    approval_ttl_minutes: float = Field(
        default=60, gt=0, le=10080, description="minutes after which an approval that was not used is void"
    )
    approvals_waiting_max: int = Field(
        default=20, ge=1, le=1000, description="statements of one agent that wait at once; one more is refused without asking"
    )
    approvals_needed: int = Field(default=1, ge=1, le=2, description="people who have to approve")
    owners_may_approve: bool = Field(default=True, description="whether people approve for agents that they answer for")
    denial_memory_minutes: float = Field(
        default=60, ge=0, le=10080, description="minutes that what was denied is refused without asking again; 0: always ask"
    )
