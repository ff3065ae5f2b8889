"""Agents, tokens, audit, backups and policy on the console: who may do what there, and what the pages say."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from starlette.types import Message
from support.consoles import Browser, ConsoleDesk
from support.control import ENVIRONMENTS, registered, tables_database
from support.servers import Server

from dbshield.console.pages import audit
from dbshield.console.pages.audit import EXPORTS_MOST, Round
from dbshield.control import audit_search
from dbshield.control.agents import Agents
from dbshield.control.audit_search import Chain, chain
from dbshield.control.audit_store import record
from dbshield.control.freezes import Freezes
from dbshield.control.person_roles import Role
from dbshield.model import AccessLevel
from dbshield.store.database import Database

AGENT = "/agents/staging/claude"


@pytest.fixture(scope="module")
def desk(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDesk]:
    folder = tmp_path_factory.mktemp("pages")
    with tables_database(server18) as dsn, registered(dsn) as database:
        desk = ConsoleDesk(database, dsn, folder)
        desk.enrol("ann", Role.ADMIN)
        desk.enrol("bob", Role.APPROVER, vouch="ann")
        desk.enrol("vera", Role.VIEWER, vouch="ann")
        registry(desk).create(name="claude", environment="staging", access=AccessLevel.WRITE, now=desk.now, by="ann", owner="bob")
        yield desk
        desk.close()


@pytest.fixture(scope="module")
def ann(desk: ConsoleDesk) -> Browser:
    return desk.signed_in("ann")


@pytest.fixture(scope="module")
def bob(desk: ConsoleDesk) -> Browser:
    return desk.signed_in("bob")


def registry(desk: ConsoleDesk) -> Agents:
    return Agents(desk.database, ENVIRONMENTS, lambda: desk.vault)


def kinds(desk: ConsoleDesk) -> list[str]:
    with desk.database.transaction() as connection:
        return list(connection.scalars(text("select kind from dbshield.audit order by id")))


def test_an_agent_is_shown_with_its_tokens(desk: ConsoleDesk, bob: Browser) -> None:
    [token] = [
        token for token in registry(desk).list_tokens(name="claude", environment="staging") if token.state(desk.now) != "revoked"
    ]
    listed = bob.get("/agents").text
    assert f'href="{AGENT}">claude</a>' in listed
    page = bob.get(AGENT).text
    assert token.id in page
    assert "live" in page
    assert "Answers for it</dt><dd>bob" in page
    assert f'action="{AGENT}/freeze"' not in page, "that is for admins"
    old = registry(desk).issue_token(name="claude", environment="staging", now=desk.now - timedelta(days=20), by="ann")
    page = bob.get(AGENT).text
    assert "stale" in page, "it still opens the door, and nobody uses it"
    registry(desk).revoke_token(token_id=old.token.id, now=desk.now)
    assert bob.get("/agents/staging/nobody").status_code == 404


def test_a_token_is_revoked_by_an_admin_with_a_code(desk: ConsoleDesk, ann: Browser, bob: Browser) -> None:
    issued = registry(desk).issue_token(name="claude", environment="staging", now=desk.now, by="ann")
    path = f"{AGENT}/revoke/{issued.token.id}"
    assert issued.token.id in ann.get(path).text
    assert bob.get(path).status_code == 403
    bob.get(AGENT)
    assert bob.post(path, {"code": desk.code("bob")}).status_code == 403
    answer = ann.post(path, {"code": "000000"})
    assert answer.status_code == 409
    assert "the code is not the one of ann" in answer.text
    code = desk.code("ann")
    answer = ann.post(path, {"code": code})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{AGENT}?done=revoked")
    states = {token.id: token.state(desk.now) for token in registry(desk).list_tokens(name="claude", environment="staging")}
    assert states[issued.token.id] == "revoked"
    assert list(states.values()).count("live") == 1
    assert ann.post(f"{AGENT}/revoke/aaaaaaaaaaaa", {"code": desk.code("ann")}).status_code == 409


def test_a_freeze_that_is_refused_uses_no_code(desk: ConsoleDesk, ann: Browser, bob: Browser) -> None:
    bob.get(AGENT)
    assert bob.post(f"{AGENT}/freeze", {"reason": "no", "lasting": "", "code": desk.code("bob")}).status_code == 403
    ann.get(AGENT)
    code = desk.code("ann")
    for fields in ({"reason": " ", "lasting": ""}, {"reason": "stocktaking", "lasting": "99y"}):
        assert ann.post(f"{AGENT}/freeze", {**fields, "code": code}).status_code == 400
    assert ann.post("/agents/staging/nobody/freeze", {"reason": "x", "lasting": "", "code": code}).status_code == 404
    assert ann.post(f"{AGENT}/thaw", {"code": code}).status_code == 409, "nobody froze it"
    freezes = Freezes(desk.database, ENVIRONMENTS)
    assert freezes.agents_in_force(desk.now) == {}
    assert ann.post(f"{AGENT}/freeze", {"reason": "stocktaking", "lasting": "8h", "code": code}).status_code == 303
    [freeze] = freezes.agents_in_force(desk.now)["claude.staging"]
    assert (freeze.frozen_by, freeze.reason, freeze.until) == ("ann", "stocktaking", desk.now + timedelta(hours=8))
    assert "stocktaking" in ann.get(AGENT).text
    assert ann.post(f"{AGENT}/thaw", {"code": code}).status_code == 409, "a code works once"
    assert ann.post(f"{AGENT}/thaw", {"code": desk.code("ann")}).status_code == 303
    assert freezes.agents_in_force(desk.now) == {}
    assert kinds(desk).count("agent-frozen") == kinds(desk).count("agent-thawed") == 1


def test_the_audit_is_filtered_and_exported_alike(desk: ConsoleDesk, bob: Browser) -> None:
    exported = kinds(desk).count("audit-exported")
    for number in range(3):
        record(desk.database, kind="pages-test", at=desk.now, agent="claude", environment="staging", said=f"found {number}")
    page = bob.get("/audit?kind=pages-test&text=FOUND+1&agent=claude&since=1h").text
    assert "found 1" in page
    assert "found 2" not in page
    lines = bob.get("/audit/export.jsonl?kind=pages-test").text.splitlines()
    assert [json.loads(line)["entry"]["said"] for line in lines] == ["found 0", "found 1", "found 2"]
    answer = bob.get("/audit/export.csv?kind=pages-test&text=found+2")
    assert answer.headers["content-disposition"].startswith("attachment")
    [row] = csv.DictReader(io.StringIO(answer.text))
    assert json.loads(row["entry"])["said"] == "found 2"
    assert kinds(desk).count("audit-exported") == exported + 2


def test_who_exports_and_does_not_read_stops_nobody_else(desk: ConsoleDesk, bob: Browser, ann: Browser) -> None:
    """Each export holds a connection to the control database, and there are a dozen."""
    cookie = "; ".join(f"{name}={value}" for name, value in bob.cookies.items())
    scope = {"type": "http", "method": "GET", "path": "/audit/export.jsonl", "query_string": b"", "client": ("192.0.2.7", 5)}
    headers = [(b"host", b"127.0.0.1:7433"), (b"cookie", cookie.encode())]

    async def several() -> list[int]:
        reads, answered = asyncio.Event(), asyncio.Event()
        statuses: list[int] = []

        async def one() -> None:
            async def receive() -> Message:
                await reads.wait()
                return {"type": "http.disconnect"}

            mine: list[int] = []

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    mine.append(message["status"])
                    statuses.append(message["status"])
                    if len(statuses) == 3:
                        answered.set()
                elif mine == [200]:
                    await reads.wait()

            given: dict[str, Any] = {**scope, "headers": headers}
            await desk.app(given, receive, send)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(one())
            await asyncio.wait_for(answered.wait(), 60)
            reads.set()
        return statuses

    assert sorted(asyncio.run(several())) == [200, 429, 429]
    assert bob.get("/audit/export.jsonl").status_code == 200, "the one that ended counts no longer"
    exporting: set[str] = desk.app.state.exporting
    exporting.update(f"person {number}" for number in range(EXPORTS_MOST))
    assert ann.get("/audit/export.jsonl").status_code == 429
    exporting.clear()


def test_regression_no_spreadsheet_runs_what_a_client_says(desk: ConsoleDesk, bob: Browser) -> None:
    name = '=HYPERLINK("https://evil.example")'
    record(desk.database, kind="formula-test", at=desk.now, agent="claude", environment="staging", database=name)
    [row] = csv.DictReader(io.StringIO(bob.get("/audit/export.csv?kind=formula-test").text))
    assert row["database"] == f"'{name}"
    assert json.loads(row["entry"])["database"] == name, "what was hashed stays as it is"
    assert name in json.loads(bob.get("/audit/export.jsonl?kind=formula-test").text)["entry"]["database"]


def test_regression_an_export_ends_with_its_session(desk: ConsoleDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was removed while they took it got all of it, however long that took."""
    monkeypatch.setattr(audit, "CHECK", 0.0)
    monkeypatch.setattr(audit, "LINES_AT_ONCE", 1)
    for number in range(5):
        record(desk.database, kind="export-test", at=desk.now, agent="claude", environment="staging", said=number)
    taker = desk.signed_in("vera")
    cookie = "; ".join(f"{name}={value}" for name, value in taker.cookies.items()).encode()
    scope = {"type": "http", "method": "GET", "path": "/audit/export.jsonl", "query_string": b"kind=export-test"}
    given: dict[str, Any] = {**scope, "client": ("192.0.2.7", 5), "headers": [(b"host", b"127.0.0.1:7433"), (b"cookie", cookie)]}
    bodies: list[Message] = []

    async def take() -> None:
        over = asyncio.Event()

        async def receive() -> Message:
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message)
                await asyncio.to_thread(sign_vera_out, desk)

        await asyncio.wait_for(desk.app(given, receive, send), 60)

    asyncio.run(take())
    assert len(bodies) == 1
    assert bodies[0]["more_body"], "cut, and not ended as if that were all"
    assert not desk.app.state.exporting


