"""Which judge a session has: shared where policies are equal, another one as soon as something changes, and none is the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from dbshield.errors import Refused
from dbshield.model import AccessLevel, AgentLogin, Allow, Upstream
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Override, OverrideVerdict, Policy
from dbshield.proxy.judges import CACHES_BYTES, JUDGES_KEPT, Judges
from dbshield.proxy.pair import Pair
from dbshield.proxy.sessions import Session
from dbshield.session.counting import RowCounter
from dbshield.session.relay import Relay
from dbshield.wire.backend import ReadyForQuery, TransactionStatus
from dbshield.wire.frontend import Bind, Close, Execute, Parse, Query, Sync, Target
from dbshield.wire.message import Message

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
        relay = Relay(judge=judge, marker="dbshield_test", counter=RowCounter("dbshield_count"))
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


READING: list[tuple[str | None, ...]] = [
    STABLE,
    ("b", "true", "f", "s", "16501", "sql", "", "", "", "select wipe()"),
    ("b", "true", "wipe", "v", "16502", "plpgsql", "", "", "", "begin delete from t; end"),
]
SEEN: tuple[str | None, ...] = ("n", "", "seen", "r", "16600", "", "", "", "", None)


def an_edge(begin: int, end: int) -> tuple[str | None, ...]:
    return ("e", "", "", "", "", "", "", "", "", f"{begin}>{end}")


@run
async def test_what_a_view_comes_to_call_reaches_sessions_that_stand(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was prepared while it called nothing, and the sessions of readers, which counted nothing until then. A view that
    calls nothing takes nobody's verdicts away."""
    worker.judges.learn((await worker.session()).login, "shop", READING)
    session = await worker.session()
    relay, judge = session.pair.relay, session.pair.relay.judge
    reads = Query(query=b"select * from seen")
    assert not counted(session, reads)
    assert not counted(session, Parse(name=b"s", query=reads.query), *runs(b"s"))
    assert not worker.judges.learn(session.login, "shop", [*READING, SEEN, an_edge(17000, 16600)])
    assert relay.judge is judge
    assert worker.judges.learn(session.login, "shop", [*READING, SEEN, an_edge(16502, 16600)])
    assert counted(session, reads)
    assert counted(session, *runs(b"s"))
    assert worker.judges.learn(session.login, "shop", READING)
    assert not counted(session, reads)
    assert not counted(session, *runs(b"s"))


@run
async def test_a_view_that_is_made_is_counted_for_whoever_reads_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.policy = Policy(access=AccessLevel.MIGRATE)
    worker.judges.learn((await worker.session()).login, "shop", READING)
    one, other = await worker.session("claude"), await worker.session("cursor")
    reads = Query(query=b"select * from made join kept using (id)")
    for session in (one, other):
        assert not counted(session, Parse(name=b"s", query=reads.query), Parse(name=b"r", query=b"select * from t"), *runs(b"s"))
    counted(one, Query(query=b"create view made as select * from seen"))
    for session in (one, other):
        assert counted(session, *runs(b"s"))
        assert counted(session, reads)
        assert not counted(session, *runs(b"r"))
    for _ in range(2):
        worker.judges.learn(one.login, "shop", READING)
    assert not counted(other, *runs(b"s"))


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


MAKE = b"create temp table x (like t including defaults)"
INSERT = Query(query=b"insert into x values (1)")
IDLE, OPEN = (ReadyForQuery(status=status).encode() for status in (TransactionStatus.IDLE, TransactionStatus.IN_TRANSACTION))


def counted(session: Session, *messages: Message) -> bool:
    """Whether the session counts what `messages` execute; the server answers that nothing is open any more."""
    relay = session.pair.relay
    heard = relay.from_client(b"".join(message.encode() for message in messages))
    while relay.busy:
        relay.from_server(IDLE)
    return b"dbshield_count" in heard


def runs(name: bytes) -> tuple[Message, ...]:
    return Bind(statement=name), Execute(), Sync()


