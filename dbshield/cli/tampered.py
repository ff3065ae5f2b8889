"""Telling that something lies over a snapshot that was read: whoever may write there could not delete, and tried."""

from __future__ import annotations

from dbshield.cli.options import person
from dbshield.cli.output import remark, visible
from dbshield.control import audit_store
from dbshield.errors import DbshieldError
from dbshield.store.database import Database

KIND = "backup-tampered"
NAMED = 20
"""Objects that are named; a count tells of the rest."""


def tell(covered: tuple[str, ...], database: Database | None, *, environment: str, plan: str, snapshot: str) -> None:
    """Say what lies over what was read, and write it into the audit, which alerts follow. Nothing where nothing does."""
    if not covered:
        return
    more = f", and {len(covered) - NAMED} more" if len(covered) > NAMED else ""
    said = "; ".join(covered[:NAMED]) + more
    remark(f"TAMPERED WITH: {visible(said)}")
    remark("Object Lock has kept what was written, and that was read; look at who may write at the destination")
    if database is None:
        return
    try:
        audit_store.record(
            database, kind=KIND, person=person(), environment=environment, plan=plan, snapshot=snapshot, error=said
        )
    except DbshieldError as error:
        remark(f"remark: the audit could not be written: {error.message}")
