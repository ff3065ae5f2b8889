"""One approved statement, run on the protected server: saved first, compared with what the human was shown, then committed.

Order, which the laws below depend on:

1. the approval is `running`, and is this executor's alone
2. a transaction is opened, and its id is recorded with the approval
3. the statement runs, in a subtransaction
4. what it destroyed is looked at from beside, and compared with the preview
5. what goes as a whole is saved with the statement taken back, then it runs again and must destroy the same;
   rows that go one by one are saved as they are
6. the undo point is moved into place and recorded with the answer
7. commit
8. the approval is `done`

Laws:
- Nothing is committed whose undo point is not complete on disk, unless a human said --without-undo. What is too large for one
  has a restore point instead where the WAL archive is up to date: a place in the WAL that a restore stops at.
- Nothing is committed whose transaction is not recorded. So whoever finds an approval `running` whose executor is gone asks the
  server what became of the transaction, and knows.
- An error anywhere before the commit takes everything back, the undo point too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from dbshield.config import EnvironmentConfig
from dbshield.control import running
from dbshield.control.approval import Approval
from dbshield.control.comparing import compare
from dbshield.control.running import Answer
from dbshield.control.undo_files import Folder, TooLarge, too_large
from dbshield.control.undo_points import UndoPoint, pin
from dbshield.control.witness import Connection, Losses, Witness
from dbshield.errors import Refused

APPLICATION_NAME: Final = "dbshield executor"
CONNECT_TIMEOUT: Final = 10
WITNESS_LOCK_TIMEOUT: Final = 5
"""Seconds: what the transaction keeps readers away from is looked at in another way, or not at all."""
CHANGED_SINCE: Final = "40001"
"""serialization_failure: the same statement may succeed when it is asked for again."""

GUARD: Final = """
    select pg_catalog.obj_description(pg_catalog.to_regnamespace('dbshield')::pg_catalog.oid, 'pg_namespace')
