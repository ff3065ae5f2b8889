"""The table of undo points: taking note of one, finding it, marking it as used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update

from dbshield.control.approvals import UNDEFINED_OBJECT, WRONG_STATE
from dbshield.control.audit_store import Entry, append
from dbshield.control.execution import Point
from dbshield.errors import Refused
from dbshield.store.database import Database
from dbshield.store.schema import approvals, undo_points

LOCK_SPACE: Final = 0x6462_7875
"""The first half of the advisory locks of those who undo, "dbxu"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRow:
    """What is known of one undo point. `host` is the machine that has it, nothing where a human did without; `state` is the
    approval's, and only that of one that is done can be undone. Of one that has expired the files are gone."""

    id: str
    environment: str
    agent: str
    database: str
    system_identifier: str
    transaction_id: str
    taken_at: datetime
    tag: str
    result: Mapping[str, Any] | None
    host: str | None
    size: int
    sha256: bytes | None
    summary: Mapping[str, Any]
    undone_at: datetime | None
    undone_by: str | None
    expired_at: datetime | None
    state: str
    finished_at: datetime | None

    @property
    def undoing(self) -> str | None:
        """The transaction of the newest attempt to undo it; None where there was none."""
        return self.summary.get("undoing")


class UndoStore:
    """The undo points in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, approval: str, *, environment: str, database: str, point: Point, host: str, now: datetime) -> None:
        """Before the commit that the point is for."""
        row = {
            "id": approval,
            "environment": environment,
            "database": database,
            "system_identifier": point.system_identifier,
            "transaction_id": point.transaction_id,
            "taken_at": now,
            "tag": point.answer.tag,
            "result": None if point.answer.result is None else dict(point.answer.result),
            "host": None if point.sha256 is None else host,
            "bytes": point.size,
            "sha256": point.sha256,
            "summary": dict(point.summary),
        }
        with self._database.transaction() as connection:
            connection.execute(insert(undo_points).values(row))

    def forget(self, approval: str) -> None:
        """The statement was not committed, so there is nothing to undo."""
        with self._database.transaction() as connection:
            connection.execute(delete(undo_points).where(undo_points.c.id == approval))

    def find(self, approval: str) -> UndoRow | None:
        with self._database.transaction() as connection:
            row = connection.execute(_rows().where(undo_points.c.id == approval)).one_or_none()
            return UndoRow(**row._mapping) if row is not None else None

    def get(self, approval: str) -> UndoRow:
        """One that can be used. Refused where there is none, or it was used, or its statement did not run."""
        found = self.find(approval)
        if found is None:
            raise Refused(
                f"there is no undo point {approval}",
                sqlstate=UNDEFINED_OBJECT,
                hint="`dbshield undo list` shows those that there are.",
            )
        if found.state != "done":
            raise Refused(f"the statement of {approval} is {found.state}, so there is nothing to undo", sqlstate=WRONG_STATE)
        if found.sha256 is None and "restore_point" in found.summary:
            raise Refused(
                f"what {approval} destroyed was too large for an undo point; the WAL archive has it, to {found.summary['lsn']}",
                sqlstate=WRONG_STATE,
                hint=restore_command(found.summary) + "; then copy what you need from there.",
            )
        if found.sha256 is None:
            raise Refused(
                f"nothing was saved for {approval}",
                sqlstate=WRONG_STATE,
                hint="It was approved with --without-undo, or destroyed nothing. A backup may have what it destroyed.",
            )
        if found.undone_at is not None:
            raise Refused(f"{approval} was undone already, by {found.undone_by}", sqlstate=WRONG_STATE)
        if found.expired_at is not None:
            raise Refused(
                f"the undo point {approval} expired on {found.expired_at:%Y-%m-%d}: what its statement destroyed is not kept here"
                " any more",
                sqlstate=WRONG_STATE,
                hint=f"`dbshield audit search --kind executed --text {approval}` has the number of its execution;"
                " `dbshield restore --before NUMBER --to-folder DIR` restores what was there before it from the backups.",
            )
        return found

    def list_(self, *, environment: str | None = None) -> list[UndoRow]:
        """The points of statements that ran, the newest first."""
        query = _rows().where(approvals.c.state == "done").order_by(undo_points.c.taken_at.desc(), undo_points.c.id)
        if environment is not None:
            query = query.where(undo_points.c.environment == environment)
        with self._database.transaction() as connection:
            return [UndoRow(**row._mapping) for row in connection.execute(query)]

    @contextmanager
    def using(self, approval: str) -> Iterator[Callable[..., None]]:
        """Nobody else undoes this one meanwhile. What is given is to be called with `by`, `now` and the rows by table when it was
        brought back; that it was, and the audit of it, is kept when the block ends. Refused as `get`, or while somebody is at it.
        """
        with self._database.transaction() as connection:
            if not connection.scalar(select(alone(approval))):
                raise Refused(f"{approval} is being undone right now", sqlstate=WRONG_STATE, hint="`dbshield undo list` tells.")
            found = self.get(approval)

            def undone(*, by: str, now: datetime, rows: Mapping[str, int]) -> None:
                connection.execute(update(undo_points).where(undo_points.c.id == approval).values(undone_at=now, undone_by=by))
                fields = {
                    "environment": found.environment,
                    "agent": found.agent,
                    "database": found.database,
                    "person": by,
                    "approval": approval,
                    "rows": dict(rows),
                }
                append(connection, [Entry(at=now, kind="undone", fields=fields)])

            yield undone

    def began(self, approval: str, transaction: str) -> None:
        """Keeps which transaction undoes it, before it does: whoever is alone with it asks the server what became of that one."""
        with self._database.transaction() as connection:
            summary = connection.scalar(select(undo_points.c.summary).where(undo_points.c.id == approval).with_for_update())
            changed = {**(summary or {}), "undoing": transaction}
            connection.execute(update(undo_points).where(undo_points.c.id == approval).values(summary=changed))


def alone(approval: str) -> ColumnElement[bool]:
    """Whether nobody else is at this point; until the end of the transaction nobody else will be."""
    return func.pg_try_advisory_xact_lock(LOCK_SPACE, func.hashtext(approval))


def restore_command(summary: Mapping[str, Any]) -> str:
    """The command that brings back what was there before a statement whose undo point is a place in the WAL."""
    return f"dbshield restore --plan {summary['plan']} --lsn {summary['lsn']} --to-folder DIR --identity-file FILE"


def _rows() -> Select[Any]:
    columns = [column.label("size") if column.name == "bytes" else column for column in undo_points.c]
    return select(*columns, approvals.c.agent, approvals.c.state, approvals.c.finished_at).join(
        approvals, approvals.c.id == undo_points.c.id
    )
