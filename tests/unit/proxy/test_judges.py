"""Which judge a session has: shared where policies are equal, another one as soon as something changes, and none is the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dbshield.errors import Refused
from dbshield.model import AccessLevel, AgentLogin, Allow, Upstream
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.judges import CACHES_BYTES, JUDGES_KEPT, Judges
from dbshield.proxy.pair import Pair
from dbshield.proxy.sessions import Session
from dbshield.session.relay import Relay

STABLE = ("16501", "shop", "f", "s", "false", "sql", "owner", "false", "false", "")
VOLATILE = ("16501", "shop", "f", "v", "false", "sql", "owner", "false", "false", "")


class Worker:
    """The judges of a worker, with policies that a test changes."""

    def __init__(self) -> None:
        self.policy = Policy(access=AccessLevel.WRITE)
        self.sessions: list[Session] = []
        self.reasons: list[str] = []
        self.fault: Exception | None = None
        self.made = 0
        self.judges = Judges(self._make, self._policy_of, lambda: self.sessions)

    def _make(self, policy: Policy, functions: FunctionCatalogue) -> Judge:
        self.made += 1
        return Judge(policy=policy, functions=functions, max_statement_bytes=1 << 12)

    def _policy_of(self, login: AgentLogin) -> Policy:
        if self.fault is not None:
            raise self.fault
        return self.policy

    async def session(self, agent: str = "claude", port: int = 5432) -> Session:
        login = AgentLogin(
            agent=agent,
            environment="test",
            access=AccessLevel.WRITE,
            databases=("shop",),
            salt=b"",
            iterations=4096,
            tokens=(),
            upstream=Upstream(host="h", port=port, user="u"),
        )
        # Nothing is asked of a server: what its catalogue says is known.
        judge = await self.judges.judge(login, "shop", None)  # type: ignore[arg-type]
        relay = Relay(judge=judge, marker="dbshield_test")
        number = len(self.sessions)
        pair = Pair(relay, lambda _, judgement: None, lambda _, rows: None, self.reasons.append, lambda told: told(None))
        session = Session(number=number, login=login, database="shop", client="here", pair=pair)
        self.sessions.append(session)
        return session


def run(test: Callable[[Worker, pytest.MonkeyPatch], Awaitable[None]]) -> Callable[[pytest.MonkeyPatch], None]:
    def body(monkeypatch: pytest.MonkeyPatch) -> None:
        async def rows(server: object, query: str) -> list[tuple[str, ...]]:
            return [STABLE]

        monkeypatch.setattr("dbshield.proxy.upstream.query", rows)
        asyncio.run(_awaited(test(Worker(), monkeypatch)))

    body.__name__ = test.__name__
    return body


async def _awaited(work: Awaitable[None]) -> None:
    await work


@run
async def test_equal_policies_share_a_judge(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = await worker.session("claude"), await worker.session("cursor")
    assert one.pair.relay.judge is other.pair.relay.judge
    elsewhere = await worker.session(port=5433)
    assert elsewhere.pair.relay.judge is not one.pair.relay.judge, "another server has other functions"
    assert worker.made == 2


@run
async def test_a_session_that_stands_follows_its_policy(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await worker.session()
    relay, before = session.pair.relay, session.pair.relay.judge
    worker.judges.follow()
    assert relay.judge is before, "what was prepared stays valid while nothing changes"
    worker.policy = Policy(access=AccessLevel.WRITE, frozen=True)
    worker.judges.follow()
    assert relay.judge.judge(b"insert into t values (1)").verdict.word == "deny"
    worker.policy = Policy(access=AccessLevel.WRITE)
    worker.judges.follow()
    assert relay.judge is before, "and the verdicts of before the freeze are still known"


@run
async def test_a_changed_catalogue_reaches_sessions_that_stand(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await worker.session()
    assert session.pair.relay.judge.judge(b"select shop.f()").verdict == Allow()
    assert not worker.judges.learn(session.login, "shop", [STABLE])
    assert worker.judges.learn(session.login, "shop", [VOLATILE])
    assert session.pair.relay.judge.judge(b"select shop.f()").verdict.word == "hold"
    assert (await worker.session()).pair.relay.judge is session.pair.relay.judge


@run
async def test_a_reload_keeps_judges_and_takes_the_new_length(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await worker.session()
    before, text = session.pair.relay.judge, b"select '" + b"x" * 5000 + b"'"
    assert before.judge(text).verdict.word == "deny"
    worker.judges.renew(1 << 14)
    assert session.pair.relay.judge is before
    assert before.judge(text).verdict == Allow()


@run
async def test_without_a_policy_a_session_ends(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault, reason in (
        (Refused("the environment test is not configured any more"), "the environment test is not configured any more"),
        (KeyError("x"), "bug in following a policy: KeyError('x')"),
    ):
        worker.fault = None
        worker.reasons.clear()
        worker.sessions.clear()
        await worker.session()
        worker.fault = fault
        worker.judges.follow()
        assert worker.reasons == [reason]


@run
async def test_policies_that_nobody_has_any_more_are_forgotten(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await worker.session()
    for rows in range(1, 5 * JUDGES_KEPT):
        worker.policy = Policy(access=AccessLevel.WRITE, max_rows=rows)
        worker.judges.follow()
    known = worker.judges._known["test", "shop", "h", 5432]
    assert len(known.judges) <= JUDGES_KEPT + 1
    assert any(judge is session.pair.relay.judge for judge in known.judges.values())


@run
async def test_many_policies_share_the_memory_of_one_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: dict[int, int] = {}
    monkeypatch.setattr(Judge, "bound", lambda judge, most: bounds.__setitem__(id(judge), most))
    for rows in range(1, 13):
        worker.policy = Policy(access=AccessLevel.WRITE, max_rows=rows)
        await worker.session()
        worker.judges.follow()
    assert sum(bounds.values()) <= CACHES_BYTES
    assert min(bounds.values()) == CACHES_BYTES // 12
