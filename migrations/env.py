"""Runs the migrations of the control database on the connection that dbshield gives; alembic loads this file.

One at a time, however many machines start at once: the advisory lock is held until the transaction ends.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from dbshield.store.schema import SCHEMA, metadata

LOCK = 0x6462736869656C64
"""`dbshield` as eight bytes."""

connection: Connection = context.config.attributes["connection"]

connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
# A role with rights on the schema alone may migrate too: `create schema if not exists` asks for the right in any case.
if connection.scalar(text("select to_regnamespace(:name)"), {"name": SCHEMA}) is None:
    connection.execute(text(f"create schema {SCHEMA}"))
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    transaction_per_migration=False,
)
context.run_migrations()
