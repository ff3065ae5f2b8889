"""The approvals as the sessions of one worker need them: asking for one, looking at it, taking it back, hearing that it moved.

What reads and writes the control database is `dbshield.control.approvals`, in a thread of its own, since nobody's statement may
wait for another one's question. That an approval moved is heard by LISTEN on one connection for the whole worker. A notice is
only a reason to look: where the connection is lost none comes, and whoever waits looks again after `LOOK_AGAIN` seconds anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg.conninfo import make_conninfo
from sqlalchemy import func, select

from dbshield.config import EnvironmentConfig
from dbshield.control.approval import Approval
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.control.denials import Denial, Denials
from dbshield.control.directory import CONNECT_TIMEOUT, KEEPALIVE, POLL, QUERY_TIMEOUT, RETRY_FIRST, RETRY_MOST
from dbshield.errors import Refused, StoreError
from dbshield.store.database import Database
from dbshield.store.schema import APPROVALS_CHANNEL, agents, people

APPLICATION_NAME: Final = "dbshield approvals"
"""What pg_stat_activity shows of the connection that listens."""
THREADS: Final = 2
"""As many as the control database's pool has connections."""
ANSWER_TIMEOUT: Final = 15.0
"""Seconds for an answer of the control database, waiting for a thread and for a lock with them."""
STOP_PATIENCE: Final = 1.0
"""Seconds at the end for what a thread is doing."""
LOOK_AGAIN: Final = 5.0
"""Seconds after which somebody who waits looks at the approval without having heard of it."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking: an approval, which another session may have asked for (`ours` is false then), or a denial that still
    holds."""

    approval: Approval | None = None
    ours: bool = False
    denial: Denial | None = None


