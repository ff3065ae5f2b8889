"""A client that cancels at the very moment at which a human's yes is taken up: what the session knew before is old by then."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from support.control import ENVIRONMENTS, PRODUCTION, agents_of
from support.people import Phone, enrol, vault_in
from support.waiting import DEADLINE, seconds_until

from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.model import AccessLevel, AgentLogin, Hold, Judgement, Upstream
from dbshield.proxy.approvals import WorkerApprovals
from dbshield.proxy.pair import Pair
from dbshield.proxy.waiting import Waiting
from dbshield.session.held import HeldStatement
from dbshield.session.terms import Terms
from dbshield.store.database import Database

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


async def cancelled_when_taken_up(dsn: str, control: Database, people: People, phone: Phone) -> Client:
    client, tasks = Client(), set[asyncio.Task[None]]()
    approvals = Approvals(control)

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.create_task(work))

    late = Late(dsn)
    settings = PRODUCTION.model_copy(update={"executor": "postgresql://executor@localhost/none", "approval_wait": DEADLINE * 4})
    waiting = Waiting(
        approvals=late,
        pair=cast("Pair", client),
        login=LOGIN,
        database="shop",
        session=7,
        application="",
        settings=lambda: settings,
        spawn=spawn,
        log=structlog.get_logger(),
    )
    waiting.begin(STATEMENT)
    await seconds_until(lambda: client.told)
    [asked] = approvals.list_(now=datetime.now(UTC), states=[State.WAITING])
    # Its next look finds a question that is open, and the answer is on its way for long.
    waiting._wake.set()
    await seconds_until(lambda: late.read)
    assert late.read is not None
    assert late.read.state is State.WAITING
    now = datetime.now(UTC)
    Deciding(control, people, ENVIRONMENTS).approve(asked.id, person="ann", code=phone.code(now), reason="fine", now=now)
    assert approvals.claim("test", environments=["production"], now=now) is not None
    waiting.cancel()
    late.arrives.set()
    await seconds_until(lambda: client.answered or any(b"too late to cancel" in notice for notice in client.told))
    assert client.answered == []
    approvals.finished(asked.id, tag="DELETE 3", result=None, now=datetime.now(UTC))
    waiting._wake.set()
    await seconds_until(lambda: client.answered)
    await asyncio.gather(*tasks)
    await late.stop()
    return client


def test_what_runs_is_waited_for_however_old_the_news_is(control_dsn: str, control: Database, tmp_path: Path) -> None:
    agents, _ = agents_of(control, tmp_path)
    people = People(control, vault_in(tmp_path))
    now = datetime.now(UTC)
    agents.create(name="claude", environment="production", access=AccessLevel.WRITE, now=now, by="test")
    phone = enrol(people, "ann", now)
    client = asyncio.run(cancelled_when_taken_up(control_dsn, control, people, phone))
    [answer] = client.answered
    assert b"DELETE 3" in answer
