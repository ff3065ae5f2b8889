"""People at the console, with real browsers, while all other parts run as a team runs them.

Ann and Bob each have a browser of their own and stay signed in. Whatever a browser complains of fails the test that it did so in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Locator, expect
from psycopg import errors
from support import servers
from support.background import Background
from support.browser import SCREENSHOTS, Scheme, Visitor, Width, chromium, visiting
from support.company import Place
from support.office import PASSWORD, Office, add_drills
from support.roles import keep_to_itself
from support.waiting import until

from dbshield.control.audit_chain import GENESIS
from dbshield.control.deciding import REASON_MAX

pytestmark = [pytest.mark.needs("chromium")]

ENVIRONMENT, DATABASE, CONTROL, AGENT = "production", "console", "console_control", "claude"
LOOKS: tuple[tuple[Scheme, Width], ...] = (("light", "desk"), ("dark", "desk"), ("light", "phone"))
PAGES = (
    "/",
    "/approvals",
    "/agents",
    f"/agents/{ENVIRONMENT}/{AGENT}",
    "/audit",
    "/audit/1",
    "/backups",
    "/backups/drills",
    "/policy",
)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    """On a server of its own, because the guard's and the agents' roles belong to the whole cluster."""
    major = max(servers.majors())
    with servers.own_server(major, "console") as server:
        keep_to_itself(server)
        with server.connect() as admin:
            admin.execute(f"create database {CONTROL}")
        place = Place(server=server, database=DATABASE, settings={"approval_wait": 120.0, "denial_memory_minutes": 0})
        place.prepare()
        office = Office(servers.here() / f"{server.cluster.folder.name}-company", server.dsn(CONTROL), {ENVIRONMENT: place})
        office.set_up("ann", "bob")
        office.passwords()
        office.agent(AGENT, "migrate", ENVIRONMENT, "--owner", "bob")
        with office.at_work(), office.open():
            yield office


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def failed_drill(office: Office) -> int:
    return add_drills(office, ENVIRONMENT)


@contextmanager
def at_desk(office: Office, browser: Browser, name: str) -> Iterator[Visitor]:
    with visiting(browser, office.base, office.folder / "screenshots") as visitor:
        visitor.sign_in(name, PASSWORD, office.code(name))
        visitor.heading("Now")
        yield visitor


@pytest.fixture(scope="module")
def anns(office: Office, browser: Browser) -> Iterator[Visitor]:
    with at_desk(office, browser, "ann") as visitor:
        yield visitor


@pytest.fixture(scope="module")
def bobs(office: Office, browser: Browser) -> Iterator[Visitor]:
    with at_desk(office, browser, "bob") as visitor:
        yield visitor


@pytest.fixture
def ann(anns: Visitor) -> Iterator[Visitor]:
    yield anns
    assert anns.unexpected() == []


@pytest.fixture
def bob(bobs: Visitor) -> Iterator[Visitor]:
    yield bobs
    assert bobs.unexpected() == []


def ask(office: Office, statement: str, **connection: Any) -> Background[str | None]:
    """The agent sends it and waits; the command tag that it gets."""

    def wait() -> str | None:
        with office.connect(AGENT, **connection) as conn:
            return conn.execute(statement.encode()).statusmessage

    return Background(wait)


def decide(office: Office, visitor: Visitor, name: str, button: str, reason: str = "") -> None:
    """On the page of an approval."""
    visitor.page.get_by_label("Reason").fill(reason)
    visitor.page.get_by_label("Code").fill(office.code(name))
    visitor.page.get_by_role("button", name=button, exact=True).click()


def tables(office: Office) -> set[str]:
    place = office.places[ENVIRONMENT]
    with place.server.connect(place.database) as connection:
        found = connection.execute(
            "select table_name::text from information_schema.tables where table_schema = 'shop'"
        ).fetchall()
    return {str(name) for (name,) in found}


def test_signing_in_takes_a_password_and_a_code(office: Office, browser: Browser) -> None:
    with visiting(browser, office.base, office.folder) as visitor:
        visitor.expects("status of 403")
        visitor.open("/audit")
        visitor.heading("Sign in")
        for password, code in (("seven small ships at anchor", office.code("bob")), (PASSWORD, "000000")):
            visitor.page.get_by_label("Name").fill("bob")
            visitor.page.get_by_label("Password").fill(password)
            visitor.page.get_by_label("Code").fill(code)
            visitor.page.get_by_role("button", name="Sign in").click()
            expect(visitor.page.get_by_role("alert")).to_be_visible()
            visitor.heading("Sign in")
        visitor.page.get_by_label("Password").fill(PASSWORD)
        visitor.page.get_by_label("Code").fill(office.code("bob"))
        visitor.page.get_by_role("button", name="Sign in").click()
        visitor.heading("Audit")
        visitor.page.get_by_role("button", name="Sign out").click()
        visitor.heading("Sign in")
        visitor.open("/audit")
        visitor.heading("Sign in")


def test_a_held_drop_is_approved_and_the_agent_gets_its_answer(office: Office, ann: Visitor) -> None:
    ann.open("/approvals")
    expect(ann.main()).to_contain_text("Nothing waits for a human.")
    waits = ask(office, "drop table shop.settings")
    asked = office.asked(previewed=True)
    # It comes by itself to a page that is open.
    ann.page.get_by_role("link", name=asked["id"]).click()
    ann.heading(asked["id"])
    expect(ann.page.locator("pre.sql mark").first).to_contain_text(re.compile("drop", re.IGNORECASE))
    expect(ann.main()).to_contain_text("shop.settings")
    ann.screenshot("approval", whole=False)
    assert "settings" in tables(office), "nothing happens before a human has decided"
    decide(office, ann, "ann", "Approve", "it is not used any more")
    assert waits.result() == "DROP TABLE"
    assert "settings" not in tables(office)
    # And so does what became of it.
    expect(ann.main()).to_contain_text("It ran")
    expect(ann.main()).to_contain_text(f"dbshield undo {asked['id']}")


def test_a_denied_statement_is_refused_with_the_reason(office: Office, ann: Visitor) -> None:
    waits = ask(office, "truncate shop.customers cascade")
    asked = office.asked()
    ann.open(f"/approvals/{asked['id']}")
    decide(office, ann, "ann", "Deny", "these are our customers")
    error = waits.error()
    assert isinstance(error, errors.InsufficientPrivilege)
    assert "these are our customers" in str(error)
    expect(ann.main()).to_contain_text("Denied by")


def test_a_statement_is_denied_by_keyboard_alone(office: Office, ann: Visitor) -> None:
    """Tab leads to everything, shows where it is, and Enter in a field decides nothing."""
    keys = ann.page.keyboard

    def tab_to(wanted: Locator) -> None:
        for _ in range(40):
            keys.press("Tab")
            if wanted.evaluate("element => element === document.activeElement"):
                assert wanted.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
                return
        raise AssertionError(f"Tab does not lead to {wanted}")

    waits = ask(office, "truncate shop.customers cascade")
    asked = office.asked()
    ann.open("/approvals")
    tab_to(ann.page.get_by_role("link", name="Skip to the content"))
    keys.press("Enter")
    tab_to(ann.page.get_by_role("link", name=asked["id"]))
    keys.press("Enter")
    ann.heading(asked["id"])
    tab_to(ann.page.get_by_label("Reason"))
    keys.type("not by these hands")
    tab_to(ann.page.get_by_label("Code"))
    keys.type(office.code("ann"))
    keys.press("Enter")
    tab_to(ann.page.get_by_role("button", name="Approve", exact=True))
    keys.press("Tab")
    expect(ann.page.get_by_role("button", name="Deny", exact=True)).to_be_focused()
    assert not waits.done
    keys.press("Enter")
    assert "not by these hands" in str(waits.error())
    expect(ann.main()).to_contain_text("Denied by")
    assert "customers" in tables(office)


def test_two_people_approve_in_two_browsers(office: Office, ann: Visitor, bob: Visitor) -> None:
    with office.configured(approvals_needed=2):
        waits = ask(office, "drop table shop.order_items")
        asked = office.asked()
        for visitor in (ann, bob):
            visitor.open(f"/approvals/{asked['id']}")
        decide(office, ann, "ann", "Approve")
        expect(ann.main()).to_contain_text("You have decided")
        expect(bob.main()).to_contain_text("Approved by")
        assert not waits.done
        assert "order_items" in tables(office), "one of two is not enough"
        decide(office, bob, "bob", "Approve")
        assert waits.result() == "DROP TABLE"
        for visitor in (ann, bob):
            expect(visitor.main()).to_contain_text("It ran")


def test_a_freeze_and_a_thaw(office: Office, ann: Visitor) -> None:
    change = "update shop.customers set name = name where id = 1"
    with office.connect(AGENT) as session:
        assert session.execute(change).statusmessage == "UPDATE 1"
        ann.open("/agents")
        ann.page.get_by_role("link", name=AGENT).click()
        ann.page.get_by_label("Reason").fill("we are counting the stock")
        ann.page.get_by_label("For how long").select_option("1h")
        ann.page.get_by_label("Code").fill("000000")
        ann.expects("status of 409")
        ann.page.get_by_role("button", name="Freeze").click()
        expect(ann.page.get_by_role("alert")).to_contain_text("the code is not the one of ann")
        assert session.execute(change).statusmessage == "UPDATE 1"
        ann.page.get_by_label("Reason").fill("we are counting the stock")
        ann.page.get_by_label("For how long").select_option("1h")
        ann.page.get_by_label("Code").fill(office.code("ann"))
        ann.page.get_by_role("button", name="Freeze").click()
        expect(ann.page.get_by_role("status")).to_contain_text("It is frozen")
        assert until(lambda: "we are counting the stock" in refusal(session, change))
        ann.page.get_by_label("Code").fill(office.code("ann"))
        ann.page.get_by_role("button", name="Thaw").click()
        expect(ann.page.get_by_role("status")).to_contain_text("It is thawed")
        assert until(lambda: not refusal(session, change))


def refusal(session: psycopg.Connection[Any], statement: str) -> str:
    try:
        session.execute(statement.encode())
    except errors.InsufficientPrivilege as error:
        return str(error)
    return ""


def test_the_audit_is_searched_verified_and_taken_away(office: Office, ann: Visitor) -> None:
    with office.connect(AGENT) as session:
        assert refusal(session, "grant all on shop.customers to evil_twin")
    with psycopg.connect(office.control, autocommit=True) as control:
        kept = "select from dbshield.audit where entry like '%evil_twin%'"
        assert until(lambda: control.execute(kept).fetchone() is not None)
    ann.open("/audit")
    ann.page.get_by_label("Agent").fill(AGENT)
    ann.page.get_by_label("Verdict").select_option("deny")
    ann.page.get_by_label("Text").fill("EVIL_TWIN")
    ann.page.get_by_role("button", name="Search").click()
    rows = ann.page.locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("grant all on shop.customers to evil_twin")
    rows.first.get_by_role("link").click()
    expect(ann.main()).to_contain_text("The very letters that were hashed")
    ann.page.go_back()
    with ann.page.expect_download() as downloading:
        ann.page.get_by_role("link", name="Export JSON lines").click()
    [line] = downloading.value.path().read_text().splitlines()
    assert "evil_twin" in json.loads(line)["entry"]["statement"]
    ann.page.get_by_role("button", name="Verify now").click()
    expect(ann.main()).to_contain_text(re.compile(r"Whole up to entry \d+"))
    assert json.loads(office.run("audit", "search", "--kind", "audit-verified", "--json").stdout)["entry"]["person"] == "ann"


def test_a_failed_drill_is_looked_at(failed_drill: int, ann: Visitor) -> None:
    ann.open("/backups")
    picture = ann.page.get_by_role("img", name="RTO, RPO and verdict of each drill")
    expect(picture).to_be_visible()
    expect(picture).to_have_accessible_description(re.compile("1 passed, 1 failed"))
    ann.page.get_by_role("link", name=str(failed_drill), exact=True).click()
    ann.heading(f"Drill {failed_drill}")
    expect(ann.main()).to_contain_text("shop.orders: 5990 rows, expected 6000 rows")
    expect(ann.page.get_by_role("row", name=re.compile("^rows"))).to_contain_text("failed")
    expect(ann.main()).to_contain_text("it holds")


def test_markup_in_a_statement_is_text(office: Office, ann: Visitor) -> None:
    statement = f'drop table "{HOSTILE.replace(chr(34), chr(39))[:60]}" /* {HOSTILE} \u202e */'
    waits = ask(office, statement, application_name=HOSTILE[:60])
    asked = office.asked()
    ann.open(f"/approvals/{asked['id']}")
    assert ann.page.locator("[hidden]:visible").count() == 0, "the button that Enter presses was an empty box"
    for path in (f"/approvals/{asked['id']}", "/approvals", "/audit?text=owned", "/"):
        ann.open(path)
        expect(ann.main()).to_contain_text("document.title=")
        assert ann.page.locator("main script, main img").count() == 0
        assert "owned" not in ann.page.title()
    ann.open(f"/approvals/{asked['id']}")
    expect(ann.page.locator("pre.sql").first).to_contain_text("<script>document.title=")
    assert "\u202e" not in (ann.main().text_content() or ""), "what turns the direction of writing is spelled out"
    decide(office, ann, "ann", "Deny", HOSTILE)
    assert isinstance(waits.error(), errors.InsufficientPrivilege)
    expect(ann.main()).to_contain_text("Denied by")
    expect(ann.main()).to_contain_text(HOSTILE)
    assert ann.page.locator("main script, main img").count() == 0


SEEN = """state => {
    Object.defineProperty(document, "visibilityState", {get: () => state, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
"""What the browser does when another tab is shown; without a window it takes all of them for seen."""


def test_regression_a_seventh_tab_opens(office: Office, browser: Browser) -> None:
    """A browser gives a site six connections, and each open page kept one for its stream: everything after them hung."""
    with at_desk(office, browser, "bob") as visitor:
        tabs = [visitor.page]
        for _ in range(7):
            tabs[-1].evaluate(SEEN, "hidden")
            tabs.append(visitor.context.new_page())
            tabs[-1].goto(f"{office.base}/approvals")
        for hidden in tabs[1:]:
            hidden.evaluate(SEEN, "hidden")
        waits = ask(office, "drop table shop.orders")
        number = office.asked()["id"]
        tabs[3].evaluate(SEEN, "visible")
        expect(tabs[3].locator(f"#to-{number}")).to_be_visible()
        expect(tabs[3].get_by_role("status").filter(has_text="1 statement waits for a human.")).to_have_count(1)
        assert tabs[4].locator(f"#to-{number}").count() == 0, "nobody looks at it"
        office.decide("approvals", "deny", number, "--reason", "not today")
        assert isinstance(waits.error(), errors.InsufficientPrivilege)


def test_a_page_that_follows_no_more_says_so(office: Office, browser: Browser) -> None:
    with at_desk(office, browser, "bob") as visitor:
        visitor.expects("ERR_INTERNET_DISCONNECTED", "object Event")
        lost = visitor.page.get_by_text("This page does not follow what happens any more")
        visitor.open("/approvals")
        expect(lost).to_have_count(0)
        visitor.context.set_offline(True)
        # What is open goes on where nothing is asked anew; a page that is looked at again is.
        visitor.page.evaluate(SEEN, "hidden")
        visitor.page.evaluate(SEEN, "visible")
        expect(lost).to_be_visible()
        visitor.context.set_offline(False)
        expect(lost).to_have_count(0)


def test_a_session_that_is_over_leads_to_the_sign_in(office: Office, browser: Browser) -> None:
    with at_desk(office, browser, "ann") as visitor:
        visitor.expects("status of 40")
        visitor.open(f"/agents/{ENVIRONMENT}/{AGENT}")
        with psycopg.connect(office.control) as control:
            # This browser's alone: Ann's other one stays signed in.
            control.execute("""
                update dbshield.console_sessions
                set created_at = now() - interval '1 day', expires_at = now() - interval '1 second'
                where id = (select id from dbshield.console_sessions where person = 'ann' order by created_at desc limit 1)
            """)
        visitor.page.get_by_label("Reason").fill("too late")
        visitor.page.get_by_label("Code").fill("123456")
        visitor.page.get_by_role("button", name="Freeze").click()
        visitor.heading("Sign in")
        visitor.open("/audit")
        visitor.heading("Sign in")
    assert office.cli("agent", "list")[0]["freezes"] == []


def test_a_form_of_another_site_changes_nothing(office: Office, ann: Visitor) -> None:
    path = f"{office.base}/agents/{ENVIRONMENT}/{AGENT}/freeze"
    form = {"reason": "forged", "lasting": "", "code": office.code("ann")}
    ann.open("/")
    token = ann.page.locator("input[name=csrf]").first.get_attribute("value") or ""
    assert len(token) == len(GENESIS.hex())
    for given, origin in (("", office.base), ("0" * len(token), office.base), (token, "https://evil.example"), (token, "")):
        headers = {"Origin": origin} if origin else {}
        answer = ann.context.request.post(path, form={**form, "csrf": given}, headers=headers)
        assert answer.status == 403, (given, origin, answer.text())
    assert office.cli("agent", "list")[0]["freezes"] == []


def test_nothing_is_in_anybodys_way(office: Office, failed_drill: int, ann: Visitor) -> None:
    """axe finds no serious barrier on any page, in either colour scheme, and no page is wider than a phone."""
    waits = ask(office, "truncate shop.customers cascade")
    approval = office.asked()["id"]
    # One word, which may not push anything off a phone.
    office.decide("approvals", "deny", approval, "--reason", "n" * REASON_MAX)
    assert isinstance(waits.error(), errors.InsufficientPrivilege)
    found = []
    for path in (*PAGES, f"/approvals/{approval}", f"/backups/drills/{failed_drill}", "/doctor/findings"):
        ann.open(path)
        found += ann.barriers()
        ann.look("dark")
        found += ann.barriers(colours=True)
        ann.look("light", "phone")
        assert ann.overflow() == 0, path
        assert ann.page.locator("[hidden]:visible").count() == 0, f"{path}: what is hidden is seen"
        pictures(ann, path)
        ann.look()
    assert found == []


def pictures(visitor: Visitor, path: str) -> None:
    """For people to look at, where somebody names a folder for them."""
    if not os.environ.get(SCREENSHOTS):
        return
    name = path.strip("/").replace("/", "-") or "now"
    for scheme, width in LOOKS:
        visitor.look(scheme, width)
        visitor.screenshot(f"{name}-{scheme}-{width}")
