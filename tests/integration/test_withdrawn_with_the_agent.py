"""What an agent asked for is taken back in the transaction that removes it or revokes a token of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from support.control import NOW, agents_of, registered, tables_database
from support.servers import Server

from dbshield.control.agents import Agents
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.model import AccessLevel
from dbshield.store.database import Database

LATE = NOW + timedelta(minutes=30)


class Desk:
    def __init__(self, database: Database, agents: Agents) -> None:
        self.database = database
        self.agents = agents
        self.approvals = Approvals(database)
        with database.transaction() as connection:
            connection.execute(
                text("insert into dbshield.people (name, sealed_totp, created_by, enrolled_at) values ('ann', 'x', 'test', :at)"),
                {"at": NOW - timedelta(days=1)},
            )

    def create(self, name: str) -> tuple[UUID, str]:
        """An agent's id, and that of its token."""
        made = self.agents.create(name=name, environment="staging", access=AccessLevel.WRITE, now=NOW, by="ann")
        found = self.agents.find(name=name, environment="staging", now=NOW)
        return found.id, made.token.id

    def ask(self, agent: str, agent_id: UUID | None, table: str, *, approved: bool = False, minutes: int = 60) -> Approval:
        ask = Ask(
            environment="staging",
            agent=agent,
            agent_id=agent_id,
            access=AccessLevel.WRITE,
            database="shop",
            statement=f"drop table {table}",
        )
        one = self.approvals.request(ask, now=NOW, ttl=timedelta(minutes=minutes), needed=1)
        if approved:
            with self.database.transaction() as connection:
                decided = "insert into dbshield.decisions (approval, person, decision, at) values (:id, 'ann', 'approve', :at)"
                connection.execute(text(decided), {"id": one.id, "at": NOW})
                approve = "update dbshield.approvals set state = 'approved', decided_at = :at where id = :id"
                connection.execute(text(approve), {"id": one.id, "at": NOW})
        return one

    def state(self, one: Approval) -> State:
        return self.approvals.get(one.id).state

    def entries(self) -> list[tuple[str, str | None]]:
        with self.database.transaction() as connection:
            found = connection.execute(text("select kind, entry from dbshield.audit order by id")).all()
        wanted = ("approval-withdrawn", "agent-removed", "token-revoked")
        return [(row.kind, json.loads(row.entry).get("approval")) for row in found if row.kind in wanted]


@pytest.fixture
def desk(server18: Server, tmp_path: Path) -> Iterator[Desk]:
    with tables_database(server18) as dsn, registered(dsn) as database:
        agents, _ = agents_of(database, tmp_path)
        yield Desk(database, agents)


@pytest.mark.parametrize("how", ["removed", "revoked"])
def test_all_that_is_open_goes_and_nothing_else(desk: Desk, how: str) -> None:
    agent, token = desk.create("claude")
    other, _ = desk.create("another")
    running = desk.ask("claude", agent, "a", approved=True)
    assert desk.approvals.claim("executor", environments=["staging"], now=NOW) is not None
    waiting = desk.ask("claude", agent, "b")
    approved = desk.ask("claude", agent, "c", approved=True)
    unnamed = desk.ask("claude", None, "d")
    expired = desk.ask("claude", agent, "e", minutes=10)
    anothers = desk.ask("another", other, "f")

    if how == "removed":
        assert desk.agents.remove(name="claude", environment="staging", now=LATE) == 1
    else:
        assert desk.agents.revoke_token(token_id=token, now=LATE)
        assert not desk.agents.revoke_token(token_id=token, now=LATE)

    gone = [waiting, approved, unnamed]
    assert [desk.state(one) for one in gone] == [State.WITHDRAWN] * 3
    assert all(f"was {how}" in (desk.approvals.get(one.id).error or {})["message"] for one in gone)
    assert desk.state(running) is State.RUNNING
    assert desk.approvals.get(expired.id).state_at(LATE) is State.EXPIRED
    assert desk.state(anothers) is State.WAITING
    assert desk.approvals.claim("executor", environments=["staging"], now=LATE) is None
    first, *rest = desk.entries()
    assert first == ("agent-removed" if how == "removed" else "token-revoked", None)
    assert rest == [("approval-withdrawn", one.id) for one in sorted(gone, key=lambda one: one.id)]


def test_what_was_asked_at_the_same_moment_is_not_run(desk: Desk) -> None:
    agent, _ = desk.create("claude")
    desk.agents.remove(name="claude", environment="staging", now=NOW)
    late = desk.ask("claude", agent, "a", approved=True)
    assert desk.approvals.claim("executor", environments=["staging"], now=NOW) is None
    assert desk.state(late) is State.WITHDRAWN


def test_a_rotation_takes_nothing_back(desk: Desk) -> None:
    agent, token = desk.create("claude")
    waiting = desk.ask("claude", agent, "a")
    desk.agents.rotate_token(token_id=token, now=NOW, by="ann")
    assert desk.state(waiting) is State.WAITING
