"""The console's door: who comes in, who stays in, and what no other site can do in somebody's name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from support.consoles import PASSWORD, Browser, ConsoleDesk
from support.control import registered, tables_database
from support.servers import Server

from dbshield.control import passwords
from dbshield.control.person_roles import Role
from dbshield.control.signing_in import MOST_OF_BOTH, MOST_OF_SOURCE, WINDOW


@pytest.fixture(scope="module")
def house(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDesk]:
    """Ann, an admin; Vera, who may only look; Paul, who has no password; Carl, of whom nothing is left."""
    folder: Path = tmp_path_factory.mktemp("console")
    with tables_database(server18) as dsn, registered(dsn) as database:
        desk = ConsoleDesk(database, dsn, folder)
        desk.enrol("ann", Role.ADMIN)
        desk.enrol("vera", Role.VIEWER, vouch="ann")
        desk.enrol("paul", Role.APPROVER, vouch="ann", password=None)
        desk.enrol("carl", Role.APPROVER, vouch="ann")
        desk.later()
        desk.people.remove("carl", by="test", now=desk.now, vouch=desk.phones["ann"].vouch(desk.now))
        yield desk
        desk.close()


@pytest.fixture
def desk(house: ConsoleDesk) -> ConsoleDesk:
    """Nobody is counted as somebody who tries too often."""
    house.later(minutes=30)
    house.source = "192.0.2.7"
    return house


def entries(desk: ConsoleDesk) -> list[str]:
    with desk.database.transaction() as connection:
        return list(connection.scalars(text("select entry from dbshield.audit order by id")))


def inside(browser: Browser) -> bool:
    return browser.get("/rules").text.count("Sign out") == 1


def test_who_has_password_and_code_is_in(desk: ConsoleDesk) -> None:
    before = len(entries(desk))
    browser = desk.browser()
    assert browser.get("/").headers["location"] == "/sign-in"
    assert browser.get("/approvals?x=1").headers["location"] == "/sign-in?next=%2Fapprovals%3Fx%3D1"
    answer = browser.sign_in(" Ann ", PASSWORD, desk.code("ann"), next="/approvals?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals?x=1")
    page = browser.get("/")
    assert page.status_code == 200
    assert "<b>ann</b>" in page.text
    assert browser.get("/sign-in").headers["location"] == "/", "who is in needs no form"
    [signed_in] = [entry for entry in entries(desk)[before:] if "console-" in entry]
    assert '"person":"ann"' in signed_in
    assert '"source":"192.0.2.7"' in signed_in


def test_whatever_is_wrong_has_one_answer_and_is_written_down(desk: ConsoleDesk) -> None:
    code = desk.code("ann")
    assert desk.browser().sign_in("ann", PASSWORD, code).status_code == 303
    attempts = {
        "the code was used": ("ann", PASSWORD, code),
        "a wrong code": ("ann", PASSWORD, "000000" if code != "000000" else "111111"),
        "a wrong password": ("ann", "wrong horse battery staple", desk.code("ann")),
        "nobody": ("hunter2-my-password", PASSWORD, code),
        "no password": ("paul", PASSWORD, desk.code("paul")),
        "removed": ("carl", PASSWORD, desk.code("carl")),
        "empty": ("", "", ""),
        "odd": ("ann'--", "\u202e", "\u0661\u0662\u0663\u0664\u0665\u0666"),
    }
    before = len(entries(desk))
    answers = set()
    for what, (name, password, given) in attempts.items():
        browser = desk.browser()
        browser.get("/sign-in")
        answer = browser.sign_in(name, password, given)
        assert answer.status_code == 403, what
        assert not inside(browser), what
        answers.add(answer.text.split('role="alert"')[1].split("</div>")[0])
    assert len(answers) == 1
    refused = [entry for entry in entries(desk)[before:] if '"event":"console-refused"' in entry]
    assert len(refused) == len(attempts)
    assert not [entry for entry in entries(desk) if "hunter2" in entry], "the field of the name may hold a password"


def test_a_wrong_password_does_not_touch_the_second_factor(desk: ConsoleDesk) -> None:
    for number in range(MOST_OF_BOTH):
        desk.source = f"192.0.2.{number}"
        assert desk.browser().sign_in("ann", f"wrong password {number}", "123456").status_code == 403
    assert {one.name: one.locked_until for one in desk.people.list_()}["ann"] is None
    assert inside(desk.signed_in("ann"))


def test_who_guesses_is_stopped_from_one_place_and_for_one_name(desk: ConsoleDesk) -> None:
    desk.source = "198.51.100.1"
    for _ in range(MOST_OF_BOTH):
        assert desk.browser().sign_in("ann", "wrong password 1", "123456").status_code == 403
    right = desk.code("ann")
    stopped = desk.browser().sign_in("ann", PASSWORD, right)
    assert stopped.status_code == 429
    assert "too many attempts" in stopped.text
    desk.source = "198.51.100.2"
    assert desk.browser().sign_in("ann", PASSWORD, right).status_code == 303, "from elsewhere she gets in"
    desk.source = "198.51.100.1"
    desk.later(seconds=WINDOW.total_seconds() + 1)
    assert inside(desk.signed_in("ann")), "and from there later"


def test_who_tries_many_names_is_stopped_too(desk: ConsoleDesk) -> None:
    with desk.database.transaction() as connection:
        # As if the others had been tried: each real attempt costs a quarter of a second.
        connection.execute(text("delete from dbshield.console_attempts"))
    desk.source = "2001:db8::1"
    assert desk.browser().sign_in("nobody-0", "wrong password 1", "123456").status_code == 403
    with desk.database.transaction() as connection:
        connection.execute(text("update dbshield.console_attempts set attempts = :most"), {"most": MOST_OF_SOURCE})
    desk.source = "2001:db8::ffff"
    assert desk.browser().sign_in("nobody-1", "wrong password 1", "123456").status_code == 429, "one network is one place"
    desk.source = "2001:db8:1::1"
    assert desk.browser().sign_in("nobody-1", "wrong password 1", "123456").status_code == 403


def test_regression_ipv4_is_not_one_place_where_ipv6_is_listened_on(desk: ConsoleDesk) -> None:
    """Forty attempts of a stranger shut out everybody who came by IPv4 to a console that listens on [::]."""
    with desk.database.transaction() as connection:
        connection.execute(text("delete from dbshield.console_attempts"))
    desk.source = "::ffff:198.51.100.1"
    assert desk.browser().sign_in("nobody-2", "wrong password 1", "123456").status_code == 403
    with desk.database.transaction() as connection:
        connection.execute(text("update dbshield.console_attempts set attempts = :most"), {"most": MOST_OF_SOURCE})
    desk.source = "198.51.100.1"
    assert desk.browser().sign_in("nobody-3", "wrong password 1", "123456").status_code == 429, "it is the same place"
    desk.source = "::ffff:198.51.100.2"
    assert inside(desk.signed_in("ann"))


def test_a_session_ends_by_idleness_and_by_its_end(desk: ConsoleDesk) -> None:
    browser = desk.signed_in("ann")
    for _ in range(3):
        desk.later(minutes=25)
        assert inside(browser), "each click puts the end off"
    desk.later(minutes=31)
    assert not inside(browser)
    assert browser.get("/").headers["location"] == "/sign-in"
    busy = desk.signed_in("ann")
    for _ in range(12 * 3):
        desk.later(minutes=20)
        busy.get("/rules")
    assert not inside(busy), "twelve hours are the most"


def test_a_page_that_follows_by_itself_is_no_click(desk: ConsoleDesk) -> None:
    browser = desk.signed_in("ann")
    desk.later(minutes=20)
    # An address without a stream, so that the answer ends.
    assert browser.get("/rules", accept="text/event-stream").status_code == 200
    desk.later(minutes=20)
    assert not inside(browser)
    assert browser.get("/stream", accept="text/event-stream").status_code == 204


def test_signing_out_ends_a_session_for_good(desk: ConsoleDesk) -> None:
    browser = desk.signed_in("ann")
    browser.get("/rules")
    kept = dict(browser.cookies)
    assert browser.post("/sign-out", {}).headers["location"] == "/sign-in"
    assert not inside(browser)
    browser.cookies.update(kept)
    assert not inside(browser), "what was the session's number is none any more"
    assert '"event":"console-signed-out"' in entries(desk)[-1]


@pytest.mark.parametrize("change", ["role", "password", "reset", "remove"])
def test_whoever_changes_a_person_signs_them_out(desk: ConsoleDesk, change: str) -> None:
    name = f"temp-{change}"
    desk.enrol(name, Role.VIEWER, vouch="ann")
    browser = desk.signed_in(name)
    assert inside(browser)
    desk.later()
    vouch = desk.phones["ann"].vouch(desk.now)
    match change:
        case "role":
            desk.people.set_role(name, Role.APPROVER, by="test", now=desk.now, vouch=vouch)
        case "password":
            desk.people.set_password(name, PASSWORD, desk.phones[name].code(desk.now), by="test", now=desk.now)
        case "reset":
            desk.people.reset(name, by="test", now=desk.now, vouch=vouch)
        case _:
            desk.people.remove(name, by="test", now=desk.now, vouch=vouch)
    assert not inside(browser)


def test_a_password_that_is_changed_while_it_is_tried_opens_nothing(desk: ConsoleDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying one takes a quarter of a second; whoever changes it in between must not leave a session behind."""
    tried, phone = passwords.matches, desk.phones["vera"]

    def changed_meanwhile(password: str, stored: str | None) -> bool:
        found = tried(password, stored)
        monkeypatch.undo()
        desk.people.set_password("vera", "another horse, other battery", phone.code(desk.now), by="test", now=desk.now)
        return found

    monkeypatch.setattr(passwords, "matches", changed_meanwhile)
    desk.later()
    browser = desk.browser()
    browser.get("/sign-in")
    # The phone's clock is ahead, so that the code is not one that was used meanwhile.
    ahead = phone.code(desk.now + timedelta(seconds=30))
    assert browser.sign_in("vera", PASSWORD, ahead).status_code == 403
    assert not inside(browser)
    desk.later(minutes=2)
    desk.people.set_password("vera", PASSWORD, desk.code("vera"), by="test", now=desk.now)


