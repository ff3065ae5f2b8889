"""[alerts.NAME]: a channel by which people are told what happened, and what it is about.

Where it leads to is an apprise URL, which holds a secret: the configuration names a file or a variable that has it.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dbshield.config.base import OptionalPath, Section, Texts
from dbshield.config.names import near
from dbshield.config.secret import read_secret

EVENTS: dict[str, str] = {
    "refused": "a statement was refused",
    "held": "a statement was held, whether or not anybody could be asked",
    "approval": "a statement waits for a human",
    "decided": "a human approved or denied one",
    "executed": "an approved statement was run, or failed",
    "undone": "an approved statement was undone",
    "login-refused": "a login was refused",
    "code-refused": "the second factor of a person was wrong",
    "frozen": "an environment or an agent was frozen",
    "thawed": "a freeze was lifted",
    "agents": "an agent was created or removed, or its role changed",
    "tokens": "a token was issued, rotated or revoked",
    "people": "somebody who decides was added, reset or removed",
    "policy-changed": "a reload changed what agents may do",
    "environment-pinned": "an environment was pinned to a cluster",
    "guard-tampered": "the guard in a database is not as it was installed",
    "guard-changed": "the guard was installed or removed",
    "audit-damaged": "the audit has a gap, or something that cannot be read",
    "backup-key": "a machine's key for signing backups is trusted from now on",
    "backup-tampered": "somebody wrote over what was backed up, or hid it, and could not delete it",
    "backup-failed": "a backup failed",
    "backup-overdue": "a backup is overdue",
    "drill-failed": "a restore drill failed, or came to no verdict",
    "drill-overdue": "a restore drill is overdue",
    "job-failed": "another job of the schedule failed",
    "control-away": "the control database is away, or back again",
    "break-glass": "somebody went around the shield in an emergency",
}
"""What a channel may be told of."""

SELDOM = ("held", "executed", "agents", "tokens")
"""What a channel is told of only where it says so: all of it is either told in another way too, or what people do every day."""


def _known(events: tuple[str, ...]) -> tuple[str, ...]:
    for event in events:
        if event not in EVENTS:
            close = near(event, EVENTS)
            tail = f'did you mean "{close}"?' if close else f"there are: {', '.join(EVENTS)}"
            raise ValueError(f'"{event}" is no event; {tail}')
    return tuple(dict.fromkeys(events))


class AlertsConfig(Section):
    """[alerts.NAME]: one channel."""

    url_file: OptionalPath = Field(default=None, description="file with the apprise URL of the channel, on one line")
    url_env: str = Field(default="", description="environment variable with the apprise URL")
    events: Annotated[Texts, AfterValidator(_known)] = Field(
        default=tuple(event for event in EVENTS if event not in SELDOM), description="what it is told of"
    )
    environments: Texts = Field(default=(), description="only what happens in these; empty: in all, and what is in none")
    group_seconds: float = Field(
        default=5, ge=0, le=3600, description="seconds in which alike events become one message, from the first on"
    )
    min_interval: float = Field(
        default=10,
        ge=0,
        le=86_400,
        description="seconds between two messages, in which events are collected; what is urgent does not wait",
    )
    timeout: float = Field(default=15, gt=0, le=300, description="seconds that sending one message may take")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url_file is None) == (not self.url_env):
            raise ValueError("needs one of url_file and url_env: where the apprise URL stands")
        return self

    def url(self, name: str) -> str:
        """The apprise URL: for sending, never for showing. Raises ConfigError where the file or variable is not there."""
        return read_secret(f"[alerts.{name}] url", file=self.url_file, variable=self.url_env) or ""