"""
"""What the guard says of itself, as the proxy reads it: a comment on its schema, for which no right is needed."""
GUARDED: Final = "dbshield guard of the environment "
"""How that comment begins (guard/identity.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A row of undo_points: what was saved (`size` in bytes), and what is answered should the executor die after the commit."""

    system_identifier: str
    transaction_id: str
    answer: Answer
    size: int
    sha256: bytes | None
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """The two connections of an execution, and its transaction."""

    worker: Connection
    beside: Connection
    witness: Witness
    dsn: str
    identifier: str
    transaction: str

    def point(self, answer: Answer, *, size: int, sha256: bytes | None, summary: Mapping[str, Any]) -> Point:
        return Point(
            system_identifier=self.identifier,
            transaction_id=self.transaction,
            answer=answer,
            size=size,
            sha256=sha256,
            summary=summary,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What an execution tells to whoever runs it. `began` and `saved` record in the control database and may raise, which takes
    the statement back; `at` is called with the name of each step."""

    began: Callable[[str], None]
    saved: Callable[[Point], None]
    at: Callable[[str], None] = lambda _: None
    archived: Callable[[], str | None] = lambda: None
    """The plan whose WAL archive covers now, if there is one."""


class Execution:
    """Runs one approval. `role` is the agent's on the server, `pinned` the cluster's system identifier where it is known,
    `folder` is where undo points lie. `committing` is true from the moment on when an error leaves open what became of it."""

    def __init__(
        self, approval: Approval, settings: EnvironmentConfig, *, role: str, pinned: str | None, folder: Path, steps: Steps
    ) -> None:
        self._approval = approval
        self._settings = settings
        self._role = role
        self._pinned = pinned
        self._folder = folder
        self._steps = steps
        self._archived_by: str | None = None
        self.committing = False

    def run(self) -> Answer:
        """The answer, after the commit. Raises psycopg.Error or DbshieldError when nothing of it stays; a connection that is lost
        during the commit leaves open which.

        What is too large for an undo point begins anew, with a place in the WAL as its undo point, where that is archived.
        """
        try:
            return self._run()
        except TooLarge:
            self._archived_by = self._steps.archived()
            if self._archived_by is None:
                raise
            self._steps.at("too large")
            return self._run()

    def _run(self) -> Answer:
        if not self._approval.intact:
            raise Refused("the stored statement is not the one that was approved", sqlstate="42501", hint="Ask again.")
        running.check(self._approval.statement)
        dsn = self._settings.executor_dsn(self._approval.database)
        with opened(dsn, self._settings) as worker, opened(dsn, self._settings) as beside:
            identifier = check_server(worker, self._approval.environment, self._pinned)
            beside.execute("set default_transaction_read_only = on")
            beside.execute("select set_config('lock_timeout', %s, false)", [f"{WITNESS_LOCK_TIMEOUT}s"])
            pin(beside)
            self._steps.at("connected")
            worker.execute("begin isolation level read committed read write")
            transaction = str(one(worker, "select pg_catalog.pg_current_xact_id()::text"))
            self._steps.began(transaction)
            self._steps.at("began")
            witness = Witness(worker, beside, transaction=int(transaction))
            return self._transaction(
                _Open(worker=worker, beside=beside, witness=witness, dsn=dsn, identifier=identifier, transaction=transaction)
            )

    def _transaction(self, found: _Open) -> Answer:
        answer, losses = self._try(found)
        self._steps.at("ran")
        self._compare(answer, losses)
        if self._approval.without_undo or losses.nothing:
            summary = {"without_undo": self._approval.without_undo, "objects": losses.objects()}
            self._steps.saved(found.point(answer, size=0, sha256=None, summary=summary))
            self._commit(found)
            return answer
        _refuse_uncovered(losses)
        if self._archived_by is not None:
            self._steps.saved(self._restore_point(found, answer, losses, self._archived_by))
            self._steps.at("saved")
            self._commit(found)
            return answer
        folder = Folder(self._folder, self._approval.id, limit=self._settings.undo_max_bytes)
        try:
            answer = self._save(found, folder, answer, losses)
        except BaseException:
            # Closed first, so that the statement is taken back before what would undo it is.
            found.worker.close()
            folder.discard()
            raise
        self._commit(found)
        return answer

    def _restore_point(self, found: _Open, answer: Answer, losses: Losses, plan: str) -> Point:
        """A named place in the WAL before the commit: what is restored up to there has all that the statement destroys."""
        name = f"dbshield {self._approval.id}"
        try:
            lsn = str(one(found.beside, "select pg_catalog.pg_create_restore_point(%s)::text", name))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState) as error:
            refused = too_large(self._settings.undo_max_bytes)
            refused.hint += " Or let the executor's role call pg_create_restore_point, since the WAL is archived."
            raise refused from error
        summary = {"restore_point": name, "lsn": lsn, "plan": plan, "objects": losses.objects()}
        return found.point(answer, size=0, sha256=None, summary=summary)

    def _commit(self, found: _Open) -> None:
        self.committing = True
        found.worker.execute("commit")
        self._steps.at("committed")

    def _try(self, found: _Open) -> tuple[Answer, Losses]:
        """The statement, on the terms of the agent's role, with everything that it would put off to the commit."""
        worker = found.worker
        found.witness.begin()
        worker.execute("savepoint dbshield")
        running.as_asked(worker, self._approval.settings, self._role)
        answer = running.run(worker, self._approval.statement, self._approval.parameters)
        worker.execute("set constraints all immediate")
        pin(worker)
        self._refuse_uncounted(worker)
        return answer, found.witness.losses()

    def _refuse_uncounted(self, worker: Connection) -> None:
        """Rows that the server does not count are not seen to be lost: neither saved nor compared with what was shown."""
        if not self._approval.without_undo and one(worker, "select pg_catalog.current_setting('track_counts')") != "on":
            raise Refused(
                "the server does not count what a statement changes (track_counts is off), so nothing can be saved of it",
                sqlstate="0A000",
                hint="Switch track_counts on for the executor's role, or approve it with --without-undo.",
            )

    def _save(self, found: _Open, folder: Folder, answer: Answer, losses: Losses) -> Answer:
        """Saves what goes and runs again what had to be taken back for that; the answer that counts."""
        undo = UndoPoint(found.worker, found.beside, folder, dsn=found.dsn)
        if losses.structural:
            found.worker.execute("rollback to savepoint dbshield")
            found.worker.execute("release savepoint dbshield")
            pin(found.worker)
            self._steps.at("taken back")
            _keep_writers_away(found.worker, losses)
            undo.save_structure(losses)
            self._steps.at("structure saved")
            answer, again = self._try(found)
            if _shape(again) != _shape(losses):
                raise Refused(
                    "what the statement destroys changed while it was being saved", sqlstate=CHANGED_SINCE, hint="Ask again."
                )
            self._compare(answer, again)
            losses = again
        undo.save_rows(losses, found.witness)
        sha256, summary = undo.finish(
            approval=self._approval.id,
            environment=self._approval.environment,
            database=self._approval.database,
            system_identifier=found.identifier,
            transaction_id=found.transaction,
        )
        self._steps.at("on disk")
        self._steps.saved(found.point(answer, size=folder.bytes, sha256=sha256, summary=summary))
        self._steps.at("saved")
        return answer

    def _compare(self, answer: Answer, losses: Losses) -> None:
        compare(self._approval.preview, answer, losses, tolerance=self._settings.row_tolerance)


