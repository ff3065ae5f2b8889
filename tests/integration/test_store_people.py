"""People and their codes on real servers: who is let in, what a code is good for, and how guessing ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import text
from support.control import NOW, registered, tables_database
from support.people import Phone, enrol, vault_in
from support.servers import Server

from dbshield.control.people import People, Vouch
from dbshield.control.person_roles import Role
from dbshield.control.second_factor import LOCKED, WRONG_MOST, WRONG_WINDOW
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, Refused, StoreError
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

STEP = timedelta(seconds=30)


@pytest.fixture
def control(server: Server) -> Iterator[Database]:
    with tables_database(server) as dsn, registered(dsn) as database:
        yield database


@pytest.fixture
def people(control: Database, tmp_path: Path) -> People:
    return People(control, vault_in(tmp_path))


def take(control: Database, people: People, name: str, code: str, now: object = NOW) -> str:
    """What is said to a code; empty where it was taken."""
    with control.transaction() as connection:
        wrong = people.verify(connection, name, code, now=now)  # type: ignore[arg-type]
    return "" if wrong is None else wrong.message


def test_the_secret_is_kept_sealed_for_its_person(control: Database, people: People, tmp_path: Path) -> None:
    made = people.add("ann", by="root", now=NOW)
    assert made.uri == pyotp.TOTP(made.secret).provisioning_uri(name="ann", issuer_name="dbshield")
    assert len(made.secret) == 32
    assert made.secret not in repr(made)
    with control.transaction() as connection:
        sealed = bytes(connection.execute(text("select sealed_totp from dbshield.people")).scalar_one())
    assert made.secret.encode() not in sealed
    assert vault_in(tmp_path).unseal(sealed, identity="people/ann/totp") == made.secret
    with pytest.raises(StoreError, match="belongs to another"):
        vault_in(tmp_path).unseal(sealed, identity="people/bob/totp")


def test_nobody_decides_before_a_first_code(control: Database, people: People) -> None:
    phone = Phone("ann", people.add("ann", by="root", now=NOW).secret)
    assert "has not shown a first code" in take(control, people, "ann", phone.code(NOW))
    assert [one.state(NOW) for one in people.list_()] == ["not confirmed"]
    with pytest.raises(Refused, match="the code is not the one of ann"):
        people.confirm("ann", wrong_code(phone), now=NOW)
    assert people.confirm("ann", phone.code(NOW), now=NOW).enrolled_at == NOW
    assert [one.state(NOW) for one in people.list_()] == ["enrolled"]
    with pytest.raises(Refused, match="confirmed already"):
        people.confirm("ann", phone.code(NOW, steps=1), now=NOW)


def wrong_code(phone: Phone, now: object = NOW) -> str:
    """A code that is not good at any time near `now`."""
    good = {phone.code(now, steps=steps) for steps in range(-4, 5)}  # type: ignore[arg-type]
    return next(code for code in (f"{number:06}" for number in range(20)) if code not in good)


@pytest.mark.parametrize(("steps", "taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_holds_one_step_either_way(control: Database, people: People, steps: int, taken: bool) -> None:
    phone = enrol(people, "ann", NOW - 10 * STEP)
    assert (take(control, people, "ann", phone.code(NOW, steps=steps)) == "") == taken


def test_no_code_works_twice_and_none_older_than_a_used_one(control: Database, people: People) -> None:
    phone = enrol(people, "ann", NOW - 10 * STEP)
    assert take(control, people, "ann", f" {phone.code(NOW)[:3]} {phone.code(NOW)[3:]} ") == ""
    assert "used before" in take(control, people, "ann", phone.code(NOW))
    assert "used before" in take(control, people, "ann", phone.code(NOW, steps=-1))
    assert take(control, people, "ann", phone.code(NOW, steps=1)) == ""


def test_a_first_code_does_not_decide_as_well(control: Database, people: People) -> None:
    phone = Phone("ann", people.add("ann", by="root", now=NOW).secret)
    people.confirm("ann", phone.code(NOW), now=NOW)
    assert "used before" in take(control, people, "ann", phone.code(NOW))


def test_two_who_give_the_same_code_at_once_have_one_winner(control: Database, people: People) -> None:
    phone = enrol(people, "ann", NOW)
    said: list[str] = []
    barrier = threading.Barrier(4)

    def give() -> None:
        barrier.wait(20)
        said.append(take(control, people, "ann", phone.code(NOW)))

    threads = [threading.Thread(target=give) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(said) == ["", *["this code of ann was used before"] * 3]


def test_guessing_ends(control: Database, people: People) -> None:
    phone = enrol(people, "ann", NOW)
    for left in range(WRONG_MOST - 1, 0, -1):
        assert "not the one" in take(control, people, "ann", wrong_code(phone)), left
    assert "is locked until 2026-05-01 12:15" in take(control, people, "ann", wrong_code(phone))
    assert "is locked" in take(control, people, "ann", phone.code(NOW))
    assert [one.state(NOW) for one in people.list_()] == ["locked"]
    later = NOW + LOCKED
    assert take(control, people, "ann", phone.code(later), later) == ""
    assert "not the one" in take(control, people, "ann", wrong_code(phone, later), later)


def test_wrong_codes_are_counted_within_their_window(control: Database, people: People) -> None:
    phone = enrol(people, "ann", NOW)
    for number in range(2 * WRONG_MOST):
        moment = NOW + number * (WRONG_WINDOW / (WRONG_MOST - 2))
        assert "not the one" in take(control, people, "ann", wrong_code(phone, moment), moment), number


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６", "\ud800"])
def test_what_is_no_code_is_a_wrong_one(control: Database, people: People, code: str) -> None:
    enrol(people, "ann", NOW)
    assert "not the one" in take(control, people, "ann", code)


def test_another_person_s_code_is_wrong(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    enrol(people, "bob", NOW, ann.vouch(NOW))
    assert "not the one of bob" in take(control, people, "bob", ann.code(NOW, steps=1))
    assert "no person eve" in take(control, people, "eve", ann.code(NOW, steps=1))


def test_the_second_person_needs_somebody_to_vouch(people: People) -> None:
    """Whoever sits at the keyboard could else let themselves in, and approve what they like."""
    ann = enrol(people, "ann", NOW)
    for change in (people.add, people.reset):
        with pytest.raises(Refused, match="has to vouch") as caught:
            change("eve" if change == people.add else "ann", by="root", now=NOW)
        assert "ann" in caught.value.hint
    with pytest.raises(Refused, match="has to vouch"):
        people.remove("ann", by="root", now=NOW)
    with pytest.raises(Refused, match="not the one of ann"):
        people.add("eve", by="root", now=NOW, vouch=Vouch(person="ann", code=wrong_code(ann)))
    people.add("bob", by="root", now=NOW, vouch=ann.vouch(NOW))
    with pytest.raises(Refused, match="used before"):
        people.add("eve", by="root", now=NOW, vouch=ann.vouch(NOW))
    assert [(one.name, one.vouched_by) for one in people.list_()] == [("ann", None), ("bob", "ann")]


def test_who_was_added_before_anybody_was_there_is_not_confirmed_behind_their_back(people: People) -> None:
    eve = Phone("eve", people.add("eve", by="root", now=NOW).secret)
    ann = enrol(people, "ann", NOW)
    with pytest.raises(Refused, match="by now somebody is"):
        people.confirm("eve", eve.code(NOW), now=NOW)
    eve = Phone("eve", people.add("eve", by="root", now=NOW, vouch=ann.vouch(NOW)).secret)
    assert people.confirm("eve", eve.code(NOW), now=NOW).vouched_by == "ann"


def test_two_first_people_at_once_are_one(control: Database, people: People) -> None:
    phones = [Phone(name, people.add(name, by="root", now=NOW).secret) for name in ("ann", "eve")]
    said: list[str] = []
    barrier = threading.Barrier(2)

    def confirm(phone: Phone) -> None:
        barrier.wait(20)
        try:
            people.confirm(phone.person, phone.code(NOW), now=NOW)
            said.append("")
        except Refused as error:
            said.append(error.message)

    threads = [threading.Thread(target=confirm, args=(phone,)) for phone in phones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(said) == 2
    assert said.count("") == 1
    assert sum(one.enrolled_at is not None for one in people.list_()) == 1


def test_a_new_secret_ends_the_old_one(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    bob = enrol(people, "bob", NOW, ann.vouch(NOW))
    new = Phone("bob", people.reset("bob", by="root", now=NOW, vouch=ann.vouch(NOW, steps=1)).secret)
    assert "has not shown a first code" in take(control, people, "bob", bob.code(NOW))
    people.confirm("bob", new.code(NOW), now=NOW)
    assert "not the one" in take(control, people, "bob", bob.code(NOW, steps=1))
    assert take(control, people, "bob", new.code(NOW, steps=1)) == ""
    with pytest.raises(Refused, match="no person eve"):
        people.reset("eve", by="root", now=NOW + STEP, vouch=ann.vouch(NOW, steps=2))


def test_a_removed_person_is_gone_and_the_name_is_free(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    bob = enrol(people, "bob", NOW, ann.vouch(NOW))
    people.remove("bob", by="root", now=NOW, vouch=ann.vouch(NOW, steps=1))
    assert [one.name for one in people.list_()] == ["ann"]
    assert "no person bob" in take(control, people, "bob", bob.code(NOW))
    later = NOW + 4 * STEP
    again = enrol(people, "bob", later, ann.vouch(later))
    assert take(control, people, "bob", again.code(later), later) == ""
    with pytest.raises(Refused, match="there is a person bob already"):
        people.add("bob", by="root", now=later, vouch=ann.vouch(later, steps=1))


def test_when_everybody_has_lost_their_phone_the_page_says_what_to_do(control: Database, people: People) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "approvals.md").read_text(encoding="utf-8")
    enrol(people, "ann", NOW)
    with control.transaction() as connection:
        connection.execute(text(page.split("```sql\n")[1].split("```")[0]))
    later = NOW + 4 * STEP
    phone = enrol(people, "ann", later)
    assert take(control, people, "ann", phone.code(later), later) == ""


def test_a_name_has_a_form(people: People) -> None:
    for name in ("", "Ann", "a b", "-ann", "a" * 64, "ann\n", "анна"):
        with pytest.raises(ConfigError, match="is not a name of a person"):
            people.add(name, by="root", now=NOW)


def test_another_key_opens_nothing(control: Database, people: People, tmp_path: Path) -> None:
    phone = enrol(people, "ann", NOW)
    stranger = People(control, Vault.create(tmp_path / "other.key"))
    with pytest.raises(StoreError, match="sealed with another key"):
        take(control, stranger, "ann", phone.code(NOW))


def test_nobody_gives_more_than_they_have(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    assert [one.role for one in people.list_()] == [Role.ADMIN], "the first person"
    people.add("bob", by="root", now=NOW, vouch=ann.vouch(NOW))
    bob = enrol(people, "bob", NOW + STEP, vouch=ann.vouch(NOW + STEP))
    vera = Phone("vera", people.add("vera", by="root", now=NOW, vouch=bob.vouch(NOW + STEP), role=Role.VIEWER).secret)
    people.confirm("vera", vera.code(NOW + STEP), now=NOW + STEP)
    people.add("anna", by="root", now=NOW + 2 * STEP, vouch=ann.vouch(NOW + 2 * STEP), role=Role.ADMIN)
    later = NOW + 4 * STEP
    for phone, has in ((vera, "viewer"), (bob, "approver")):
        for change in (
            lambda vouch: people.add("carl", by="root", now=later, vouch=vouch, role=Role.ADMIN),
            lambda vouch: people.set_role(vouch.person, Role.ADMIN, by="root", now=later, vouch=vouch),
            lambda vouch: people.set_role("ann", Role.VIEWER, by="root", now=later, vouch=vouch),
            lambda vouch: people.reset("ann", by="root", now=later, vouch=vouch),
            lambda vouch: people.reset("anna", by="root", now=later, vouch=vouch),
            lambda vouch: people.remove("ann", by="root", now=later, vouch=vouch),
        ):
            with pytest.raises(Refused, match=f"{phone.person} has the role {has}, and this takes the role admin"):
                change(phone.vouch(later))
        # A no costs no code.
        assert take(control, people, phone.person, phone.code(later), later) == ""
    with pytest.raises(Refused, match="takes the role approver"):
        people.add("carl", by="root", now=later, vouch=vera.vouch(later))
    people.remove("vera", by="root", now=later + STEP, vouch=vera.vouch(later + STEP))


def test_where_nobody_is_an_admin_an_approver_makes_one(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    with control.transaction() as connection:
        # As people are who were enrolled before there were roles.
        connection.execute(text("update dbshield.people set role = 'approver'"))
    people.set_role("ann", Role.ADMIN, by="root", now=NOW, vouch=ann.vouch(NOW))
    assert [one.role for one in people.list_()] == [Role.ADMIN]


def test_everything_about_people_is_in_the_audit(control: Database, people: People) -> None:
    ann = enrol(people, "ann", NOW)
    enrol(people, "bob", NOW, ann.vouch(NOW))
    with pytest.raises(Refused):
        people.remove("bob", by="root", now=NOW, vouch=Vouch(person="ann", code=wrong_code(ann)))
    later = NOW + STEP
    people.reset("bob", by="root", now=later, vouch=ann.vouch(later))
    people.remove("bob", by="root", now=later, vouch=ann.vouch(later, steps=1))
    with control.transaction() as connection:
        entries = connection.scalars(text("select entry::jsonb from dbshield.audit order by id")).all()
    told = [(entry["event"], entry["person"], entry.get("vouched_by")) for entry in entries]
    assert told == [
        ("person-added", "ann", None),
        ("person-confirmed", "ann", None),
        ("person-added", "bob", "ann"),
        ("person-confirmed", "bob", None),
        ("code-refused", "ann", None),
        ("person-reset", "bob", "ann"),
        ("person-removed", "bob", "ann"),
    ]
    assert not any(phone_secret(entry) for entry in entries)


def phone_secret(entry: dict[str, object]) -> bool:
    return any(key in {"code", "secret", "uri"} for key in entry)