@run
async def test_an_insert_into_what_another_session_makes_is_counted(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their policies: what is prepared, and what is judged from then on."""
    one = await worker.session("claude")
    worker.policy = Policy(access=AccessLevel.WRITE, max_rows=7)
    other = await worker.session("cursor")
    elsewhere = await worker.session(port=5433)
    sessions = (one, other, elsewhere)
    for session in sessions:
        assert not counted(session, Parse(name=b"s", query=INSERT.query), Parse(name=b"r", query=b"select 1"), *runs(b"s"))
        assert not counted(session, INSERT)
    # Which session it is that makes it makes no difference, nor does the pipeline that it comes in.
    assert counted(one, Query(query=MAKE), *runs(b"s"))
    assert [counted(session, *runs(b"s")) for session in sessions] == [True, True, False]
    assert [counted(session, INSERT) for session in sessions] == [True, True, False]
    assert not counted(other, *runs(b"r"))


@run
async def test_a_table_that_nobody_inserts_into_disturbs_nobody(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await worker.session()
    counted(session, Parse(name=b"s", query=b"insert into y values (1)"), Sync(), Query(query=b"insert into z values (1)"))
    used: list[object] = []
    monkeypatch.setattr(Relay, "use", lambda relay, judge: used.append(relay))
    for number in range(20):
        counted(session, Query(query=b"create temp table x%d (like t)" % number))
    assert used == []
    judge = session.pair.relay.judge
    assert isinstance(judge, Judge)
    misses = judge.misses
    assert not counted(session, Query(query=b"insert into z values (1)"))
    assert judge.misses == misses
    counted(session, Query(query=b"create temp table y (like t)"))
    assert used == [session.pair.relay]


@run
async def test_the_catalogue_takes_a_name_over(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = await worker.session(), await worker.session()
    learn = worker.judges.learn
    relay = session.pair.relay
    assert not counted(other, Parse(name=b"s", query=INSERT.query), *runs(b"s"))
    relay.from_client(Query(query=b"begin").encode())
    relay.from_server(OPEN)
    relay.from_client(Query(query=MAKE).encode())
    relay.from_server(OPEN)
    for _ in range(5):
        assert not learn(session.login, "shop", [STABLE])
        assert counted(other, *runs(b"s")), "it may yet commit"
    relay.from_client(Query(query=b"commit").encode())
    relay.from_server(IDLE)
    learn(session.login, "shop", [STABLE])
    assert counted(other, *runs(b"s")), "this reading may have begun before"
    learn(session.login, "shop", [STABLE])
    assert not counted(other, *runs(b"s")), "nothing runs with it"
    assert not counted(other, INSERT)
    counted(session, Query(query=MAKE))
    for _ in range(2):
        learn(session.login, "shop", [STABLE, ("r", "", "x", "", "", "", "", "", "", None)])
    assert worker.judges._known["test", "shop", "h", 5432].made.names == set()
    assert counted(other, *runs(b"s"))


@run
async def test_a_table_may_be_made_whenever_its_statement_is_prepared(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is judged at a Bind. So a name is not forgotten while a statement stands that makes it; where it is not certain
    what a statement's name stands for, every Bind of it may make what it stood for."""
    session = await worker.session()
    counted(session, Parse(name=b"m", query=MAKE), Sync())
    for _ in range(4):
        worker.judges.learn(session.login, "shop", [STABLE])
        assert counted(session, INSERT)
    # The server may never come to a Close: an error before it.
    counted(session, Close(target=Target.STATEMENT, name=b"m"), Sync())
    for _ in range(2):
        worker.judges.learn(session.login, "shop", [STABLE])
    assert not counted(session, INSERT)
    assert counted(session, *runs(b"m"))
    assert counted(session, INSERT)


@run
async def test_readers_know_the_same(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a login read late does not replace what was read since, and forgets no name."""
    session = await worker.session()
    known = worker.judges._known["test", "shop", "h", 5432]
    known.read_at = float("-inf")
    newer: list[tuple[str | None, ...]] = [STABLE, ("r", "", "x", "", "", "", "", "", "", None)]

    async def rows(server: object, query: str) -> list[tuple[str | None, ...]]:
        worker.judges.learn(session.login, "shop", newer)
        return [STABLE]

    monkeypatch.setattr("dbshield.proxy.upstream.query", rows)
    assert counted(await worker.session(), INSERT)
    assert known.rows == newer
    counted(session, Query(query=MAKE))
    for _ in range(3):
        worker.judges.forget(session.login, "shop")
    assert known.made.names == {"x"}


@run
async def test_statements_that_were_held_make_theirs_when_they_are_let_through(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of policy judges what is held anew, in the midst of which it is told that a table is made."""
    worker.policy = Policy(access=AccessLevel.MIGRATE)
    session = await worker.session()
    relay = Relay(judge=session.pair.relay.judge, marker="dbshield_test", counter=RowCounter("dbshield_count"), asks=lambda: True)
    pair = Pair(relay, lambda _, j: None, lambda _, rows: None, worker.reasons.append, lambda told: None)
    held = worker.sessions[0] = replace(session, pair=pair)
    assert not counted(held, Parse(name=b"s", query=INSERT.query), *runs(b"s"))
    for name in (b"a", b"b", b"c"):
        relay.from_client(Parse(name=name, query=b"alter table " + name + b" rename to x").encode() + Sync().encode())
    assert relay.prepared.held.keys() == {b"a", b"b", b"c"}
    worker.policy = Policy(access=AccessLevel.MIGRATE, overrides=(Override(rule="DS107", verdict=OverrideVerdict.ALLOW),))
    worker.judges.follow()
    assert (worker.reasons, relay.prepared.held) == ([], {})
    assert counted(held, *runs(b"s"))
