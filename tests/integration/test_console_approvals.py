"""Deciding on the console: the same laws as on the command line, and a page that shows what would run and nothing else."""

from __future__ import annotations

import asyncio
import html
import re
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
from support.consoles import Browser, ConsoleDesk
from support.control import ENVIRONMENTS, agents_of, registered, tables_database
from support.servers import Server

from dbshield.config import Config
from dbshield.config.model import ProxyConfig
from dbshield.console.health import answers
from dbshield.control.agents_active import LATELY, active_agents
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.control.audit_store import record
from dbshield.control.freezes import Freezes
from dbshield.control.person_roles import Role
from dbshield.model import AccessLevel
from dbshield.policy.catalogue import RULES
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

JUDGE = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
OWNED = {
    "staging": ENVIRONMENTS["staging"].model_copy(update={"owners_may_approve": False}),
    "production": ENVIRONMENTS["production"],
}
HOSTILE = 'drop table "<script>alert(1)</script>" /* <img src=x onerror=alert(2)> \u202e */ cascade'


@pytest.fixture(scope="module")
def desk(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDesk]:
    """Ann, an admin; Bob, who decides; Vera, who looks."""
    with tables_database(server18) as dsn, registered(dsn) as database:
        made = ConsoleDesk(database, dsn, tmp_path_factory.mktemp("console"), environments=OWNED)
        made.enrol("ann", Role.ADMIN)
        made.enrol("bob", Role.APPROVER, vouch="ann")
        made.enrol("vera", Role.VIEWER, vouch="ann")
        agents, _ = agents_of(database, made.app.state.parts.config.state)
        agents.create(name="bobs", environment="staging", access=AccessLevel.WRITE, now=made.now, by="test", owner="bob")
        yield made
        made.close()


@pytest.fixture
def ann(desk: ConsoleDesk) -> Browser:
    return desk.signed_in("ann")


def ask(
    desk: ConsoleDesk, statement: str = "drop table shop.orders cascade", *, needed: int = 1, agent: str = "claude"
) -> Approval:
    """A new one each time: they differ in the database that they are for."""
    desk.later()
    judgement = JUDGE.judge(statement.encode())
    wanted = Ask(
        environment="staging",
        agent=agent,
        access=AccessLevel.MIGRATE,
        database=f"shop{int(desk.now.timestamp())}",
        session=7,
        application="psql",
        statement=statement,
        normal=judgement.normal,
        effects=judgement.effects,
        findings=judgement.findings,
    )
    return Approvals(desk.database).request(wanted, now=desk.now, ttl=timedelta(hours=8), needed=needed)


def state(desk: ConsoleDesk, one: Approval) -> State:
    return Approvals(desk.database).get(one.id).state


def decide(desk: ConsoleDesk, browser: Browser, one: Approval, word: str, person: str, **fields: str) -> str:
    """What the page says after the form on it was sent."""
    page = browser.get(f"/approvals/{one.id}").text
    shown = re.search(r'name="shown" value="([0-9a-f]*)"', page)
    given = {"reason": "agreed", "code": desk.code(person), "shown": shown[1] if shown else "", **fields}
    answer = browser.post(f"/approvals/{one.id}/{word}", given)
    return browser.get(answer.headers["location"]).text if answer.status_code == 303 else answer.text


