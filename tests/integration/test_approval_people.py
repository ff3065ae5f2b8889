"""Who decides on real servers: two people, none who is gone, nobody on their own agent, nobody who guesses codes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from support.control import NOW
from support.deciding import ASK, HOUR, STEP, Office, office_in
from support.people import Phone, enrol
from support.servers import Server

from dbshield.control.approval import State
from dbshield.errors import ConfigError, Refused
from dbshield.model import AccessLevel

pytestmark = pytest.mark.one_server


@pytest.fixture
def office(server: Server, tmp_path: Path) -> Iterator[Office]:
    with office_in(server, tmp_path) as made:
        yield made


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