def sign_vera_out(desk: ConsoleDesk) -> None:
    with desk.database.transaction() as connection:
        connection.execute(text("delete from dbshield.console_sessions where person = 'vera'"))


@pytest.mark.parametrize(
    "query",
    [
        "rule=nothing",
        "since=yesterday",
        "until=9999999w",
        "before=-1",
        "before=x",
        "text=%07",
        f"text={'x' * 201}",
        "agent=a%0ab",
    ],
)
def test_a_filter_that_is_none_is_told(bob: Browser, query: str) -> None:
    answer = bob.get(f"/audit?{query}")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


def test_an_entry_is_shown_whole_and_one_that_is_not_there_is_told(desk: ConsoleDesk, bob: Browser) -> None:
    position = record(desk.database, kind="pages-markup", at=desk.now, agent="claude", said="<b>bold</b> \u202e backwards")
    page = bob.get(f"/audit/{position}").text
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "\u202e" not in page
    assert bob.get(f"/audit/{position + 1000}").status_code == 503
    checkpoint = bob.get("/audit/checkpoint.json").json()
    assert checkpoint["position"] >= position


@pytest.mark.parametrize("path", ["/audit", "/audit/chain"])
def test_regression_a_walk_that_ends_while_a_page_is_made_is_not_over_for_it(
    desk: ConsoleDesk, bob: Browser, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Or else it shows the chain as it was before, and asks no more."""
    walk = desk.app.state.audit_round = Round(since=desk.now, person="ann")

    def last(database: Database) -> Chain:
        found = chain(database)
        walk.since = None
        return found

    monkeypatch.setattr(audit_search, "chain", last)
    page = bob.get(path).text
    assert 'hx-get="/audit/chain"' in page
    assert "Verifying" in page
    assert 'hx-get="/audit/chain"' not in bob.get(path).text


@pytest.mark.parametrize(
    ("statement", "verdict", "rule"),
    [
        ("select 1", "allow", ""),
        ("delete from orders where id = 7", "limit", ""),
        ("delete from orders", "hold", "DS201"),
        ("drop table </pre><script>", "deny", "DS901"),
    ],
)
def test_a_statement_is_tried_as_policy_test_would(bob: Browser, statement: str, verdict: str, rule: str) -> None:
    bob.get("/policy")
    page = bob.post("/policy", {"statement": statement, "environment": "staging", "agent": "claude", "access": ""}).text
    said = page.partition('id="verdict"')[2].partition("</section>")[0]
    assert f"{verdict}</span>" in said.partition("</p>")[0]
    assert rule in said
    assert "<script>" not in page.replace("<script src=", "")


def test_a_policy_that_cannot_be_shown_is_told(desk: ConsoleDesk, bob: Browser) -> None:
    for query in ("environment=nowhere", "agent=claude", "environment=staging&access=root"):
        assert bob.get(f"/policy?{query}").status_code == 400, query
    assert "There is no agent nobody" in bob.get("/policy?environment=staging&agent=nobody").text
    assert "access level write" in bob.get("/policy?environment=staging&agent=claude").text
    freezes = Freezes(desk.database, ENVIRONMENTS)
    freezes.freeze("staging", reason="quiet please", by="ann", now=desk.now)
    assert "quiet please" in bob.get("/policy?environment=staging").text
    assert "quiet please" in bob.get(AGENT).text
    freezes.thaw("staging", by="ann", now=desk.now)


def test_backups_say_so_where_there_are_none(bob: Browser) -> None:
    page = bob.get("/backups").text
    assert "No snapshot was restored yet" in page
    assert "There is no snapshot." in page
    assert bob.get("/backups?environment=nowhere").status_code == 400
    assert bob.get("/backups/drills/999").status_code == 400
    assert bob.get("/backups/drills?before=x").status_code == 400
    assert bob.get("/backups/snapshots/20260501t120000z-abcdefgh").status_code == 400


def test_nobody_sees_a_page_without_signing_in(desk: ConsoleDesk) -> None:
    stranger = desk.browser()
    for page in desk.app.state.pages:
        for route in page.routes:
            if "GET" in (getattr(route, "methods", None) or ()):
                path = route.path.replace("{number:int}", "1").replace("{environment}", "staging").replace("{name}", "claude")
                answer = stranger.get(path.replace("{token}", "a" * 12).replace("{id}", "x"))
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/sign-in"), path