def test_one_is_listed_shown_and_approved(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    listed = ann.get("/approvals").text
    assert one.id in listed
    assert "drop table shop.orders cascade" in listed
    page = ann.get(f"/approvals/{one.id}").text
    for word in ("drop", "orders", "cascade"):
        assert f"<mark>{word}</mark>" in page
    assert 'href="/rules/DS101"' in page
    said = decide(desk, ann, one, "approve", "ann")
    assert "Approved by" in said
    assert "<b>ann</b>" in said
    assert state(desk, one) is State.APPROVED
    assert "Decide</h2>" not in said


def test_one_is_denied_with_a_reason_that_the_agent_reads(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    assert "a denial needs a reason" in decide(desk, ann, one, "deny", "ann", reason=" ").lower()
    assert state(desk, one) is State.WAITING
    assert "Denied by" in decide(desk, ann, one, "deny", "ann", reason="orders of 2024 are still needed")
    found = Approvals(desk.database).get(one.id)
    assert (found.state, found.decisions[0].reason) == (State.DENIED, "orders of 2024 are still needed")


def test_a_wrong_code_and_a_used_one_decide_nothing(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    used = desk.code("ann")
    fresh = desk.browser()
    assert fresh.sign_in("ann", "correct horse battery staple", used).status_code == 303
    said = decide(desk, ann, one, "approve", "ann", code=used, reason="kept in the form")
    assert "Not possible" not in said
    assert 'role="alert"' in said
    assert 'value="kept in the form"' in said, "what was typed is not lost"
    assert 'role="alert"' in decide(desk, ann, one, "approve", "ann", code="")
    assert state(desk, one) is State.WAITING


def test_two_people_have_to_approve_where_two_are_needed(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk, needed=2)
    first = decide(desk, ann, one, "approve", "ann")
    assert "Another person has to approve" in first
    assert state(desk, one) is State.WAITING
    assert "has decided on" in decide(desk, ann, one, "approve", "ann")
    decide(desk, desk.signed_in("bob"), one, "approve", "bob")
    assert state(desk, one) is State.APPROVED
    assert Approvals(desk.database).get(one.id).approved_by == ("ann", "bob")


def test_nobody_approves_for_an_agent_of_their_own(desk: ConsoleDesk) -> None:
    one = ask(desk, agent="bobs")
    bob = desk.signed_in("bob")
    assert "nobody approves for an agent of their own" in decide(desk, bob, one, "approve", "bob")
    assert state(desk, one) is State.WAITING


def test_what_was_shown_is_what_is_approved(desk: ConsoleDesk, ann: Browser) -> None:
    one, other = ask(desk), ask(desk, "truncate shop.orders")
    for shown in (other.digest.hex(), "", "none"):
        assert "not the one that was shown" in decide(desk, ann, one, "approve", "ann", shown=shown)
    assert state(desk, one) is State.WAITING


def test_who_looks_decides_nothing(desk: ConsoleDesk) -> None:
    one = ask(desk)
    vera = desk.signed_in("vera")
    page = vera.get(f"/approvals/{one.id}").text
    assert "takes the role approver" in page
    assert 'name="shown"' not in page
    for word in ("approve", "deny"):
        assert "This is for people with the role approver" in decide(desk, vera, one, word, "vera")
    assert state(desk, one) is State.WAITING


def test_an_approval_of_who_since_may_only_look_does_not_count(desk: ConsoleDesk, ann: Browser) -> None:
    desk.enrol("dora", Role.APPROVER, vouch="ann")
    one = ask(desk)
    decide(desk, desk.signed_in("dora"), one, "approve", "dora")
    assert state(desk, one) is State.APPROVED
    desk.later()
    desk.people.set_role("dora", Role.VIEWER, by="test", now=desk.now, vouch=desk.phones["ann"].vouch(desk.now))
    assert Approvals(desk.database).get(one.id).approved_by == ()
    claimed = Approvals(desk.database).claim("executor", environments=["staging"], now=desk.now)
    assert claimed is None or claimed.id != one.id
    assert "counts no longer" in ann.get(f"/approvals/{one.id}").text


def test_without_undo_is_said_by_each_or_it_is_not_said(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    decide(desk, ann, one, "approve", "ann", without_undo="yes")
    assert Approvals(desk.database).get(one.id).without_undo
    other = ask(desk, needed=2)
    decide(desk, ann, other, "approve", "ann", without_undo="yes")
    decide(desk, desk.signed_in("bob"), other, "approve", "bob")
    assert not Approvals(desk.database).get(other.id).without_undo


def test_no_other_site_approves(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    ann.get(f"/approvals/{one.id}")
    fields = {"reason": "x", "code": desk.code("ann"), "shown": one.digest.hex()}
    path = f"/approvals/{one.id}/approve"
    assert ann.post(path, fields, origin="https://evil.example").status_code == 403
    assert ann.post(path, fields, origin=None).status_code == 403
    assert ann.post(path, {**fields, "csrf": ""}).status_code == 403
    assert ann.get(f"{path}?csrf={ann.token}").status_code in {404, 405}
    assert state(desk, one) is State.WAITING
    assert ann.post(path, fields).status_code == 303


def test_an_expired_one_has_no_form(desk: ConsoleDesk) -> None:
    one = ask(desk)
    desk.later(hours=9)
    ann = desk.signed_in("ann")
    page = ann.get(f"/approvals/{one.id}").text
    assert "This approval is expired" in page
    assert "cannot be decided: it is expired" in decide(desk, ann, one, "approve", "ann", shown=one.digest.hex())
    assert one.id in ann.get("/approvals").text.split("Over</h2>")[1]


def test_a_statement_is_text_whatever_is_in_it(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk, HOSTILE, agent="claude")
    for path in ("/approvals", f"/approvals/{one.id}", "/"):
        page = ann.get(path).text
        assert "<script>alert" not in page, path
        assert "<img" not in page, path
        assert "\u202e" not in page, path
    shown = ann.get(f"/approvals/{one.id}").text
    exact = html.unescape(re.sub(r"</?mark>", "", shown.split("Exactly as it would run")[1].split("</pre>")[0]))
    assert HOSTILE.replace("\u202e", "\\u202e") in exact


def test_regression_what_passes_for_another_name_is_spelled_out(desk: ConsoleDesk, ann: Browser) -> None:
    asked = ask(desk, 'drop table shop."\u043erders"')
    for path in (f"/approvals/{asked.id}", "/approvals", "/"):
        page = html.unescape(ann.get(path).text)
        assert '"\\u043erders"' in page, path
        assert "\u043e" not in page, path
    assert "are spelled out" in ann.get(f"/approvals/{asked.id}").text
    other = ask(desk)
    assert "are spelled out" not in ann.get(f"/approvals/{other.id}").text
    withdraw(desk, asked, other)


def withdraw(desk: ConsoleDesk, *asked: Approval) -> None:
    """The first page has the oldest alone."""
    for one in asked:
        Approvals(desk.database).withdraw(one.id, desk.now)


def test_regression_what_is_cut_or_long_is_said_so(desk: ConsoleDesk, ann: Browser) -> None:
    """A list cut a statement in the middle, by its style alone, and the page of a long one promised marks that it had not."""
    asked = ask(desk, "delete from shop.orders where id in (" + ", ".join(map(str, range(40_000))) + ")" + "\n" * 40)
    page = ann.get(f"/approvals/{asked.id}").text
    assert f"{len(asked.statement):,} characters on 41 lines" in page
    assert "39998, 39999)" in page, "all of it is there"
    assert "<mark>" not in page
    assert "could not be marked" in page
    assert re.search(r"… and [\d,]+ more characters", ann.get("/approvals").text)
    other = ask(desk)
    short = ann.get(f"/approvals/{other.id}").text
    assert "<mark>drop</mark>" in short
    assert "It is long" not in short
    assert "could not be marked" not in short
    withdraw(desk, asked, other)


def test_an_admin_freezes_and_thaws_with_a_code(desk: ConsoleDesk, ann: Browser) -> None:
    freezes = Freezes(desk.database, OWNED)
    path = "/environments/staging/freeze"
    ann.get(path)
    refused = ann.post(path, {"reason": "incident 17", "lasting": "", "code": "123456"})
    assert refused.status_code == 409
    assert 'value="incident 17"' in refused.text
    assert not freezes.in_force(desk.now)
    assert ann.post(path, {"reason": "x", "lasting": "99999", "code": desk.code("ann")}).status_code == 409
    assert ann.post(path, {"reason": " ", "lasting": "1", "code": desk.code("ann")}).status_code == 409
    assert not freezes.in_force(desk.now)
    assert ann.post(path, {"reason": "incident 17", "lasting": "1", "code": desk.code("ann")}).status_code == 303
    [frozen] = freezes.in_force(desk.now)["staging"]
    assert (frozen.reason, frozen.frozen_by) == ("incident 17", "ann")
    assert frozen.until is not None
    assert frozen.until - frozen.frozen_at == timedelta(hours=1)
    bob = desk.signed_in("bob")
    assert bob.get("/environments/staging/freeze").status_code == 403
    bob.get("/")
    assert bob.post("/environments/staging/thaw", {"code": desk.code("bob")}).status_code == 403
    ann.get(path)
    assert ann.post("/environments/staging/thaw", {"code": desk.code("ann")}).status_code == 303
    assert not freezes.in_force(desk.now)
    assert ann.post("/environments/staging/thaw", {"code": desk.code("ann")}).status_code == 409, "nobody froze it"
    assert ann.post("/environments/nowhere/freeze", {"reason": "x", "code": desk.code("ann")}).status_code == 400


def test_what_happens_is_on_the_first_page(desk: ConsoleDesk, ann: Browser) -> None:
    one = ask(desk)
    page = ann.get("/").text
    assert one.id in page
    assert "approval-requested" in page
    assert "staging" in page
    paused = ann.get("/?feed=paused").text
    assert 'sse-connect="/stream?feed=paused"' in paused


def test_every_rule_has_a_page_for_everybody(desk: ConsoleDesk) -> None:
    stranger = desk.browser()
    listed = stranger.get("/rules").text
    for rule in RULES:
        assert f'href="/rules/{rule.id}"' in listed
        page = stranger.get(f"/rules/{rule.id}")
        assert page.status_code == 200
        assert html.escape(rule.name) in page.text
    assert stranger.get(f"/rules/{RULES[0].id.lower()}").status_code == 200


def test_pages_of_many_go_back_in_time(desk: ConsoleDesk, ann: Browser) -> None:
    several = [ask(desk, agent="many") for _ in range(35)]
    for one in several:
        Approvals(desk.database).withdraw(one.id, desk.now)
    first = ann.get("/approvals").text
    older = re.search(r'href="(/approvals\?before=[^"]+)"', first)
    assert older is not None
    second = ann.get(html.unescape(older[1])).text
    found = [one.id for one in several if one.id in first], [one.id for one in several if one.id in second]
    assert len(found[0]) == 30
    assert not set(found[0]) & set(found[1])
    assert set(found[0]) | set(found[1]) == {one.id for one in several}
    assert ann.get("/approvals?before=nonsense").status_code == 200


def test_agents_are_active_by_what_the_audit_has_of_them(desk: ConsoleDesk, ann: Browser) -> None:
    desk.later(seconds=LATELY.total_seconds())  # since the agent was made, and since others asked for it
    record(desk.database, kind="statement", at=desk.now - LATELY * 2, agent="bobs", environment="staging", verdict="allow")
    assert active_agents(desk.database, now=desk.now).agents == ()
    record(desk.database, kind="connected", at=desk.now - LATELY / 2, agent="bobs", environment="staging")
    record(desk.database, kind="connected", at=desk.now, agent="gone", environment="staging")
    found = active_agents(desk.database, now=desk.now)
    assert ([(one.name, one.kind) for one in found.agents], found.living) == ([("bobs", "connected")], 1)


def test_the_proxy_is_well_where_it_takes_connections() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = Config(proxy=ProxyConfig(listen=(f"127.0.0.1:{listening.getsockname()[1]}",)))
        assert not asyncio.run(answers(config)), "bound, and nobody listens"
        listening.listen()
        assert asyncio.run(answers(config))