class WorkerApprovals:
    """The approvals of one worker. `start` and `stop` in its event loop; `start` does not wait for the control database."""

    def __init__(self, control_dsn: str) -> None:
        self._dsn = control_dsn
        # A thread that asks a server that has vanished would be lost to all others.
        self._database = Database(make_conninfo(control_dsn, **KEEPALIVE))
        self._approvals = Approvals(self._database)
        self._denials = Denials(self._database)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="approvals")
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._given_up: set[str] = set()
        """What is to be taken back when the control database answers again."""
        self._taking_back: asyncio.Task[None] | None = None
        self._busy: set[Future[Any]] = set()
        self._stopped = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._stay(), name="approvals")

    async def stop(self) -> None:
        self._stopped = True
        tasks = [task for task in (self._task, self._taking_back) if task is not None]
        self._task = self._taking_back = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # A connection in the hands of a thread is closed by nobody else.
        if self._busy:
            await asyncio.wait([asyncio.wrap_future(work) for work in tuple(self._busy)], timeout=STOP_PATIENCE)
        for approval in sorted(self._given_up):
            log.warning("approvals.left_open", approval=approval)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()

    @contextlib.contextmanager
    def watch(self, approval: str, wake: asyncio.Event) -> Iterator[None]:
        """Sets `wake` whenever this approval has moved."""
        watchers = self._waiting.setdefault(approval, set())
        watchers.add(wake)
        try:
            yield
        finally:
            watchers.discard(wake)
            if not watchers:
                self._waiting.pop(approval, None)

    async def request(self, ask: Ask, settings: EnvironmentConfig) -> Asked:
        """Ask for a statement. Raises Refused where nobody could decide or too much is asked, and StoreError."""
        return await self._run(lambda: self._request(ask, settings), unheard=self._unheard)

    async def get(self, approval: str) -> Approval:
        return await self._run(lambda: self._approvals.get(approval))

    async def withdraw(self, approval: str) -> Approval:
        """Take it back. Raises Refused where it is not open any more."""
        return await self._run(lambda: self._approvals.withdraw(approval, datetime.now(UTC)))

    def take_back(self, approval: str) -> None:
        """Take it back as soon as the control database answers, if it is still open then."""
        if self._stopped:
            log.warning("approvals.left_open", approval=approval)
            return
        self._given_up.add(approval)
        if self._taking_back is None or self._taking_back.done():
            self._taking_back = asyncio.create_task(self._take_all_back(), name="approvals given up")

    async def _run(self, work: Callable[[], T], *, unheard: Callable[[T], None] | None = None) -> T:
        """The answer of `work`, in a thread. One that comes too late is given to `unheard`."""
        loop = asyncio.get_running_loop()
        answer = self._threads.submit(work)
        self._busy.add(answer)
        answer.add_done_callback(self._busy.discard)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            if unheard is not None:
                answer.add_done_callback(lambda late: _pass_on(late, loop, unheard))
            raise StoreError(
                f"the control database has not answered in {ANSWER_TIMEOUT:g} seconds",
                hint="A human may have been asked all the same: `dbshield approvals list` tells.",
            ) from error

    def _unheard(self, asked: Asked) -> None:
        """The client was told that it could not be asked for, and knows no name to wait for."""
        if asked.approval is not None and asked.ours:
            self.take_back(asked.approval.id)

    def _request(self, ask: Ask, settings: EnvironmentConfig) -> Asked:
        # Who sends again what was given up asks anew, and does not wait for what is about to be taken back.
        for given_up in tuple(self._given_up):
            self._withdraw_given_up(given_up)
        now = datetime.now(UTC)
        if settings.denial_memory_minutes:
            denial = self._denials.denied(ask.environment, ask.agent, ask.effects, now)
            if denial is not None:
                return Asked(denial=denial)
        needed = settings.approvals_needed
        with self._database.transaction() as connection:
            enrolled = connection.scalar(
                select(func.count()).where(people.c.removed_at.is_(None), people.c.enrolled_at.is_not(None))
            )
            agent_id = connection.scalar(
                select(agents.c.id).where(
                    agents.c.environment == ask.environment, agents.c.name == ask.agent, agents.c.removed_at.is_(None)
                )
            )
        if agent_id is None:
            raise Refused(f"there is no agent {ask.agent} in {ask.environment} any more", hint="Ask a human to run it.")
        if (enrolled or 0) < needed:
            raise Refused(
                f"nobody can be asked: {needed} must approve in {ask.environment}, {enrolled or 0} could",
                hint="Whoever runs dbshield adds people with `dbshield user add`. Until then ask a human to run it.",
            )
        approval = self._approvals.request(
            replace(ask, agent_id=agent_id),
            now=now,
            ttl=timedelta(minutes=settings.approval_ttl_minutes),
            needed=needed,
            most=settings.approvals_waiting_max,
        )
        return Asked(approval=approval, ours=approval.requested_at == now)

    def _withdraw_given_up(self, approval: str) -> None:
        """Raises StoreError, and then it is tried again."""
        try:
            self._approvals.withdraw(approval, datetime.now(UTC))
            log.info("approvals.taken_back", approval=approval)
        except Refused as error:
            log.info("approvals.moved_on", approval=approval, why=error.message)
        except StoreError:
            raise
        except Exception:  # it is tried once; others are still to be asked for
            log.exception("approvals.bug", approval=approval)
        self._given_up.discard(approval)

    # -- the tasks

    async def _take_all_back(self) -> None:
        while self._given_up:
            for approval in sorted(self._given_up):
                with contextlib.suppress(StoreError):
                    await self._run(functools.partial(self._withdraw_given_up, approval))
            if self._given_up:
                await asyncio.sleep(RETRY_MOST)

    async def _stay(self) -> None:
        """Listens, and comes back whenever the connection is lost."""
        pause = RETRY_FIRST
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = await psycopg.AsyncConnection.connect(
                        self._dsn,
                        autocommit=True,
                        application_name=APPLICATION_NAME,
                        connect_timeout=int(CONNECT_TIMEOUT),
                        **KEEPALIVE,
                    )
                async with connection:
                    await self._listen(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("approvals.lost", reason=(str(error).strip().splitlines() or [type(error).__name__])[0])
            except Exception:
                log.exception("approvals.bug")
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MOST)

    async def _listen(self, connection: Connection) -> None:
        async with asyncio.timeout(QUERY_TIMEOUT):
            await connection.execute(f"listen {APPROVALS_CHANNEL}")
        self._wake_all()
        spoken = time.monotonic()
        while True:
            async for notice in connection.notifies(timeout=POLL, stop_after=1):
                for wake in self._waiting.get(notice.payload.partition(" ")[0], ()):
                    wake.set()
            if time.monotonic() - spoken > POLL:
                async with asyncio.timeout(QUERY_TIMEOUT):
                    await connection.execute("select")
                spoken = time.monotonic()

    def _wake_all(self) -> None:
        """What moved before the connection listened was not heard."""
        for watchers in self._waiting.values():
            for wake in watchers:
                wake.set()


def _pass_on(late: Future[T], loop: asyncio.AbstractEventLoop, to: Callable[[T], None]) -> None:
    """In a thread that has ended its work; the loop may have ended before it."""
    if not late.cancelled() and late.exception() is None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(to, late.result())
