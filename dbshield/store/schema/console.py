"""The console: who is signed in, and who tried to be."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, ForeignKey, Integer, LargeBinary, Table, Text

from dbshield.store.schema.base import metadata

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("id", LargeBinary, CheckConstraint("octet_length(id) = 32", name="id"), primary_key=True),
    Column("person", Text, ForeignKey("people.name"), nullable=False, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("source", Text, nullable=False),
    CheckConstraint("expires_at > created_at", name="lifetime"),
    comment="who is signed in to the console",
)

console_attempts = Table(
    "console_attempts",
    metadata,
    Column("who", LargeBinary, CheckConstraint("octet_length(who) = 32", name="who"), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    comment="attempts to sign in that did not succeed, in the window that runs",
)
