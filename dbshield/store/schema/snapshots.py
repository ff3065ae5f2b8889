"""The catalogue of backups: the keys that sign them, the snapshots, and the drills that proved them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from dbshield.store.schema.base import NAME_CHECK, created_at, metadata

SNAPSHOT_CHECK = "^[0-9]{8}t[0-9]{6}z-[a-z2-7]{8}$"

backup_keys = Table(
    "backup_keys",
    metadata,
    Column("id", Text, CheckConstraint("id ~ '^[0-9a-f]{16}$'", name="id"), primary_key=True),
    Column("public_key", LargeBinary, CheckConstraint("octet_length(public_key) = 32", name="public_key"), nullable=False),
    created_at(),
    Column("created_by", Text, nullable=False),
    Column("retired_at", DateTime(timezone=True)),
    comment="public keys (Ed25519) whose signatures on manifests and drills are believed",
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Text, CheckConstraint(f"id ~ '{SNAPSHOT_CHECK}'", name="id"), primary_key=True),
    Column("environment", Text, ForeignKey("environments.name"), nullable=False),
    Column("plan", Text, CheckConstraint(f"plan ~ '{NAME_CHECK}'", name="plan"), nullable=False),
    Column("engine", Text, CheckConstraint("engine in ('logical', 'physical', 'pgbackrest')", name="engine"), nullable=False),
    Column("kind", Text, CheckConstraint("kind in ('full', 'incremental')", name="kind"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, CheckConstraint("state in ('running', 'complete', 'failed')", name="state"), nullable=False),
    Column("began", DateTime(timezone=True), nullable=False),
    Column("ended", DateTime(timezone=True)),
    Column("error", Text),
    Column("bytes", BigInteger),
    Column("stored_bytes", BigInteger),
    Column("objects", Integer),
    Column("lsn", Text),
    Column("timeline", Integer),
    Column("server_version", Integer),
    Column("system_identifier", BigInteger),
    Column("manifest", JSONB),
    Column("manifest_sha256", LargeBinary, CheckConstraint("octet_length(manifest_sha256) = 32", name="manifest_sha256")),
    Column("signature", LargeBinary, CheckConstraint("octet_length(signature) = 64", name="signature")),
    Column("signing_key", Text, ForeignKey("backup_keys.id")),
    Column("record", JSONB),
    Column("parent", Text, ForeignKey("snapshots.id"), index=True),
    Column("drilled", Text, CheckConstraint("drilled in ('passed', 'failed', 'error')", name="drilled")),
    Column("pruned_at", DateTime(timezone=True)),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("(state = 'running') = (ended is null)", name="ended"),
    CheckConstraint("(state = 'failed') = (error is not null)", name="error"),
    CheckConstraint(
        "state <> 'complete' or (manifest is not null and manifest_sha256 is not null and signature is not null"
        " and signing_key is not null and bytes is not null and stored_bytes is not null and objects > 0)",
        name="complete",
    ),
    comment="backups; what was interrupted is failed, never complete; pruned ones stay, since drills name them",
)
Index("snapshots_newest_idx", snapshots.c.environment, snapshots.c.began.desc())

drills = Table(
    "drills",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("snapshot", Text, ForeignKey("snapshots.id"), nullable=False, index=True),
    Column("began", DateTime(timezone=True), nullable=False),
    Column("ended", DateTime(timezone=True), nullable=False),
    Column("verdict", Text, CheckConstraint("verdict in ('passed', 'failed', 'error')", name="verdict"), nullable=False),
    Column("checks", JSONB, nullable=False),
    Column("rpo_seconds", Double),
    Column("rto", JSONB, nullable=False),
    Column("report", Text),
    Column("signature", LargeBinary, CheckConstraint("octet_length(signature) = 64", name="signature")),
    Column("signing_key", Text, ForeignKey("backup_keys.id")),
    CheckConstraint("ended >= began", name="ended"),
    CheckConstraint("(signature is null) = (signing_key is null)", name="signed"),
    comment="restores of snapshots into throwaway clusters: every check with its measure, RTO by phase, RPO from the canary",
)
