"""What a waiting session knew before is old at the moment at which a human's yes is taken up, and while the control database is
away nobody can tell it more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import structlog
from support.control import ENVIRONMENTS, PRODUCTION, agents_of, away
from support.people import Phone, enrol, vault_in
from support.waiting import DEADLINE, seconds_until

from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.errors import StoreError
from dbshield.model import AccessLevel, AgentLogin, Hold, Judgement, Upstream
from dbshield.proxy.approvals import WorkerApprovals
from dbshield.proxy.pair import Pair
from dbshield.proxy.waiting import Waiting
from dbshield.session.held import HeldStatement
from dbshield.session.terms import Terms
from dbshield.store.database import Database
from dbshield.wire.framing import FrameReader
from dbshield.wire.report import ErrorResponse

pytestmark = pytest.mark.one_server

STATEMENT = HeldStatement(text=b"delete from orders", judgement=Judgement(verdict=Hold()), terms=Terms())

LOGIN = AgentLogin(
    agent="claude",
    environment="production",
    access=AccessLevel.WRITE,
    databases=("shop",),
    salt=b"",
    iterations=4096,
    tokens=(),
    upstream=Upstream(host="localhost", port=5432, user="claude"),
)


class Late(WorkerApprovals):
    """The real ones, whose next answer arrives only when the test lets it: a thread that the machine did not run meanwhile."""

    def __init__(self, control_dsn: str) -> None:
        super().__init__(control_dsn)
        self.read: Approval | None = None
        self.arrives = asyncio.Event()

    async def get(self, approval: str) -> Approval:
        found = await super().get(approval)
        if self.read is None:
            self.read = found
            await self.arrives.wait()
        return found


class Patient(WorkerApprovals):
    """The real ones, which look at nothing again before the test lets them."""

    def __init__(self, control_dsn: str) -> None:
        super().__init__(control_dsn)
        self.may_look = asyncio.Event()

    async def get(self, approval: str) -> Approval:
        await self.may_look.wait()
        return await super().get(approval)


class Broken(WorkerApprovals):
    """The real ones, but for a bug in how they are looked at again."""

    async def get(self, approval: str) -> Approval:
        raise RuntimeError(f"a bug with {approval}")


@dataclass
class Client:
    """What a client would read."""

    in_transaction: bool = False
    told: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)

    def say(self, notice: bytes) -> None:
        self.told.append(notice)

    def answer(self, answer: bytes) -> None:
        self.answered.append(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Whoever says yes, and takes it up, on the control database itself."""

    control: Database
    people: People
    phone: Phone

    def take_up(self, approval: str) -> None:
        now = datetime.now(UTC)
        deciding = Deciding(self.control, self.people, ENVIRONMENTS)
        deciding.approve(approval, person="ann", code=self.phone.code(now), reason="fine", now=now)
        assert Approvals(self.control).claim("test", environments=["production"], now=now) is not None


@pytest.fixture
def decider(control: Database, tmp_path: Path) -> Decider:
    agents, _ = agents_of(control, tmp_path)
    people = People(control, vault_in(tmp_path))
    now = datetime.now(UTC)
    agents.create(name="claude", environment="production", access=AccessLevel.WRITE, now=now, by="test")
    return Decider(control=control, people=people, phone=enrol(people, "ann", now))


@asynccontextmanager
async def asked(
    approvals: WorkerApprovals, control: Database, client: Client, **settings: float
) -> AsyncIterator[tuple[Waiting, str]]:
    """A session that waits, which the client was told, and its approval; it has its answer behind the block."""
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.create_task(work))

    environment = PRODUCTION.model_copy(
        update={"executor": "postgresql://executor@localhost/none", "approval_wait": DEADLINE * 4, **settings}
    )
    waiting = Waiting(
        approvals=approvals,
        pair=cast("Pair", client),
        login=LOGIN,
        database="shop",
        session=7,
        application="",
        settings=lambda: environment,
        spawn=spawn,
        log=structlog.get_logger(),
    )
    waiting.begin(STATEMENT)
    try:
        await seconds_until(lambda: client.told)
        [found] = Approvals(control).list_(now=datetime.now(UTC))
        yield waiting, found.id
        await seconds_until(lambda: client.answered)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await approvals.stop()


