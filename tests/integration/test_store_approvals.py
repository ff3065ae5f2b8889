"""Approvals on real servers: asking, claiming, what may follow what, and that nothing is used twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support.control import ENVIRONMENTS, NOW, registered, tables_database
from support.people import Phone, enrol, vault_in
from support.servers import Server

from dbshield.control.approval import Approval, State
from dbshield.control.approvals import WAITING_MOST, Approvals
from dbshield.control.asking import Ask, Parameter
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.errors import Refused
from dbshield.model import AccessLevel, Effect, Finding, Hold, ObjectKind, ObjectName, Operation
from dbshield.store.database import Database
from dbshield.store.schema import MOVES

pytestmark = pytest.mark.one_server

HOUR = timedelta(hours=1)
DELETE = Effect(operation=Operation.DELETE, kind=ObjectKind.TABLE, name=ObjectName(name="orders"))
FINDING = Finding(
    rule="DS201", name="rows.unbounded-delete", verdict=Hold(), message="No bound.", hint="Bound it.", effect=DELETE
)
ASK = Ask(
    environment="staging",
    agent="claude",
    access=AccessLevel.WRITE,
    database="shop",
    session=7,
    application="psql",
    statement="DELETE FROM orders",
    normal="DELETE FROM orders",
    effects=(DELETE,),
    findings=(FINDING,),
)


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    with tables_database(server) as dsn:
        yield dsn


@pytest.fixture
def control(dsn: str) -> Iterator[Database]:
    with registered(dsn) as database:
        yield database


@pytest.fixture
def people(control: Database, tmp_path: Path) -> People:
    return People(control, vault_in(tmp_path))


@pytest.fixture
def ann(people: People) -> Phone:
    return enrol(people, "ann", NOW)


@pytest.fixture
def deciding(control: Database, people: People) -> Deciding:
    return Deciding(control, people, ENVIRONMENTS)


def ask(control: Database, wanted: Ask = ASK, needed: int = 1) -> Approval:
    return Approvals(control).request(wanted, now=NOW, ttl=HOUR, needed=needed)


def test_what_was_asked_is_kept_as_it_was_asked(control: Database) -> None:
    parameters = (Parameter(type=23, format=1, value=b"\x00\x00\x00\x07"), Parameter(type=0, format=0, value=None))
    made = ask(control, replace(ASK, statement="DELETE FROM orders -- é\n WHERE $1 = $2", parameters=parameters))
    found = Approvals(control).get(made.id)
    assert found == made
    assert found.statement == "DELETE FROM orders -- é\n WHERE $1 = $2"
    assert found.parameters == parameters
    assert found.intact
    assert found.state is State.WAITING
    assert found.effects == ("delete table orders",)
    assert [finding["rule"] for finding in found.findings] == ["DS201"]
    assert (found.requested_at, found.expires_at) == (NOW, NOW + HOUR)


def test_an_approval_is_used_once(control: Database, deciding: Deciding, ann: Phone) -> None:
    approvals = Approvals(control)
    made = ask(control)
    assert approvals.claim("one", environments=["staging"], now=NOW) is None
    approved = deciding.approve(made.id, person="ann", code=ann.code(NOW), reason="fine", now=NOW)
    assert approved.state is State.APPROVED
    assert approvals.claim("one", environments=["production"], now=NOW) is None
    claimed = approvals.claim("one", environments=["production", "staging"], now=NOW)
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.executor) == (made.id, State.RUNNING, "one")
    assert approvals.claim("two", environments=["staging"], now=NOW) is None
    approvals.began(made.id, "742")
    result = {"columns": [{"name": "id", "type": 23, "modifier": -1}], "rows": [["1"], [None]]}
    done = approvals.finished(made.id, tag="DELETE 2", result=result, now=NOW)
    assert (done.state, done.transaction_id, done.tag, done.result) == (State.DONE, "742", "DELETE 2", result)
    for again in (
        lambda: approvals.finished(made.id, tag="DELETE 2", now=NOW),
        lambda: approvals.failed(made.id, {"message": "no"}, now=NOW),
        lambda: approvals.began(made.id, "743"),
        lambda: approvals.withdraw(made.id, NOW),
        lambda: deciding.approve(made.id, person="ann", code=ann.code(NOW, steps=1), now=NOW),
    ):
        with pytest.raises(Refused, match="it is done"):
            again()
    assert ask(control).id != made.id


def test_a_failure_is_kept(control: Database, deciding: Deciding, ann: Phone) -> None:
    made = ask(control)
    deciding.approve(made.id, person="ann", code=ann.code(NOW), now=NOW)
    Approvals(control).claim("one", environments=["staging"], now=NOW)
    error = {"sqlstate": "23503", "message": "violates", "detail": "", "hint": ""}
    failed = Approvals(control).failed(made.id, error, now=NOW)
    assert (failed.state, failed.error, failed.finished_at) == (State.FAILED, error, NOW)


def test_an_equal_ask_gives_the_open_one_back(control: Database, deciding: Deciding, ann: Phone) -> None:
    made = ask(control)
    assert ask(control, replace(ASK, session=8)).id == made.id
    deciding.approve(made.id, person="ann", code=ann.code(NOW), now=NOW)
    assert ask(control).id == made.id
    assert Approvals(control).request(ASK, now=NOW + HOUR, ttl=HOUR, needed=1).id != made.id


def test_many_sessions_that_ask_the_same_at_once_get_one(control: Database) -> None:
    found: list[str] = []
    barrier = threading.Barrier(4)

    def session() -> None:
        barrier.wait(20)
        found.append(ask(control).id)

    run([session] * 4)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_an_agent_cannot_flood_the_humans(control: Database) -> None:
    for number in range(WAITING_MOST):
        ask(control, replace(ASK, statement=f"DELETE FROM orders -- {number}"))
    with pytest.raises(Refused, match="wait for a human already"):
        ask(control, replace(ASK, statement="DELETE FROM orders -- one more"))
    assert ask(control, replace(ASK, agent="other")).state is State.WAITING
    later = Approvals(control).request(ASK, now=NOW + HOUR, ttl=HOUR, needed=1)
    assert later.state is State.WAITING


def test_racing_executors_have_one_winner_each(control: Database, deciding: Deciding, ann: Phone) -> None:
    made = [ask(control, replace(ASK, statement=f"DELETE FROM orders -- {number}")).id for number in range(3)]
    for steps, one in enumerate(made):
        moment = NOW + timedelta(seconds=30 * steps)
        deciding.approve(one, person="ann", code=ann.code(moment), now=moment)
    claimed: list[str] = []
    barrier = threading.Barrier(4)

    def executor() -> None:
        barrier.wait(20)
        while (one := Approvals(control).claim(threading.current_thread().name, environments=["staging"], now=NOW)) is not None:
            claimed.append(one.id)

    run([executor] * 4)
    assert sorted(claimed) == sorted(made)


def run(bodies: list[object]) -> None:
    threads = [threading.Thread(target=body) for body in bodies]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("before", MOVES)
def test_the_database_keeps_to_the_moves(control: Database, deciding: Deciding, ann: Phone, before: str) -> None:
    """Whoever writes the table by hand gets no further than dbshield."""
    made = bring(control, deciding, ann, State(before))
    for after in MOVES:
        if after == before:
            continue
        statement = text(f"update dbshield.approvals set state = '{after}', executor = 'x', started_at = :now where id = :id")
        moved = True
        try:
            with control.transaction() as connection:
                connection.execute(statement, {"now": NOW, "id": made})
                connection.rollback()
        except IntegrityError:
            moved = False
        # nobody decided on a waiting one, so the database lets nobody pretend it
        assert moved == (after in MOVES[before] and (before, after) not in {("waiting", "approved"), ("waiting", "denied")})


def bring(control: Database, deciding: Deciding, ann: Phone, state: State) -> str:
    """The id of an approval in this state."""
    approvals, made = Approvals(control), ask(control).id
    if state is State.EXPIRED:
        assert approvals.expire(NOW + HOUR) == 1
    elif state is State.WITHDRAWN:
        approvals.withdraw(made, NOW)
    elif state is State.DENIED:
        deciding.deny(made, person="ann", code=ann.code(NOW), reason="no", now=NOW)
    elif state is not State.WAITING:
        deciding.approve(made, person="ann", code=ann.code(NOW), now=NOW)
        if state is not State.APPROVED:
            approvals.claim("one", environments=["staging"], now=NOW)
        if state is State.DONE:
            approvals.finished(made, tag="DELETE 1", now=NOW)
        if state is State.FAILED:
            approvals.failed(made, {"message": "no"}, now=NOW)
    assert approvals.get(made).state is state
    return made


CHANGES = (
    "statement = 'DROP TABLE orders'",
    "environment = 'production'",
    "agent = 'other'",
    "database = 'live'",
    "parameters = '[]'",
    "digest = decode(repeat('00', 32), 'hex')",
    "expires_at = expires_at + interval '1 year'",
    "needed = 2",
    "findings = '[]'",
)


def test_what_was_asked_for_does_not_change(control: Database) -> None:
    made = ask(control)
    for change in CHANGES:
        with pytest.raises(IntegrityError, match="does not change"), control.transaction() as connection:
            connection.execute(text(f"update dbshield.approvals set {change} where id = :id"), {"id": made.id})
    assert Approvals(control).get(made.id) == made


def test_an_approval_begins_as_waiting(control: Database) -> None:
    made = ask(control)
    copy = text("""
        insert into dbshield.approvals
        select (jsonb_populate_record(a, jsonb_build_object('id', 'apr-aaaaaaaa', 'state', 'approved'))).*
        from dbshield.approvals a where id = :id
    """)
    with pytest.raises(IntegrityError, match="begins as waiting"), control.transaction() as connection:
        connection.execute(copy, {"id": made.id})


def test_past_its_end_an_open_one_counts_as_expired_everywhere(control: Database, deciding: Deciding, ann: Phone) -> None:
    approvals, late = Approvals(control), NOW + HOUR
    waiting, approved = ask(control).id, ask(control, replace(ASK, agent="other")).id
    deciding.approve(approved, person="ann", code=ann.code(NOW), now=NOW)
    assert [one.id for one in approvals.list_(now=NOW, states=[State.WAITING])] == [waiting]
    assert approvals.list_(now=late, states=[State.WAITING, State.APPROVED]) == []
    assert {one.id for one in approvals.list_(now=late, states=[State.EXPIRED])} == {waiting, approved}
    assert approvals.claim("one", environments=["staging"], now=late) is None
    with pytest.raises(Refused, match="it is expired"):
        approvals.withdraw(approved, late)
    with pytest.raises(Refused, match="it is expired"):
        deciding.approve(waiting, person="ann", code=ann.code(late), now=late)
    with pytest.raises(Refused, match="it is expired"):
        deciding.deny(waiting, person="ann", code=ann.code(late), reason="no", now=late)
    assert approvals.expire(NOW) == 0
    assert approvals.expire(late) == 2
    assert approvals.get(approved).state is State.EXPIRED


def test_every_new_state_is_announced_with_its_commit(control: Database, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen dbshield_approvals")
        made = ask(control).id
        Approvals(control).previewed(made, {"rows": 3})
        Approvals(control).withdraw(made, NOW)
        notices = [notice.payload for notice in listener.notifies(timeout=20, stop_after=2)]
        assert notices == [f"{made} waiting", f"{made} withdrawn"]


def test_an_unknown_one_is_named(control: Database) -> None:
    with pytest.raises(Refused, match="no approval apr-none"):
        Approvals(control).get("apr-none")
    with pytest.raises(Refused, match="no approval apr-none"):
        Approvals(control).withdraw("apr-none", NOW)