def test_what_is_kept_of_a_session_is_of_no_use(desk: ConsoleDesk) -> None:
    browser = desk.signed_in("ann")
    [token] = [value for name, value in browser.cookies.items() if name == "dbshield"]
    with desk.database.transaction() as connection:
        kept = str(connection.execute(text("select * from dbshield.console_sessions")).all())
        people = str(connection.execute(text("select * from dbshield.people")).all())
    assert token not in kept
    assert PASSWORD not in people


def test_cookies_are_for_this_site_and_for_no_script(desk: ConsoleDesk) -> None:
    browser = desk.browser()
    form = browser.get("/sign-in").headers["set-cookie"]
    session = browser.post("/sign-in", {"name": "ann", "password": PASSWORD, "code": desk.code("ann")}).headers["set-cookie"]
    for said in (form, session):
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= {part.strip() for part in said.split(";")}
    assert form.startswith("dbshield-form=")
    assert session.startswith("dbshield=")


def test_a_link_from_elsewhere_finds_the_session_again(desk: ConsoleDesk) -> None:
    stranger = desk.browser()
    again = stranger.get("/approvals", **{"sec-fetch-site": "cross-site"})
    assert again.status_code == 200
    assert 'http-equiv="refresh"' in again.text
    assert "set-cookie" not in again.headers, "the session's cookie is not replaced by one of a form"


def test_who_may_only_look_changes_nothing(desk: ConsoleDesk) -> None:
    vera = desk.signed_in("vera")
    assert vera.get("/").status_code == 200
    assert "/freeze" not in vera.get("/").text
    assert vera.get("/environments/staging/freeze").status_code == 403
    for path in ("/environments/staging/freeze", "/environments/staging/thaw", "/approvals/apr-aaaaaaaa/approve"):
        refused = vera.post(path, {"reason": "x", "code": desk.code("vera")})
        assert refused.status_code == 403, path
        assert "Vera" not in refused.text
        assert "the role" in refused.text


def test_there_is_no_page_where_there_is_none(desk: ConsoleDesk) -> None:
    ann = desk.signed_in("ann")
    for path in ("/nothing", "/rules/DS999", "/approvals/apr-aaaaaaaa", "/static/../app.py", "/static/nothing.css"):
        assert ann.get(path).status_code == 404, path
    assert "no such page" in desk.browser().get("/nothing").text
