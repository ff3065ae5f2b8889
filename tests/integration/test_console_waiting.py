"""Many statements that wait: a page has the oldest, and so has what is sent to browsers that follow it; those that are not shown
are counted, and not read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from support.consoles import ConsoleDesk
from support.control import ENVIRONMENTS, registered, tables_database
from support.servers import Server

from dbshield.console.pages.approvals import WAITING_SHOWN
from dbshield.console.pages.now import HELD_SHOWN
from dbshield.control import approvals as approvals_of_the_store
from dbshield.control.approval import Approval, Decision, read_approval
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.control.person_roles import Role
from dbshield.model import AccessLevel


@pytest.fixture
def desk(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDesk]:
    with tables_database(server18) as dsn, registered(dsn) as database:
        made = ConsoleDesk(database, dsn, tmp_path_factory.mktemp("console"), environments=ENVIRONMENTS)
        made.enrol("ann", Role.ADMIN)
        yield made
        made.close()


def shown(page: str) -> list[str]:
    return re.findall(r'<h3><a id="to-(apr-\w+)"', page)


def asked(desk: ConsoleDesk, number: int) -> str:
    wanted = Ask(
        environment="staging",
        agent=f"agent{number % 3}",
        access=AccessLevel.MIGRATE,
        database="shop",
        statement=f"drop table t{number}",
        normal=f"drop table t{number}",
    )
    requested_at = desk.now + timedelta(seconds=number)
    return Approvals(desk.database).request(wanted, now=requested_at, ttl=timedelta(hours=8), needed=1).id


def test_a_page_has_the_oldest_and_the_next_one_the_others(desk: ConsoleDesk) -> None:
    approvals = Approvals(desk.database)
    ids = [asked(desk, number) for number in range(WAITING_SHOWN + 3)]
    ann = desk.signed_in("ann")
    first = ann.get("/approvals").text
    assert shown(first) == ids[:WAITING_SHOWN]
    assert f"1 to {WAITING_SHOWN} of {len(ids)}" in first
    assert 'href="/approvals?page=2" rel="next"' in first
    assert 'sse-connect="/approvals/stream"' in first

    second = ann.get("/approvals?page=2").text
    assert shown(second) == ids[WAITING_SHOWN:]
    assert 'href="/approvals" rel="prev"' in second
    assert 'rel="next"' not in second
    assert 'sse-connect="/approvals/stream?page=2"' in second
    for other in ("99", "0", "-1", "x", "²"):
        assert shown(ann.get(f"/approvals?page={other}").text) == (ids[WAITING_SHOWN:] if other == "99" else ids[:WAITING_SHOWN])

    for decided in ids[WAITING_SHOWN:]:
        approvals.withdraw(decided, desk.now)
    assert shown(ann.get("/approvals?page=2").text) == ids[:WAITING_SHOWN], "the last page that is not empty"


def test_regression_what_is_not_shown_is_not_read(desk: ConsoleDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand held statements were read whole for each look of each browser, once a second."""
    for number in range(WAITING_SHOWN + 10):
        asked(desk, number)
    ann = desk.signed_in("ann")
    read: list[str] = []

    def reading(row: Mapping[str, Any], said: list[Decision]) -> Approval:
        read.append(row["id"])
        return read_approval(row, said)

    monkeypatch.setattr(approvals_of_the_store, "read_approval", reading)
    for path, most, shows in (
        ("/", HELD_SHOWN, f'<span class="figure">{WAITING_SHOWN + 10}</span>'),
        ("/approvals", WAITING_SHOWN, f'<span class="count">{WAITING_SHOWN + 10}</span>'),
    ):
        read.clear()
        page = ann.get(path)
        assert page.status_code == 200
        assert shows in page.text
        assert len(read) <= most, path
