"""Which configuration was served last, by whom and where."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, Table, Text

from dbshield.store.schema.base import metadata

served_configurations = Table(
    "served_configurations",
    metadata,
    Column("host", Text, primary_key=True),
    Column("file", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("part", Text, CheckConstraint("part in ('proxy', 'scheduler')", name="part"), primary_key=True),
    Column("key", Text, nullable=False),
    Column("picture", Text, nullable=False),
    Column("served_at", DateTime(timezone=True), nullable=False),
    comment="the configuration that each place served last, without its secrets",
)