async def cancelled_when_taken_up(dsn: str, decider: Decider) -> Client:
    client, late = Client(), Late(dsn)
    async with asked(late, decider.control, client) as (waiting, approval):
        # Its next look finds a question that is open, and the answer is on its way for long.
        waiting._wake.set()
        await seconds_until(lambda: late.read)
        assert late.read is not None
        assert late.read.state is State.WAITING
        decider.take_up(approval)
        waiting.cancel()
        late.arrives.set()
        await seconds_until(lambda: client.answered or any(b"too late to cancel" in notice for notice in client.told))
        assert client.answered == []
        Approvals(decider.control).finished(approval, tag="DELETE 3", result=None, now=datetime.now(UTC))
        waiting._wake.set()
    return client


def test_what_runs_is_waited_for_however_old_the_news_is(control_dsn: str, decider: Decider) -> None:
    client = asyncio.run(cancelled_when_taken_up(control_dsn, decider))
    [answer] = client.answered
    assert b"DELETE 3" in answer


async def ended_while_away(dsn: str, decider: Decider, end: Callable[[Waiting], None], **settings: float) -> tuple[str, Client]:
    client, patient = Client(), Patient(dsn)
    async with asked(patient, decider.control, client, **settings) as (waiting, approval):
        decider.take_up(approval)
        with away(dsn):
            end(waiting)
            patient.may_look.set()
            await seconds_until(lambda: client.answered)
    return approval, client


def by_itself(_: Waiting) -> None:
    """The time does it."""


@pytest.mark.parametrize(
    ("end", "settings"),
    [
        pytest.param(Waiting.cancel, {}, id="a cancel request"),
        pytest.param(Waiting.gone, {}, id="a good-bye"),
        pytest.param(Waiting.flood, {}, id="a flood"),
        pytest.param(Waiting.drain, {}, id="the end of the proxy"),
        pytest.param(by_itself, {"approval_wait": 1.0}, id="the end of its time"),
        pytest.param(
            by_itself,
            {"approval_wait": 11.0, "approval_ttl_minutes": 10 / 60},
            id="the end of the approval",
            marks=pytest.mark.long,
        ),
    ],
)
def test_nobody_is_told_that_nothing_ran_while_nobody_can_tell(
    control_dsn: str, decider: Decider, end: Callable[[Waiting], None], settings: dict[str, float]
) -> None:
    """It runs, which the session has not heard of when the control database goes away and something ends the waiting."""
    with structlog.testing.capture_logs() as logs:
        approval, client = asyncio.run(ended_while_away(control_dsn, decider, end, **settings))
    assert Approvals(decider.control).get(approval).state is State.RUNNING
    [frame] = FrameReader().feed(client.answered[0])
    answer = ErrorResponse.decode(frame.payload)
    assert answer.sqlstate == "57014"
    assert f"dbshield cannot tell whether this statement ran or will run: {approval} cannot be looked at" in answer.message
    assert "nothing was executed" not in answer.message
    assert f"approval={approval} state=unknown" in answer.detail
    assert f"`dbshield approvals show {approval}`" in answer.hint
    [said] = [entry for entry in logs if entry["log_level"] == "warning" and entry["event"] != "approvals.left_open"]
    assert (said["approval"], "does not answer" in said["why"]) == (approval, True)


async def ended_by_a_bug(dsn: str, decider: Decider) -> tuple[str, Client]:
    client = Client()
    async with asked(Broken(dsn), decider.control, client) as (waiting, approval):
        decider.take_up(approval)
        waiting._wake.set()
    return approval, client


