"""An approval as it is read: what was asked, what was decided, what became of it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, unique
from typing import Any, Final
from uuid import UUID

from dbshield.control.asking import Parameter, digest, read_parameters
from dbshield.model import AccessLevel, Flag, Operation


@unique
class State(StrEnum):
    """What became of an approval so far; `dbshield.store.schema.MOVES` says what may follow what."""

    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


OPEN: Final = frozenset({State.WAITING, State.APPROVED})
"""The states that an approval expires in."""

KEEPS_DATA: Final = frozenset(
    {
        Operation.READ,
        Operation.INSERT,
        Operation.CREATE,
        Operation.SET,
        Operation.LOCK,
        Operation.GRANT,
        Operation.TRANSACTION,
        Operation.CURSOR,
        Operation.NOTIFY,
        Operation.MAINTAIN,
    }
)
"""Operations that take no data away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one person said. `counts` is false for a removed person, and for one whose second factor was replaced since."""

    person: str
    approves: bool
    reason: str
    at: datetime
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One held statement with everything that is known of it.

    `effects` are in words, `findings` have rule, name, message and hint. `preview`, `error` and `result` are as the table
    describes them (see migration 0005); `decisions` are the oldest first.
    """

    id: str
    environment: str
    agent: str
    agent_id: UUID | None
    access: AccessLevel
    database: str
    session: int | None
    application: str
    statement: str = field(repr=False)
    parameters: tuple[Parameter, ...] | None = field(repr=False)
    settings: Mapping[str, str]
    digest: bytes
    normal: str
    effects: tuple[str, ...]
    findings: tuple[Mapping[str, str], ...]
    remembers: tuple[str, ...]
    requested_at: datetime
    expires_at: datetime
    needed: int
    state: State
    without_undo: bool
    preview: Mapping[str, Any] | None
    decided_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    executor: str | None
    transaction_id: str | None
    tag: str | None
    error: Mapping[str, Any] | None
    result: Mapping[str, Any] | None = field(repr=False)
    undo: str | None
    decisions: tuple[Decision, ...] = ()

    def state_at(self, now: datetime) -> State:
        """The state that counts: one that is open past its end is expired, whether or not the table says so yet."""
        return State.EXPIRED if self.state in OPEN and now >= self.expires_at else self.state

    @property
    def destructive(self) -> bool:
        """Whether data may be gone or overwritten afterwards. What is not known to be harmless counts as destructive."""
        return not self.effects or not all(_keeps_data(effect) for effect in self.effects)

    @property
    def approved_by(self) -> tuple[str, ...]:
        """The people whose approval counts."""
        return tuple(decision.person for decision in self.decisions if decision.approves and decision.counts)

    @property
    def intact(self) -> bool:
        """Whether what is stored is still what the digest was made of."""
        fresh = digest(
            environment=self.environment,
            agent=self.agent,
            database=self.database,
            statement=self.statement,
            parameters=self.parameters,
            settings=self.settings,
        )
        return hmac.compare_digest(fresh, self.digest)


def _keeps_data(effect: str) -> bool:
    """By the words of an effect: its operation first, its flags at the end."""
    return effect.partition(" ")[0] in KEEPS_DATA and f" {Flag.REWRITE}" not in effect


def read_approval(row: Mapping[str, Any], decisions: Iterable[Decision] = ()) -> Approval:
    """From a row of the table. StoreError where its parameters are none."""
    read = dict(row)
    read["access"] = AccessLevel(row["access"])
    read["state"] = State(row["state"])
    read["digest"] = bytes(row["digest"])
    read["parameters"] = read_parameters(row["parameters"])
    for name in ("effects", "findings", "remembers"):
        read[name] = tuple(row[name])
    return Approval(**read, decisions=tuple(decisions))