@contextlib.contextmanager
def opened(dsn: str, settings: EnvironmentConfig) -> Iterator[Connection]:
    """A connection of the executor's: what is read as text is read as the judge read it, and nothing waits for ever."""
    connection: Connection = psycopg.connect(
        dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT, application_name=APPLICATION_NAME, client_encoding="UTF8"
    )
    try:
        # Without a COMMIT that reached the disk no answer is given. Rows that a policy would hide are an error, not left out.
        for name, value in {
            # Whatever anybody has put into public, operators of their own among it, is not met by what dbshield asks.
            "search_path": "",
            "standard_conforming_strings": "on",
            "synchronous_commit": "on",
            "row_security": "off",
            "default_transaction_read_only": "off",
            "idle_in_transaction_session_timeout": "0",
            "statement_timeout": f"{settings.execution_timeout:.3f}s",
            "lock_timeout": f"{settings.execution_lock_timeout:.3f}s",
        }.items():
            connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])
        yield connection
    finally:
        connection.close()


def check_server(connection: Connection, environment: str, pinned: str | None) -> str:
    """The cluster's system identifier, when it is the environment's own cluster. Refused where it is another's, or a standby."""
    found = str(one(connection, "select system_identifier::text from pg_catalog.pg_control_system()"))
    if pinned is not None and found != pinned:
        raise Refused(
            f"the server is not the one of {environment}: its system identifier is {found}, not {pinned}",
            sqlstate="08001",
            hint="Look at the executor's URL.",
        )
    said = str(one(connection, GUARD) or "")
    if said.startswith(GUARDED) and said.removeprefix(GUARDED) != environment:
        raise Refused(
            f"the guard in this database says that it belongs to {said.removeprefix(GUARDED)}, not to {environment}",
            sqlstate="08001",
            hint="Look at the executor's URL.",
        )
    if one(connection, "select pg_catalog.pg_is_in_recovery()"):
        raise Refused("the server is a standby, which takes no writes", sqlstate="25006", hint="Look at the executor's URL.")
    return found


def one(connection: Connection, query: str, *parameters: Any) -> Any:
    """The single value of a query; None where it gives no row."""
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row is not None else None


def _keep_writers_away(worker: Connection, losses: Losses) -> None:
    """In an order of their own, so that two executors do not wait for each other. Readers, pg_dump among them, go on."""
    tables = sorted((*losses.gone, *losses.emptied), key=lambda relation: relation.oid)
    for relation in tables:
        if relation.kind in "rp":
            worker.execute(sql.SQL("lock table only {} in exclusive mode").format(relation.qualified))


def _shape(losses: Losses) -> tuple[Any, ...]:
    """What has to be the same both times."""
    return losses.gone, losses.emptied, [(line.catalogue, line.oid) for line in losses.parts], losses.uncovered


def _refuse_uncovered(losses: Losses) -> None:
    if losses.uncovered:
        shown = "; ".join(losses.uncovered[:5]) + (f"; and {len(losses.uncovered) - 5} more" if len(losses.uncovered) > 5 else "")
        raise Refused(
            f"no undo point can bring back all that the statement changes: {shown}"[:600],
            sqlstate="0A000",
            hint="Take a backup, then approve it with --without-undo.",
        )
