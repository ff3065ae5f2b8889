"""What people are told, how far the audit was read for it, and who went around the shield in an emergency."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)

from dbshield.store.schema.base import metadata

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("channel", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("environment", Text),
    Column("subject", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("count", Integer, CheckConstraint("count > 0", name="count"), nullable=False),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("urgent", Boolean, nullable=False),
    Column("state", Text, CheckConstraint("state in ('pending', 'sent', 'failed')", name="state"), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("claimed_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("error", Text),
    CheckConstraint("(state = 'pending') = (ended_at is null)", name="ended"),
    comment="what people are told, by whom it was sent and how often it was tried",
)
Index("alerts_pending_idx", alerts.c.channel, alerts.c.due_at, postgresql_where=alerts.c.state == "pending")
Index("alerts_ended_idx", alerts.c.channel, alerts.c.ended_at)

alert_position = Table(
    "alert_position",
    metadata,
    Column("one", Boolean, CheckConstraint("one", name="one"), primary_key=True, server_default=text("true")),
    Column("position", BigInteger, nullable=False),
    comment="how far the audit was read for alerts",
)

emergencies = Table(
    "emergencies",
    metadata,
    Column("id", Text, CheckConstraint("id ~ '^brk-[a-z2-7]{8}$'", name="id"), primary_key=True),
    Column("environment", Text, ForeignKey("environments.name"), nullable=False),
    Column("person", Text, ForeignKey("people.name"), nullable=False),
    Column("reason", Text, CheckConstraint("reason <> ''", name="reason"), nullable=False),
    Column("role", Text, nullable=False),
    Column("acts_as", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("made_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended_by", Text),
    Column("removed_at", DateTime(timezone=True)),
    Column("error", Text),
    Column("retry_at", DateTime(timezone=True)),
    CheckConstraint("expires_at > created_at and isfinite(expires_at)", name="lifetime"),
    CheckConstraint("(ended_at is null) = (ended_by is null)", name="ended"),
    comment="who went around the shield, when and why",
)
Index("emergencies_living_idx", emergencies.c.environment, postgresql_where=emergencies.c.removed_at.is_(None))
