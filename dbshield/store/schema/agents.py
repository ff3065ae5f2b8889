"""Who may log in, and what was frozen or used up: environments, agents, tokens, freezes, changed rows."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
)

from dbshield.store.schema.base import NAME_CHECK, created_at, metadata

environments = Table(
    "environments",
    metadata,
    Column("name", Text, CheckConstraint(f"name ~ '{NAME_CHECK}'", name="name"), primary_key=True),
    created_at(),
    Column("system_identifier", BigInteger),
    Column("pinned_at", DateTime(timezone=True)),
    Column("pinned_by", Text),
    comment="the protected clusters; system_identifier pins the cluster once it was seen",
)

agents = Table(
    "agents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("environment", Text, ForeignKey("environments.name"), nullable=False),
    Column("name", Text, CheckConstraint(f"name ~ '{NAME_CHECK}'", name="name"), nullable=False),
    Column("access", Text, CheckConstraint("access in ('read', 'write', 'migrate')", name="access"), nullable=False),
    Column("salt", LargeBinary, CheckConstraint("octet_length(salt) >= 16", name="salt"), nullable=False),
    Column("iterations", Integer, CheckConstraint("iterations >= 4096", name="iterations"), nullable=False),
    Column("role", Text),
    Column("sealed_password", LargeBinary),
    Column("owner", Text),
    created_at(),
    Column("removed_at", DateTime(timezone=True)),
    CheckConstraint("sealed_password is null or role is not null", name="password_needs_role"),
    comment="the identities of AI agents; removed ones stay, since the audit names them",
)
Index("agents_living_name_idx", agents.c.environment, agents.c.name, unique=True, postgresql_where=agents.c.removed_at.is_(None))

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, CheckConstraint("id ~ '^[a-z2-7]{12}$'", name="id"), primary_key=True),
    Column("agent", Uuid, ForeignKey("agents.id"), nullable=False, index=True),
    Column("stored_key", LargeBinary, CheckConstraint("octet_length(stored_key) = 32", name="stored_key"), nullable=False),
    Column("server_key", LargeBinary, CheckConstraint("octet_length(server_key) = 32", name="server_key"), nullable=False),
    created_at(),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_by", Text, nullable=False),
    Column("access", Text, CheckConstraint("access in ('read', 'write', 'migrate')", name="access")),
    Column("databases", ARRAY(Text)),
    Column("networks", ARRAY(Text)),
    Column("hours", Text),
    Column("replaces", Text, ForeignKey("tokens.id")),
    CheckConstraint("expires_at > created_at", name="lifetime"),
    comment="SCRAM-SHA-256 verifiers; the tokens themselves are kept nowhere",
)

token_uses = Table(
    "token_uses",
    metadata,
    Column("token", Text, primary_key=True),
    Column("used_at", DateTime(timezone=True), nullable=False),
    Column("used_from", Text, nullable=False),
    comment="when a token was last used and from where, to about a minute",
)

freezes = Table(
    "freezes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("environment", Text, ForeignKey("environments.name"), nullable=False),
    Column("agent", Text),
    Column("reason", Text, CheckConstraint("reason <> ''", name="reason"), nullable=False),
    Column("frozen_by", Text, nullable=False),
    Column("frozen_at", DateTime(timezone=True), nullable=False),
    Column("until", DateTime(timezone=True)),
    Column("lifted_at", DateTime(timezone=True)),
    Column("lifted_by", Text),
    CheckConstraint("until > frozen_at and isfinite(until)", name="until"),
    CheckConstraint("(lifted_at is null) = (lifted_by is null)", name="lifted"),
    comment="who froze an environment or an agent, why and until when; lifted ones stay",
)
Index("freezes_unlifted_idx", freezes.c.environment, postgresql_where=freezes.c.lifted_at.is_(None))

changed_rows = Table(
    "changed_rows",
    metadata,
    Column("environment", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("database", Text, primary_key=True),
    Column("table_name", Text, primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True, index=True),
    Column("rows", BigInteger, CheckConstraint("rows > 0", name="rows"), nullable=False),
    CheckConstraint("mod(extract(epoch from minute), 60) = 0", name="minute"),
    comment="rows that agents changed, by minute; kept for two hours",
)
