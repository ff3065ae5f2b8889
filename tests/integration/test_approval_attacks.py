"""Attacks on approvals, on real servers: nothing runs twice, and nothing runs that was not approved as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from support.control import NOW, control_database, empty_database
from support.people import Phone, enrol, vault_in
from support.servers import Server

from dbshield.config import EnvironmentConfig
from dbshield.control.agents import Agents
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask, Parameter
from dbshield.control.deciding import Deciding
from dbshield.control.denials import Denials
from dbshield.control.people import People
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel, Effect, Flag, ObjectKind, ObjectName, Operation
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

UPSTREAM = "postgresql://app@db.example.com/shop?sslmode=verify-full"
SETTINGS = {
    "staging": EnvironmentConfig(upstream=UPSTREAM),
    "production": EnvironmentConfig(upstream=UPSTREAM, approvals_needed=2, owners_may_approve=False, denial_memory_minutes=30),
}
HOUR, STEP = timedelta(hours=1), timedelta(seconds=30)
DELETE = Effect(operation=Operation.DELETE, kind=ObjectKind.TABLE, name=ObjectName(name="orders"))
ASK = Ask(
    environment="staging",
    agent="claude",
    access=AccessLevel.WRITE,
    database="shop",
    statement="DELETE FROM orders WHERE id > $1",
    parameters=(Parameter(type=23, format=0, value=b"7"),),
    effects=(DELETE,),
)


@dataclass(slots=True)
class Office:
    """A control database with two people, and whoever else is needed."""

    database: Database
    approvals: Approvals
    people: People
    deciding: Deciding
    ann: Phone
    bob: Phone
    agents: Agents
    dsn: str

    def ask(self, wanted: Ask = ASK, now: datetime = NOW) -> Approval:
        return self.approvals.request(wanted, now=now, ttl=HOUR, needed=SETTINGS[wanted.environment].approvals_needed)

    def approve(self, approval: Approval, phone: Phone, now: datetime = NOW, shown: str = "") -> Approval:
        return self.deciding.approve(approval.id, person=phone.person, code=phone.code(now), now=now, shown=shown)

    def claim(self, now: datetime = NOW, *environments: str) -> Approval | None:
        return self.approvals.claim("executor", environments=environments or list(SETTINGS), now=now)

    def by_hand(self, change: str, approval: Approval) -> None:
        """What somebody does who owns the control database, triggers off."""
        with self.database.transaction() as connection:
            connection.execute(text("alter table dbshield.approvals disable trigger keep_to_the_moves"))
            changed = connection.execute(text(f"update dbshield.approvals set {change} where id = :id"), {"id": approval.id})
            assert changed.rowcount == 1
            connection.execute(text("alter table dbshield.approvals enable trigger keep_to_the_moves"))


@pytest.fixture
def office(server: Server, tmp_path: Path) -> Iterator[Office]:
    with empty_database(server) as dsn, control_database(dsn) as database:
        vault = vault_in(tmp_path)
        people = People(database, vault)
        past = NOW - 10 * STEP
        ann = enrol(people, "ann", past)
        bob = enrol(people, "bob", past, ann.vouch(past))
        yield Office(
            database=database,
            approvals=Approvals(database),
            people=people,
            deciding=Deciding(database, people, SETTINGS),
            ann=ann,
            bob=bob,
            agents=Agents(database, SETTINGS, lambda: vault),
            dsn=dsn,
        )


def test_a_code_that_was_seen_approves_nothing_else(office: Office) -> None:
    first, second = office.ask(), office.ask(replace(ASK, statement="DROP TABLE orders", parameters=None))
    assert office.approve(first, office.ann).state is State.APPROVED
    with pytest.raises(Refused, match="used before"):
        office.approve(second, office.ann)
    with pytest.raises(Refused, match="not the one of bob"):
        office.deciding.approve(second.id, person="bob", code=office.ann.code(NOW, steps=1), now=NOW)
    assert office.approvals.get(second.id).state is State.WAITING


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, statement="DELETE FROM orders WHERE id > $1 "),
        replace(ASK, statement="DELETE FROM orders WHERE id >=$1"),
        replace(ASK, statement="DELETE FROM orderz WHERE id > $1"),
        replace(ASK, parameters=(Parameter(type=23, format=0, value=b"0"),)),
        replace(ASK, parameters=(Parameter(type=23, format=0, value=None),)),
        replace(ASK, parameters=(Parameter(type=23, format=1, value=b"7"),)),
        replace(ASK, parameters=None),
        replace(ASK, agent="cloude"),
        replace(ASK, database="live"),
        replace(ASK, environment="production"),
    ],
)
def test_an_approval_covers_nothing_but_what_was_asked(office: Office, other: Ask) -> None:
    made = office.ask()
    office.approve(made, office.ann)
    asked = office.ask(other)
    assert asked.id != made.id
    assert asked.state is State.WAITING
    with pytest.raises(Refused, match="not the one that was shown"):
        office.approve(asked, office.bob, shown=made.digest.hex())
    claimed = office.claim()
    assert claimed is not None
    assert (claimed.id, claimed.statement, claimed.parameters) == (made.id, ASK.statement, ASK.parameters)
    assert office.claim() is None


@pytest.mark.parametrize(
    "change",
    [
        "statement = 'DROP TABLE orders'",
        "statement = statement || ' '",
        'parameters = \'[{"type": 23, "format": 0, "value": "MA=="}]\'',
        "parameters = null",
        "environment = 'production', needed = 1",
        "agent = 'other'",
        "database = 'live'",
    ],
)
def test_a_row_that_was_changed_is_neither_approved_nor_run(office: Office, change: str) -> None:
    waiting = office.ask(replace(ASK, statement="DELETE FROM customers"))
    office.by_hand(change, waiting)
    with pytest.raises(Refused, match="was changed after it was asked for"):
        office.approve(waiting, office.bob)
    approved = office.ask()
    office.approve(approved, office.ann)
    office.by_hand(change, approved)
    assert office.claim() is None
    ended = office.approvals.get(approved.id)
    assert ended.state is State.WITHDRAWN
    assert ended.error is not None
    assert "was changed" in ended.error["message"]


def test_an_expired_one_is_neither_approved_nor_run(office: Office) -> None:
    waiting, approved = office.ask(replace(ASK, agent="other")), office.ask()
    office.approve(approved, office.ann)
    late = NOW + HOUR
    with pytest.raises(Refused, match="it is expired"):
        office.approve(waiting, office.bob, now=late)
    assert office.claim(late) is None
    # and the code was not used up for a no
    assert office.approve(office.ask(now=late), office.bob, now=late).state is State.APPROVED


def test_a_used_one_is_not_used_again(office: Office) -> None:
    made = office.ask()
    office.approve(made, office.ann)
    assert office.claim() is not None
    office.approvals.finished(made.id, tag="DELETE 3", now=NOW)
    assert office.claim() is None
    with pytest.raises(Refused, match="it is done"):
        office.approve(made, office.bob)
    again = office.ask()
    assert (again.id != made.id, again.state) == (True, State.WAITING)
    assert office.claim() is None


def test_an_executor_takes_its_own_environments_alone(office: Office) -> None:
    made = office.ask()
    office.approve(made, office.ann)
    assert office.claim(NOW, "production") is None
    assert office.claim(NOW, "staging") is not None


def test_racing_executors_have_one_winner(office: Office) -> None:
    made = office.ask()
    office.approve(made, office.ann)
    won: list[str] = []
    barrier = threading.Barrier(6)

    def executor() -> None:
        barrier.wait(20)
        claimed = office.claim()
        if claimed is not None:
            won.append(claimed.id)

    threads = [threading.Thread(target=executor) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert won == [made.id]


def test_two_people_are_two(office: Office) -> None:
    made = office.ask(replace(ASK, environment="production"))
    assert office.approve(made, office.ann).state is State.WAITING
    assert office.claim() is None
    with pytest.raises(Refused, match="ann has decided"):
        office.approve(made, office.ann, now=NOW + STEP)
    approved = office.approve(made, office.bob)
    assert (approved.state, approved.approved_by) == (State.APPROVED, ("ann", "bob"))
    assert office.claim() is not None


def test_two_people_are_needed_where_the_configuration_says_so_by_now(office: Office) -> None:
    """Asked for while one was enough."""
    made = office.approvals.request(replace(ASK, environment="production"), now=NOW, ttl=HOUR, needed=1)
    assert office.approve(made, office.ann).state is State.WAITING
    assert office.approve(made, office.bob).state is State.APPROVED


def test_one_denial_denies(office: Office) -> None:
    made = office.ask(replace(ASK, environment="production"))
    office.approve(made, office.ann)
    denied = office.deciding.deny(made.id, person="bob", code=office.bob.code(NOW), reason=" keep \n them ", now=NOW)
    assert (denied.state, denied.decisions[-1].reason) == (State.DENIED, "keep them")
    assert office.claim() is None
    with pytest.raises(Refused, match="it is denied"):
        office.approve(made, office.ann, now=NOW + STEP)


def test_two_who_approve_at_once_are_both_counted(office: Office) -> None:
    made = office.ask(replace(ASK, environment="production"))
    barrier = threading.Barrier(2)

    def decide(phone: Phone) -> None:
        barrier.wait(20)
        office.approve(made, phone)

    together(lambda: decide(office.ann), lambda: decide(office.bob))
    found = office.approvals.get(made.id)
    assert (found.state, set(found.approved_by)) == (State.APPROVED, {"ann", "bob"})


def test_who_approves_and_who_denies_at_once_have_one_winner(office: Office) -> None:
    made = office.ask()
    barrier = threading.Barrier(2)
    lost: list[str] = []

    def decide(phone: Phone, approves: bool) -> None:
        barrier.wait(20)
        try:
            if approves:
                office.approve(made, phone)
            else:
                office.deciding.deny(made.id, person=phone.person, code=phone.code(NOW), reason="no", now=NOW)
        except Refused as error:
            lost.append(error.message)

    together(lambda: decide(office.ann, True), lambda: decide(office.bob, False))
    found = office.approvals.get(made.id)
    assert len(found.decisions) == 1
    assert found.state is (State.APPROVED if found.decisions[0].approves else State.DENIED)
    assert [message.rpartition(" ")[2] for message in lost] == [found.state.value]


def together(*bodies: Callable[[], None]) -> None:
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_the_approval_of_somebody_who_is_gone_does_not_count(office: Office) -> None:
    waiting, approved = office.ask(replace(ASK, environment="production")), office.ask()
    office.approve(waiting, office.ann)
    office.approve(approved, office.ann, now=NOW + STEP)
    later = NOW + 4 * STEP
    office.people.remove("ann", by="root", now=later, vouch=office.bob.vouch(later))
    assert office.claim(later) is None
    ended = office.approvals.get(approved.id)
    assert ended.state is State.WITHDRAWN
    assert ended.error is not None
    assert "lost a person" in ended.error["message"]
    now = later + STEP
    still = office.approve(waiting, office.bob, now=now)
    assert (still.state, still.approved_by) == (State.WAITING, ("bob",))
    # nor does it count again when somebody of that name comes back
    back = enrol(office.people, "ann", now + 2 * STEP, office.bob.vouch(now + 2 * STEP))
    assert office.approvals.get(waiting.id).approved_by == ("bob",)
    assert office.approve(waiting, back, now=now + 2 * STEP).state is State.APPROVED


def test_the_approval_given_with_a_secret_that_was_replaced_does_not_count(office: Office) -> None:
    made = office.ask()
    office.approve(made, office.ann)
    office.people.reset("ann", by="root", now=NOW + STEP, vouch=office.bob.vouch(NOW))
    assert office.claim(NOW + STEP) is None
    assert office.approvals.get(made.id).state is State.WITHDRAWN


def test_nobody_approves_for_an_agent_of_their_own(office: Office) -> None:
    office.agents.create(name="claude", environment="production", access=AccessLevel.WRITE, now=NOW, by="root", owner="ann")
    agent = office.agents.list_agents(now=NOW, environment="production")[0]
    for wanted in (replace(ASK, environment="production"), replace(ASK, environment="production", agent_id=agent.id)):
        made = office.ask(wanted)
        with pytest.raises(Refused, match="ann answers for claude"):
            office.approve(made, office.ann)
    assert office.approve(made, office.bob).approved_by == ("bob",)


def test_owners_approve_where_the_configuration_lets_them(office: Office) -> None:
    office.agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=NOW, by="root", owner="ann")
    assert office.approve(office.ask(), office.ann).state is State.APPROVED


def test_another_agent_of_the_same_name_gets_no_approval_of_the_first(office: Office) -> None:
    for number in range(2):
        office.agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=NOW, by="root")
        agent = office.agents.list_agents(now=NOW, environment="staging")[0]
        made = office.ask(replace(ASK, agent_id=agent.id))
        assert made.state is State.WAITING, number
        office.approve(made, [office.ann, office.bob][number])
        office.agents.remove(name="claude", environment="staging", now=NOW)


def test_wrong_codes_approve_nothing_and_lock(office: Office) -> None:
    made = office.ask()
    for _ in range(5):
        with pytest.raises(Refused, match=r"not the one of ann|is locked"):
            office.deciding.approve(made.id, person="ann", code="abcdef", now=NOW)
    with pytest.raises(Refused, match="is locked"):
        office.approve(made, office.ann)
    with pytest.raises(Refused, match="is locked"):
        office.deciding.deny(made.id, person="ann", code=office.ann.code(NOW), reason="no", now=NOW)
    assert office.approvals.get(made.id).decisions == ()
    with office.database.transaction() as connection:
        told = connection.scalars(text("select kind from dbshield.audit where person = 'ann' and kind = 'code-refused'")).all()
    assert len(told) == 7


def test_what_is_not_configured_here_is_not_decided_here(office: Office) -> None:
    """How many people are needed stands in the configuration."""
    made = office.approvals.request(replace(ASK, environment="elsewhere"), now=NOW, ttl=HOUR, needed=1)
    with pytest.raises(ConfigError, match="not configured here"):
        office.approve(made, office.ann)
    assert office.claim(NOW, "elsewhere") is None


def test_nothing_that_an_agent_sends_approves(office: Office, server: Server) -> None:
    """Even on the server of the control database itself, with its own role and no proxy in between."""
    made = office.ask()
    database = str(conninfo_to_dict(office.dsn)["dbname"])
    for access in ("read", "write", "migrate"):
        with psycopg.connect(server.agent_dsn(access, database), autocommit=True) as agent:
            for attempt in (
                f"update dbshield.approvals set state = 'approved' where id = '{made.id}'",
                f"insert into dbshield.decisions values ('{made.id}', 'ann', 'approve', '', now())",
                "update dbshield.people set removed_at = null",
                "delete from dbshield.denials",
                f"select dbshield.people_for('{made.id}')",
                "select * from dbshield.approvals",
                "alter table dbshield.approvals disable trigger all",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    agent.execute(attempt)
            # a notice is all that anybody may send, and it moves nothing
            agent.execute(f"notify dbshield_approvals, '{made.id} approved'")
    assert office.approvals.get(made.id) == made
    assert office.claim() is None


def test_words_of_approval_in_a_statement_are_words(office: Office) -> None:
    statement = f"DELETE FROM orders /* approved by ann */; -- approve apr-aaaaaaaa; state: approved; code {office.ann.code(NOW)}"
    made = office.ask(replace(ASK, statement=statement, application="approved by ann", parameters=None))
    assert made.state is State.WAITING
    assert office.claim() is None


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (replace(DELETE, flags=frozenset({Flag.BOUNDED})), True),
        (replace(DELETE, operation=Operation.TRUNCATE), True),
        (replace(DELETE, operation=Operation.DROP, name=ObjectName(schema="public", name="orders")), True),
        (replace(DELETE, name=ObjectName(name="customers")), False),
        (replace(DELETE, operation=Operation.READ), False),
    ],
)
def test_a_denial_is_remembered_by_effect(office: Office, asked: Effect, refused: bool) -> None:
    denials, made = Denials(office.database), office.ask(replace(ASK, environment="production"))
    assert denials.denied("production", "claude", [DELETE], NOW) is None
    office.deciding.deny(made.id, person="ann", code=office.ann.code(NOW), reason="keep them", now=NOW)
    found = denials.denied("production", "claude", [asked], NOW)
    assert (found is not None) == refused
    if found is not None:
        assert (found.approval, found.person, found.reason) == (made.id, "ann", "keep them")
        assert found.until == NOW + timedelta(minutes=30)
    assert denials.denied("production", "claude", [asked], NOW + timedelta(minutes=30)) is None
    assert denials.denied("production", "other", [asked], NOW) is None
    assert denials.denied("staging", "claude", [asked], NOW) is None
    assert denials.denied("production", "claude", [], NOW) is None


def test_everything_about_an_approval_is_in_the_audit(office: Office) -> None:
    made, other = office.ask(), office.ask(replace(ASK, agent="other"))
    office.ask()
    office.approve(made, office.ann)
    office.deciding.deny(other.id, person="bob", code=office.bob.code(NOW), reason="no", now=NOW)
    third = office.ask(replace(ASK, agent="third"))
    office.approvals.withdraw(third.id, NOW)
    with office.database.transaction() as connection:
        entries = connection.scalars(
            text("select entry::jsonb from dbshield.audit where kind like 'approval-%' order by id")
        ).all()
    assert [(entry["event"], entry["approval"], entry.get("verdict"), entry.get("person")) for entry in entries] == [
        ("approval-requested", made.id, None, None),
        ("approval-requested", other.id, None, None),
        ("approval-decided", made.id, "approve", "ann"),
        ("approval-decided", other.id, "deny", "bob"),
        ("approval-requested", third.id, None, None),
        ("approval-withdrawn", third.id, None, None),
    ]
    assert {entry["digest"] for entry in entries} == {one.digest.hex() for one in (made, other, third)}


def test_who_asks_again_while_it_runs_does_not_have_it_run_twice(office: Office) -> None:
    asked = office.ask()
    office.approve(asked, office.ann)
    assert office.claim() is not None
    assert office.ask().id == asked.id
    late = NOW + 2 * HOUR
    assert office.ask(now=late).id == asked.id
    office.approvals.finished(asked.id, tag="DELETE 1", now=late)
    assert office.ask(now=late).id != asked.id


@pytest.mark.parametrize("agent", [None, ASK.agent])
def test_nothing_runs_while_the_environment_or_the_agent_is_frozen(office: Office, agent: str | None) -> None:
    asked = office.ask()
    office.approve(asked, office.ann)
    freeze = "insert into dbshield.freezes (environment, agent, reason, frozen_by, frozen_at) values (:e, :agent, 'x', 'x', :now)"
    with office.database.transaction() as connection:
        connection.execute(text(freeze), {"e": "production", "agent": agent, "now": NOW})
        connection.execute(text(freeze), {"e": ASK.environment, "agent": "another", "now": NOW})
        connection.execute(text(freeze), {"e": ASK.environment, "agent": agent, "now": NOW})
    assert office.claim() is None
    assert office.approvals.get(asked.id).state is State.APPROVED
    with office.database.transaction() as connection:
        lifted = "update dbshield.freezes set lifted_at = :now, lifted_by = 'x' where agent is distinct from 'another'"
        connection.execute(text(lifted), {"now": NOW})
    claimed = office.claim()
    assert claimed is not None
    assert claimed.id == asked.id


def test_what_an_agent_asked_for_goes_with_the_agent(office: Office) -> None:
    office.agents.create(name="claude", environment="staging", access=AccessLevel.WRITE, now=NOW, by="root")
    with office.database.transaction() as connection:
        agent_id = connection.scalar(text("select id from dbshield.agents where name = 'claude'"))
    asked = office.ask(replace(ASK, agent_id=agent_id))
    office.approve(asked, office.ann)
    office.agents.remove(name="claude", environment="staging", now=NOW)
    assert office.claim() is None
    found = office.approvals.get(asked.id)
    assert found.state is State.WITHDRAWN
    assert "removed" in (found.error or {})["message"]


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_nobody_goes_without_an_undo_point_because_somebody_else_would(office: Office, first: bool, second: bool) -> None:
    asked = office.ask(replace(ASK, environment="production"))
    for phone, without_undo in ((office.ann, first), (office.bob, second)):
        office.deciding.approve(asked.id, person=phone.person, code=phone.code(NOW), now=NOW, without_undo=without_undo)
    found = office.approvals.get(asked.id)
    assert (found.state, found.without_undo) == (State.APPROVED, first and second)
