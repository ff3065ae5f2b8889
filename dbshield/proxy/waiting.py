"""A session whose statement waits for a human: what it asks for, what the client hears meanwhile, and how the waiting ends.

Laws:
- The client is told at once which approval it waits for, and every `NOTICE_EVERY` seconds that it still does.
- Whatever ends the waiting, the client gets one answer for its statement, or its connection ends.
- An approval that was asked for stays open when the time is over: a human may decide later, and the client is told so. One that
  the client itself gave up (a cancel request, a good-bye, a lost connection) is taken back, unless another session asked first;
  while the control database is away, as soon as it is there again.
- What runs already is waited for: a cancel request comes too late for it.
- Without the control database nothing is taken for undecided: the waiting goes on, and where it ends all the same, the client is
  told that nobody can tell. Only before a human is asked, and by what the control database says, is nothing executed for certain.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

from dbshield.config import EnvironmentConfig
from dbshield.control.approval import OPEN, Approval, State
from dbshield.control.asking import Ask, Parameter
from dbshield.errors import DbshieldError, Refused, StoreError
from dbshield.model import AgentLogin
from dbshield.proxy import waiting_answers
from dbshield.proxy.approvals import LOOK_AGAIN, WorkerApprovals
from dbshield.proxy.pair import Pair
from dbshield.proxy.waiting_answers import ASK_A_HUMAN, GIVEN_UP, IN_VAIN, OVER, Stop
from dbshield.session import held_answers
from dbshield.session.held import ALONE, IN_BLOCK, TEMPORARY, HeldStatement
from dbshield.session.terms import Terms

NOTICE_EVERY: Final = 10.0
"""Seconds between two notices to a client that waits."""
IDLE_SHARE: Final = 0.8
"""Of the time after which the server ends an idle session."""
START_GRACE: Final = 30.0
"""Seconds beyond the wait in which an executor may take up what was approved in time, or write down what it did."""

Settings = Callable[[], EnvironmentConfig | None]
"""Those of the environment as they are now; None where it is configured no more."""


def can_ask(settings: EnvironmentConfig | None) -> bool:
    """Whether a human can be asked in this environment: only where somebody would run what was approved."""
    return settings is not None and bool(settings.executor)


class Waiting:
    """The held statements of one session, which come one after the other."""

    def __init__(
        self,
        *,
        approvals: WorkerApprovals,
        pair: Pair,
        login: AgentLogin,
        database: str,
        session: int,
        application: str,
        settings: Settings,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        log: Any,
    ) -> None:
        self._approvals = approvals
        self._pair = pair
        self._login = login
        self._database = database
        self._session = session
        self._application = application
        self._settings = settings
        self._spawn = spawn
        self._log = log
        self._wake = asyncio.Event()
        self._stop: Stop | None = None
        self._too_late = False
        self._begun = 0.0
        """When the server began to be idle."""
        self._away = ""
        """Why the newest look at the approval failed; empty where it did not."""
        self._asked: set[str] = set()
        """The approvals that this session asked for, and may take back."""
        self.active = False
        """Whether a statement waits."""

    def begin(self, statement: HeldStatement) -> None:
        """The server is ready, and so the statement waits."""
        self.active, self._stop, self._too_late, self._away = True, None, False, ""
        self._begun = time.monotonic()
        self._wake.clear()
        self._spawn(self._see_through(statement))

    def cancel(self) -> None:
        """A cancel request came."""
        self._end(Stop.CANCELLED)

    def gone(self) -> None:
        """The connection is over."""
        self._end(Stop.GONE)

    def drain(self) -> None:
        """The proxy ends."""
        self._end(Stop.DRAINING)

    def flood(self) -> None:
        """The client sends more than can be kept."""
        self._end(Stop.FLOODED)

    def _end(self, why: Stop) -> None:
        if self.active and self._stop is not Stop.GONE:
            self._stop = why
            self._wake.set()

    async def _see_through(self, statement: HeldStatement) -> None:
        try:
            answer = await self._answer(statement)
        except DbshieldError as error:
            answer = held_answers.stopped(statement, f"{IN_VAIN}: {error.message}", hint=error.hint or ASK_A_HUMAN)
        except Exception:  # noqa: BLE001 - a bug must not leave a client without an answer
            self._log.exception("bug while a session waited for a human", session=self._session)
            answer = held_answers.stopped(statement, "failed while it asked a human for this statement", hint=ASK_A_HUMAN)
        self.active = False
        self._pair.answer(answer)

    async def _answer(self, statement: HeldStatement) -> bytes:
        """What the client is to read. Raises DbshieldError where nobody could be asked."""
        settings = self._settings()
        if self._pair.in_transaction:
            return held_answers.stopped(statement, IN_VAIN, hint=IN_BLOCK)
        if settings is None or not can_ask(settings):
            return held_answers.stopped(statement, IN_VAIN, hint=ASK_A_HUMAN)
        if self._stop is Stop.FLOODED:
            return held_answers.stopped(statement, IN_VAIN, hint=ALONE)
        terms = statement.terms
        if terms is None:
            return held_answers.stopped(
                statement, f"{IN_VAIN}: the server did not tell this session's settings", hint=ASK_A_HUMAN
            )
        if terms.temporary:
            return held_answers.stopped(statement, IN_VAIN, hint=TEMPORARY)
        asked = await self._approvals.request(self._ask(statement, terms), settings)
        if asked.denial is not None:
            return waiting_answers.remembered(statement, asked.denial)
        approval = asked.approval
        assert approval is not None
        if asked.ours:
            self._asked.add(approval.id)
        try:
            if settings.approval_wait > 0:
                with self._approvals.watch(approval.id, self._wake):
                    approval = await self._wait(approval, settings, _patience(terms))
            elif self._stop in GIVEN_UP:
                approval = await self._given_up(approval)
        except DbshieldError as error:
            # Whoever is gone reads no answer: this is all that is said of it.
            self._log.warning("what became of an approval is not known", approval=approval.id, why=error.message)
            self._take_back_later(approval.id)
            return waiting_answers.unknown(statement, approval.id, error.message)
        except Exception:  # noqa: BLE001 - a human may have said yes to it
            self._log.exception("bug while a session waited for a human", session=self._session, approval=approval.id)
            self._take_back_later(approval.id)
            return waiting_answers.unknown(statement, approval.id, "dbshield failed")
        if approval.result is not None and approval.result.get("truncated"):
            self._say(f"{approval.id} gave more rows than are kept: these are the first of them", approval.id)
        now = datetime.now(UTC)
        if approval.state_at(now) in OVER and not (self._stop in GIVEN_UP and approval.state is State.WITHDRAWN):
            return waiting_answers.decided(statement, approval, now)
        return waiting_answers.in_vain(statement, approval, settings, self._stop, now)

    def _ask(self, statement: HeldStatement, terms: Terms) -> Ask:
        values = statement.parameters
        return Ask(
            environment=self._login.environment,
            agent=self._login.agent,
            access=self._login.access,
            database=self._database,
            session=self._session,
            application=self._application,
            statement=statement.text.decode(),
            parameters=None
            if values is None
            else tuple(Parameter(type=each.type, format=each.format, value=each.value) for each in values),
            settings=terms.settings,
            normal=statement.judgement.normal,
            effects=statement.judgement.effects,
            findings=statement.judgement.findings,
        )

    async def _wait(self, approval: Approval, settings: EnvironmentConfig, patience: float) -> Approval:
        """Until it is over, the time is, or something else ends the waiting; the approval as it stands. In no case longer than
        `patience` seconds since the statement came: asking took some of them. Raises StoreError where it ends and nobody can tell
        how the approval stands."""
        begun = time.monotonic()
        told = float("-inf")
        while True:
            if self._stop in GIVEN_UP and approval.state in OPEN:
                # What was read before may be old by now: only a withdrawal that succeeded says that nothing runs.
                approval = await self._given_up(approval)
            state = approval.state_at(datetime.now(UTC))
            # Old news may be of a state that has been left since; by it nothing is over, and nothing has expired.
            if (state in OVER and not self._unsure(approval)) or self._ends(state):
                return self._known(approval)
            now = time.monotonic()
            until = min(begun + settings.approval_wait + _grace(state, settings), self._begun + patience)
            if now >= until:
                self._stop = Stop.TIME
                return self._known(approval)
            if now - told >= NOTICE_EVERY:
                self._say(waiting_answers.progress(approval, state, until - now), approval.id)
                told = now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(until - now, told + NOTICE_EVERY - now, LOOK_AGAIN, _lives(approval, state))):
                    await self._wake.wait()
            self._wake.clear()
            approval = await self._look(approval)

    async def _look(self, approval: Approval) -> Approval:
        """How it stands; while the control database is away, as it was seen last."""
        try:
            approval = await self._approvals.get(approval.id)
        except StoreError as error:
            # It may have been decided. The next look tells.
            self._away = error.message
        else:
            self._away = ""
        return approval

    def _unsure(self, approval: Approval) -> bool:
        """Whether it may have been decided, and run, since it was seen last."""
        return bool(self._away) and approval.state in OPEN

    def _known(self, approval: Approval) -> Approval:
        """The approval itself. Raises StoreError where nobody can tell whether it still stands so."""
        if self._unsure(approval):
            raise StoreError(self._away)
        return approval

    def _ends(self, state: State) -> bool:
        """Whether what stopped the waiting ends it in this state."""
        if self._stop is None:
            return False
        if state is not State.RUNNING or self._stop is Stop.GONE:
            return True
        if self._stop is Stop.CANCELLED and not self._too_late:
            self._too_late = True
            self._say("it is too late to cancel: the statement is approved and runs, and its answer is waited for", "")
        self._stop = None
        return False

    async def _given_up(self, approval: Approval) -> Approval:
        """Take it back if this session asked for it, unless it has moved on meanwhile; how it stands now."""
        if approval.id in self._asked:
            with contextlib.suppress(Refused):
                return await self._approvals.withdraw(approval.id)
        approval = await self._approvals.get(approval.id)
        self._away = ""
        return approval

    def _take_back_later(self, approval: str) -> None:
        """What the client gave up, when it could not be taken back at once."""
        if self._stop in GIVEN_UP and approval in self._asked:
            self._approvals.take_back(approval)

    def _say(self, text: str, approval: str) -> None:
        self._pair.say(held_answers.notice(text, approval=approval))


def _grace(state: State, settings: EnvironmentConfig) -> float:
    """Seconds that are waited beyond the time for a human: what was approved in time is to be answered."""
    if state is State.APPROVED:
        return START_GRACE
    return START_GRACE + settings.execution_timeout if state is State.RUNNING else 0.0


def _patience(terms: Terms) -> float:
    """Seconds that the server lets the session be idle, less what the answer needs: it is better than a lost connection."""
    return terms.idle_timeout * IDLE_SHARE if terms.idle_timeout else math.inf


def _lives(approval: Approval, state: State) -> float:
    """Seconds until an open approval expires."""
    left = (approval.expires_at - datetime.now(UTC)).total_seconds()
    return max(0.0, left) if state in OPEN else LOOK_AGAIN
