"""How far the WAL archive of each plan has come; what is in it stands at its destination, signed."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, ForeignKey, Integer, Table, Text, text

from dbshield.store.schema.base import NAME_CHECK, metadata

wal_archives = Table(
    "wal_archives",
    metadata,
    Column("environment", Text, ForeignKey("environments.name"), primary_key=True),
    Column("plan", Text, CheckConstraint(f"plan ~ '{NAME_CHECK}'", name="plan"), primary_key=True),
    Column("destination", Text, nullable=False),
    Column("system_identifier", Text, nullable=False),
    Column("timeline", Integer, nullable=False),
    Column("name", Text, CheckConstraint("name ~ '^[0-9A-F]{24}$'", name="name"), nullable=False),
    Column("end_lsn", Text, nullable=False),
    Column("mark_lsn", Text),
    Column("marked_at", DateTime(timezone=True)),
    Column("shipped_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("since", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("segments", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    CheckConstraint("(mark_lsn is null) = (marked_at is null)", name="marked"),
    comment="how far the WAL archive of each plan has come; what is in it says the archive itself, signed",
)
