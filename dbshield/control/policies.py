"""The policy that holds for an agent at a moment: what the configuration says, and what a human froze besides."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from dbshield.config import EnvironmentConfig
from dbshield.model import AccessLevel
from dbshield.policy.policy import Policy, policy_for

if TYPE_CHECKING:  # it brings the tables of the control database along, which `check` does not need
    from dbshield.store.frozen import Freeze


def policy_at(environment: EnvironmentConfig, *, agent: str, access: AccessLevel, freeze: Freeze | None, now: datetime) -> Policy:
    """The policy at `now`, a time with a zone; `freeze` is what was frozen besides, the environment or this agent."""
    by_configuration = environment.is_frozen(now)
    until = f"until {environment.frozen_until.isoformat()}" if by_configuration and environment.frozen_until else ""
    return policy_for(
        environment,
        agent=agent,
        access=access,
        frozen=by_configuration or freeze is not None,
        freeze_reason=freeze.reason if freeze else until,
        agent_frozen=not by_configuration and freeze is not None and freeze.agent is not None,
    )
