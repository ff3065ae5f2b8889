"""The tables of the control database, as SQLAlchemy Core sees them: one module a concern.

They stand in a schema of their own, so that a shared PostgreSQL is fine as well. What is written here and what the migrations
make is compared by a test on a real server; the migrations, not this package, make the tables. Every module of tables is named
here, so that the comparison sees it.
"""

from dbshield.store.schema.agents import agents, changed_rows, environments, freezes, token_uses, tokens
from dbshield.store.schema.alerts import alert_position, alerts, emergencies
from dbshield.store.schema.approvals import APPROVALS_CHANNEL, MOVES, approvals, decisions, denials, people
from dbshield.store.schema.audit import audit, audit_head, audit_writers
from dbshield.store.schema.base import ACCESS_LEVELS, CHANNEL, NAME_CHECK, REVISION, ROWS_CHANNEL, SCHEMA, metadata
from dbshield.store.schema.console import console_attempts, console_sessions
from dbshield.store.schema.schedule import schedule_jobs, schedule_runs
from dbshield.store.schema.served import served_configurations
from dbshield.store.schema.snapshots import backup_keys, drills, snapshots
from dbshield.store.schema.undo import undo_points
from dbshield.store.schema.wal import wal_archives

__all__ = [
    "ACCESS_LEVELS",
    "APPROVALS_CHANNEL",
    "CHANNEL",
    "MOVES",
    "NAME_CHECK",
    "REVISION",
    "ROWS_CHANNEL",
    "SCHEMA",
    "agents",
    "alert_position",
    "alerts",
    "approvals",
    "audit",
    "audit_head",
    "audit_writers",
    "backup_keys",
    "changed_rows",
    "console_attempts",
    "console_sessions",
    "decisions",
    "denials",
    "drills",
    "emergencies",
    "environments",
    "freezes",
    "metadata",
    "people",
    "schedule_jobs",
    "schedule_runs",
    "served_configurations",
    "snapshots",
    "token_uses",
    "tokens",
    "undo_points",
    "wal_archives",
]