def test_a_bug_of_ours_does_not_say_that_nothing_ran(control_dsn: str, decider: Decider) -> None:
    with structlog.testing.capture_logs() as logs:
        approval, client = asyncio.run(ended_by_a_bug(control_dsn, decider))
    [frame] = FrameReader().feed(client.answered[0])
    answer = ErrorResponse.decode(frame.payload)
    assert answer.sqlstate == "57014"
    assert f"cannot tell whether this statement ran or will run: {approval}" in answer.message
    assert [entry["approval"] for entry in logs if entry["log_level"] == "error"] == [approval]


async def given_up_while_away(
    dsn: str, decider: Decider, end: Callable[[Waiting], None], becomes: State, **settings: float
) -> Client:
    client, approvals = Client(), WorkerApprovals(dsn)
    async with asked(approvals, decider.control, client, **settings) as (waiting, approval):
        with away(dsn):
            end(waiting)
            await seconds_until(lambda: client.answered)
        await seconds_until(lambda: Approvals(decider.control).get(approval).state is becomes)
        await seconds_until(lambda: not approvals._given_up)
    return client


@pytest.mark.parametrize(
    ("end", "settings", "becomes"),
    [
        pytest.param(Waiting.cancel, {}, State.WITHDRAWN, id="a cancel request"),
        pytest.param(Waiting.gone, {}, State.WITHDRAWN, id="a good-bye"),
        pytest.param(by_itself, {"approval_wait": 1.0}, State.WAITING, id="the end of its time"),
    ],
)
def test_what_was_given_up_while_nobody_could_take_it_back_is_taken_back_later(
    control_dsn: str, decider: Decider, end: Callable[[Waiting], None], settings: dict[str, float], becomes: State
) -> None:
    """A human who says yes an hour later would else run what nobody waits for. What only took too long stays: see decision 27."""
    client = asyncio.run(given_up_while_away(control_dsn, decider, end, becomes, **settings))
    assert b"state=unknown" in client.answered[0]
    [found] = Approvals(decider.control).list_(now=datetime.now(UTC))
    assert found.state is becomes


def ask() -> Ask:
    return Ask(
        environment="production",
        agent="claude",
        access=AccessLevel.WRITE,
        database="shop",
        statement="delete from orders",
    )


async def asked_too_late(dsn: str) -> None:
    approvals = WorkerApprovals(dsn)
    try:
        with psycopg.connect(dsn) as slow:
            slow.execute("lock table dbshield.approvals in share mode")
            with pytest.raises(StoreError, match="has not answered"):
                await approvals.request(ask(), PRODUCTION)
        control = Database(dsn)
        await seconds_until(lambda: [each.state for each in Approvals(control).list_(now=datetime.now(UTC))] == [State.WITHDRAWN])
        control.close()
    finally:
        await approvals.stop()


@pytest.mark.usefixtures("decider")
def test_what_was_asked_for_after_its_client_was_told_otherwise_is_taken_back(
    control_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control database is so slow that the client is told that nobody could be asked, and then it asks all the same."""
    monkeypatch.setattr("dbshield.proxy.approvals.ANSWER_TIMEOUT", 1.0)
    asyncio.run(asked_too_late(control_dsn))


async def asked_again(dsn: str, control: Database) -> tuple[str, str]:
    approvals = WorkerApprovals(dsn)
    try:
        first = (await approvals.request(ask(), PRODUCTION)).approval
        assert first is not None
        with away(dsn):
            approvals.take_back(first.id)
            with pytest.raises(StoreError):
                await approvals.get(first.id)
        again = await approvals.request(ask(), PRODUCTION)
        assert again.approval is not None
        assert again.ours
        return first.id, again.approval.id
    finally:
        await approvals.stop()


def test_who_sends_it_again_does_not_wait_for_what_is_about_to_be_taken_back(control_dsn: str, decider: Decider) -> None:
    first, again = asyncio.run(asked_again(control_dsn, decider.control))
    found = Approvals(decider.control)
    assert (found.get(first).state, found.get(again).state) == (State.WITHDRAWN, State.WAITING)
