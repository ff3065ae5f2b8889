"""Held statements and the humans who decide on them: people, approvals, decisions, denials.

What may follow what is enforced by triggers of the migration: an approval begins as waiting, moves only as `MOVES` says, and
never changes what it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from dbshield.store.schema.base import created_at, metadata

APPROVALS_CHANNEL: Final = "dbshield_approvals"
"""What a trigger notifies of each new approval and each new state: the payload is the id, a space, and the state."""

MOVES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "waiting": ("approved", "denied", "expired", "withdrawn"),
        "approved": ("running", "expired", "withdrawn"),
        "running": ("done", "failed"),
        "done": (),
        "failed": (),
        "denied": (),
        "expired": (),
        "withdrawn": (),
    }
)
"""Every state, and the states that may follow it."""

JSON = JSONB(none_as_null=True)

people = Table(
    "people",
    metadata,
    Column("name", Text, CheckConstraint("name ~ '^[a-z0-9][a-z0-9._@-]{0,62}$'", name="name"), primary_key=True),
    Column("sealed_totp", LargeBinary, nullable=False),
    Column("last_step", BigInteger, nullable=False, server_default=text("0")),
    created_at(),
    Column("created_by", Text, nullable=False),
    Column("vouched_by", Text),
    Column("enrolled_at", DateTime(timezone=True)),
    Column("wrong_codes", Integer, CheckConstraint("wrong_codes >= 0", name="wrong_codes"), nullable=False, server_default="0"),
    Column("wrong_since", DateTime(timezone=True)),
    Column("locked_until", DateTime(timezone=True)),
    Column("removed_at", DateTime(timezone=True)),
    Column(
        "role",
        Text,
        CheckConstraint("role in ('viewer', 'approver', 'admin')", name="role"),
        nullable=False,
        server_default="approver",
    ),
    Column("password", Text),
    comment="who may decide; removed ones stay, since decisions name them",
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, CheckConstraint("id ~ '^apr-[a-z2-7]{8}$'", name="id"), primary_key=True),
    Column("environment", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("agent_id", Uuid),
    Column("access", Text, CheckConstraint("access in ('read', 'write', 'migrate')", name="access"), nullable=False),
    Column("database", Text, nullable=False),
    Column("session", BigInteger),
    Column("application", Text, nullable=False, server_default=""),
    Column("statement", Text, nullable=False),
    Column("parameters", JSON),
    Column("settings", JSON, nullable=False, server_default="{}"),
    Column("digest", LargeBinary, CheckConstraint("octet_length(digest) = 32", name="digest"), nullable=False),
    Column("normal", Text, nullable=False),
    Column("effects", JSON, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("remembers", JSON, nullable=False, server_default="[]"),
    Column("requested_at", DateTime(timezone=True), nullable=False, index=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("needed", Integer, CheckConstraint("needed between 1 and 2", name="needed"), nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint(
            "state in ('waiting', 'approved', 'denied', 'expired', 'withdrawn', 'running', 'done', 'failed')", name="state"
        ),
        nullable=False,
        server_default="waiting",
    ),
    Column("without_undo", Boolean, nullable=False, server_default=text("false")),
    Column("preview", JSON),
    Column("decided_at", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("executor", Text),
    Column("transaction_id", Text),
    Column("tag", Text),
    Column("error", JSON),
    Column("result", JSON),
    Column("undo", Text),
    CheckConstraint("expires_at > requested_at and isfinite(expires_at)", name="lifetime"),
    comment="statements that wait for a human, and what became of them",
)
Index(
    "approvals_open_idx",
    approvals.c.environment,
    approvals.c.digest,
    postgresql_where=approvals.c.state.in_(("waiting", "approved", "running")),
)

decisions = Table(
    "decisions",
    metadata,
    Column("approval", Text, ForeignKey("approvals.id"), primary_key=True),
    Column("person", Text, ForeignKey("people.name"), primary_key=True),
    Column("decision", Text, CheckConstraint("decision in ('approve', 'deny')", name="decision"), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("at", DateTime(timezone=True), nullable=False),
    comment="what each person said, one word a person and approval",
)

denials = Table(
    "denials",
    metadata,
    Column("environment", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("effect", Text, primary_key=True),
    Column("approval", Text, ForeignKey("approvals.id"), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    CheckConstraint("until > at", name="until"),
    comment="what a human denied lately: the next with it gets the same answer",
)
