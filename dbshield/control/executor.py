"""The executor: the only part of dbshield that runs what humans approved.

It hears of approvals by NOTIFY and looks for itself every few seconds. Any number may run, on any machines; each approval is
claimed by exactly one. An executor is alive while it holds an advisory lock of the control database under its own name: whoever
can take that lock knows that it is gone, and settles what it left `running` by asking the protected server what became of the
transaction. Nothing is ever run a second time.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog
from sqlalchemy import select

from dbshield.config import EnvironmentConfig
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.execution import Execution, Point, Steps, check_server, one, opened
from dbshield.control.preview import Newest, make_preview, no_backup, no_preview
from dbshield.control.running import told
from dbshield.control.undo_expiry import Expiry
from dbshield.control.undo_files import remove
from dbshield.control.undo_store import UndoStore
from dbshield.errors import DbshieldError, Refused
from dbshield.store.database import Database
from dbshield.store.schema import APPROVALS_CHANNEL, agents, environments

LOCK_SPACE: Final = 0x6462_7865
"""The first half of the advisory locks that say that an executor lives: "dbxe"."""
LOOK_EVERY: Final = 5
"""Seconds between two looks when nothing was heard."""
RETRY: Final = 2.0
"""Seconds before the control database is tried again."""

GONE: Final = {
    "sqlstate": "57P01",
    "message": "the executor ended before the statement was committed; nothing of it was done",
    "detail": "",
    "hint": "Ask again.",
}
UNKNOWN: Final = {
    "sqlstate": "08007",
    "message": "the executor ended, and the server cannot say whether the statement was committed",
    "detail": "",
    "hint": "A human has to look at the data before anybody asks again.",
}
"""transaction_resolution_unknown: the server is another one now, or has forgotten so old a transaction."""


class Executor:
    """Runs approved statements of the environments that name an executor. `folder` is where undo points are kept; `at` is called
    with the name of each step of an execution, for those who want to see what happens when it ends there; `snapshot` and `drill`
    tell of the newest of an environment, for previews; `archived` names the plan whose WAL archive of one is up to date."""

    def __init__(
        self,
        database: Database,
        control_dsn: str,
        settings: Mapping[str, EnvironmentConfig],
        folder: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        at: Callable[[str], None] = lambda _: None,
        snapshot: Newest = no_backup,
        drill: Newest = no_backup,
        archived: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._settings = {name: each for name, each in settings.items() if each.executor}
        self._database = database
        self._control_dsn = control_dsn
        self._folder = folder
        self._clock = clock
        self._at = at
        self._newest = {"snapshot": snapshot, "drill": drill}
        self._archived = archived
        self._approvals = Approvals(database)
        self._undo = UndoStore(database)
        self._expiry = Expiry(database, self._settings, folder)
        self._log: Any = structlog.get_logger("dbshield.executor")
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"

    def run(self, stop: threading.Event) -> None:
        """Works until told to stop; an execution that has begun is finished first."""
        previews = threading.Thread(target=self._preview_for_ever, args=(stop,), name="previews", daemon=True)
        previews.start()
        while not stop.is_set():
            try:
                with self.alive() as connection:
                    connection.execute(f"listen {APPROVALS_CHANNEL}".encode())
                    self._log.info("the executor is ready", name=self.name, environments=sorted(self._settings))
                    while not stop.is_set():
                        self.work(stop)
                        _listen(connection, stop)
            except (DbshieldError, psycopg.Error) as error:
                self._log.warning("the control database does not answer", why=str(error).strip())
                stop.wait(RETRY)
            except Exception:  # noqa: BLE001  (a bug over one statement shall not keep all others from being run)
                self._log.exception("bug in the executor")
                stop.wait(RETRY)
        previews.join(timeout=LOOK_EVERY)

    @contextmanager
    def alive(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Holds the lock that says that this executor lives, on a connection that may be used to listen."""
        with psycopg.connect(self._control_dsn, autocommit=True, application_name="dbshield executor") as connection:
            connection.execute("select pg_advisory_lock(%s, hashtext(%s))", [LOCK_SPACE, self.name])
            yield connection

    def work(self, stop: threading.Event | None = None) -> int:
        """Settles what dead executors left, runs everything that is approved, and gives up undo points whose time is over; how
        many statements were run. Call it while `alive`."""
        self.settle()
        done = 0
        while stop is None or not stop.is_set():
            moment = self._clock()
            thawed = [name for name, each in self._settings.items() if not each.is_frozen(moment)]
            approval = self._approvals.claim(self.name, environments=thawed, now=moment)
            if approval is None:
                break
            self._at("claimed")
            self._execute(approval)
            done += 1
        self._expiry.round(self._clock())
        return done

    def preview(self) -> int:
        """Makes the previews that are missing; how many."""
        made = 0
        for approval in self._approvals.list_(now=self._clock(), states={State.WAITING}):
            settings = self._settings.get(approval.environment)
            if settings is None or approval.preview is not None:
                continue
            found = self._make_preview(approval, settings)
            try:
                self._approvals.previewed(approval.id, found)
                made += 1
            except Refused:
                continue  # Decided meanwhile.
        return made

    def _make_preview(self, approval: Approval, settings: EnvironmentConfig) -> dict[str, Any]:
        role, pinned, moment = self._role(approval), self._pinned(approval.environment), self._clock()
        try:
            return make_preview(approval, settings, role=role, pinned=pinned, now=moment, **self._newest)
        except Exception as error:  # noqa: BLE001  (one statement that brings a bug out shall not keep all others from being seen)
            self._log.exception("bug in a preview", approval=approval.id)
            return no_preview(f"not everything could be looked at: {type(error).__name__}", now=moment)

    def settle(self) -> int:
        """Finds approvals that executors left `running`, and records what became of them; how many."""
        settled = 0
        for approval in self._approvals.list_(now=self._clock(), states={State.RUNNING}):
            if approval.environment not in self._settings:
                continue
            if approval.executor == self.name:
                # This one runs nothing while it looks: what it left was left when the control database was away.
                settled += self._settle(approval)
                continue
            with self._gone(str(approval.executor)) as gone:
                settled += gone and self._settle(self._approvals.get(approval.id))
        return settled

    def _execute(self, approval: Approval) -> None:
        settings = self._settings[approval.environment]
        steps = Steps(
            began=lambda transaction: self._began(approval, transaction),
            saved=lambda point: self._saved(approval, point),
            at=self._at,
            archived=lambda: self._archived(approval.environment),
        )
        log = self._log.bind(approval=approval.id, environment=approval.environment)
        execution = None
        try:
            execution = Execution(
                approval,
                settings,
                role=self._role(approval),
                pinned=self._pinned(approval.environment),
                folder=self._folder,
                steps=steps,
            )
            answer = execution.run()
        except (DbshieldError, psycopg.Error, OSError) as error:
            if execution is not None and execution.committing:
                log.warning("the connection was lost during the commit; asking the server what became of it")
                self._settle_until_known(approval.id)
                return
            log.warning("an approved statement was not run", why=told(error)["message"])
            self._failed(approval.id, told(error))
            return
        self._done(approval.id, answer.tag, answer.result)
        self._at("finished")
        log.info("an approved statement was run", tag=answer.tag)

    def _began(self, approval: Approval, transaction: str) -> None:
        self._approvals.began(approval.id, transaction)

    def _saved(self, approval: Approval, point: Point) -> None:
        self._undo.add(
            approval.id,
            environment=approval.environment,
            database=approval.database,
            point=point,
            host=socket.gethostname(),
            now=self._clock(),
        )

    def _done(self, approval: str, tag: str, result: Mapping[str, Any] | None) -> None:
        point = self._undo.find(approval)
        undo = approval if point is not None and point.sha256 is not None else None
        self._approvals.finished(approval, tag=tag, result=result, undo=undo, now=self._clock())

    def _failed(self, approval: str, error: Mapping[str, Any]) -> None:
        self._undo.forget(approval)
        remove(self._folder / approval)
        self._approvals.failed(approval, error, now=self._clock())

    def _settle_until_known(self, approval: str) -> None:
        while not self._settle(self._approvals.get(approval)):
            threading.Event().wait(RETRY)

    def _settle(self, approval: Approval) -> bool:
        """Records what became of a `running` approval whose executor is gone. False while the server cannot say yet."""
        if approval.state is not State.RUNNING:
            return True
        self._log.warning("an executor is gone; settling what it left", approval=approval.id, executor=approval.executor)
        if approval.transaction_id is None:
            self._failed(approval.id, GONE)
            return True
        point = self._undo.find(approval.id)
        try:
            became = self._became(approval, point.system_identifier if point is not None else None)
        except (DbshieldError, psycopg.Error) as error:
            self._log.warning("the protected server does not answer", approval=approval.id, why=str(error).strip())
            return False
        match became:
            case "in progress":
                return False
            case "committed":
                self._done(approval.id, point.tag if point is not None else "", point.result if point is not None else None)
            case "aborted":
                self._failed(approval.id, GONE)
            case _:
                self._approvals.failed(approval.id, UNKNOWN, now=self._clock())
        return True

    def _became(self, approval: Approval, identifier: str | None) -> str | None:
        """What the server says of the transaction; None where it cannot say."""
        settings = self._settings[approval.environment]
        with opened(settings.executor_dsn(approval.database), settings) as connection:
            found = check_server(connection, approval.environment, self._pinned(approval.environment))
            if identifier is not None and found != identifier:
                return None
            try:
                status = one(connection, "select pg_catalog.pg_xact_status(%s::text::xid8)", approval.transaction_id)
            except psycopg.errors.InvalidParameterValue:
                return None  # A transaction of the future: this server never had it.
            return None if status is None else str(status)

    @contextmanager
    def _gone(self, executor: str) -> Iterator[bool]:
        """Whether that executor is gone; nobody else settles its approvals meanwhile."""
        with psycopg.connect(self._control_dsn, autocommit=True, application_name="dbshield executor") as connection:
            row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", [LOCK_SPACE, executor]).fetchone()
            yield row is not None and bool(row[0])

    def _role(self, approval: Approval) -> str:
        """The agent's role on the server: its own, or the environment's."""
        role = None
        if approval.agent_id is not None:
            with self._database.transaction() as connection:
                role = connection.scalar(select(agents.c.role).where(agents.c.id == approval.agent_id))
        return role or self._settings[approval.environment].server.user

    def _pinned(self, environment: str) -> str | None:
        with self._database.transaction() as connection:
            found = connection.scalar(select(environments.c.system_identifier).where(environments.c.name == environment))
        return None if found is None else str(found)

    def _preview_for_ever(self, stop: threading.Event) -> None:
        """On a thread of its own, so that a long execution keeps nobody from deciding."""
        while not stop.is_set():
            try:
                with psycopg.connect(self._control_dsn, autocommit=True, application_name="dbshield executor") as connection:
                    connection.execute(f"listen {APPROVALS_CHANNEL}".encode())
                    while not stop.is_set():
                        self.preview()
                        _listen(connection, stop)
            except (DbshieldError, psycopg.Error) as error:
                self._log.warning("no previews are made", why=str(error).strip())
                stop.wait(RETRY)
            except Exception:  # noqa: BLE001  (as above)
                self._log.exception("bug in a preview")
                stop.wait(RETRY)


def _listen(connection: psycopg.Connection[tuple[Any, ...]], stop: threading.Event) -> None:
    """Waits for a notice, for the time to look again, or to be told to stop."""
    for _ in range(LOOK_EVERY):
        if stop.is_set() or list(connection.notifies(timeout=1.0, stop_after=1)):
            return
