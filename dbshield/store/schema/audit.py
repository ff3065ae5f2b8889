"""The audit: its entries, the head of their chain, and how far each writer has come."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Index, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from dbshield.store.schema.base import metadata

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_at", DateTime(timezone=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("environment", Text),
    Column("agent", Text),
    Column("database", Text),
    Column("session", BigInteger),
    Column("person", Text),
    Column("verdict", Text),
    Column("rules", ARRAY(Text)),
    Column("writer", Uuid),
    Column("sequence", BigInteger),
    Column("entry", Text, nullable=False),
    Column("hash", LargeBinary, CheckConstraint("octet_length(hash) = 32", name="hash"), nullable=False),
    comment="every connection, statement and decision, chained by hash",
    postgresql_partition_by="range (recorded_at)",
)
Index("audit_id_idx", audit.c.id)
Index("audit_agent_idx", audit.c.environment, audit.c.agent, audit.c.at)
Index("audit_stopped_idx", audit.c.at, postgresql_where=audit.c.verdict.in_(("hold", "deny")))
Index("audit_verified_idx", audit.c.id, postgresql_where=audit.c.kind == "audit-verified")

audit_head = Table(
    "audit_head",
    metadata,
    Column("one", Boolean, CheckConstraint("one", name="one"), primary_key=True, server_default=text("true")),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("dropped_hash", LargeBinary, nullable=False),
    comment="where the chain of the audit ends, and where it begins",
)

audit_writers = Table(
    "audit_writers",
    metadata,
    Column("writer", Uuid, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    comment="how far each worker of a proxy has written the audit",
)
