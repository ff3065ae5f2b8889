"""What all tables of the control database share: their schema, the names of constraints, the channels of notices."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, MetaData, text

SCHEMA = "dbshield"
CHANNEL = "dbshield"
"""What the triggers notify: the payload is the name of the table that changed."""
ROWS_CHANNEL = "dbshield_rows"
"""Where proxies tell each other the rows that agents changed (see `dbshield.control.budget`)."""

REVISION = "0015"
"""The newest migration. Proxies compare it without loading alembic; a test compares it with the migrations."""

NAME_CHECK = "^[a-z][a-z0-9-]{0,30}$"
ACCESS_LEVELS = ("read", "write", "migrate")

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    },
)


def created_at() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()"))
