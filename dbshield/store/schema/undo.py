"""What brings back what approved statements destroyed; the data itself lies in the state folder of the executor's machine."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, ForeignKey, LargeBinary, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from dbshield.store.schema.base import metadata

JSON = JSONB(none_as_null=True)

undo_points = Table(
    "undo_points",
    metadata,
    Column("id", Text, ForeignKey("approvals.id"), primary_key=True),
    Column("environment", Text, nullable=False),
    Column("database", Text, nullable=False),
    Column("system_identifier", Text, nullable=False),
    Column("transaction_id", Text, nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False, index=True),
    Column("tag", Text, nullable=False),
    Column("result", JSON),
    Column("host", Text),
    Column("bytes", BigInteger, CheckConstraint("bytes >= 0", name="bytes"), nullable=False),
    Column("sha256", LargeBinary, CheckConstraint("octet_length(sha256) = 32", name="sha256")),
    Column("summary", JSON, nullable=False),
    Column("undone_at", DateTime(timezone=True)),
    Column("undone_by", Text),
    Column("expired_at", DateTime(timezone=True)),
    CheckConstraint("(host is null) = (sha256 is null)", name="kept"),
    CheckConstraint("(undone_at is null) = (undone_by is null)", name="undone"),
    CheckConstraint("expired_at is null or sha256 is not null", name="expired"),
    comment="what brings back what approved statements destroyed",
)
