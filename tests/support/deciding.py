"""A control database with two people who decide, and what an agent asks them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from dbshield.config import EnvironmentConfig
from dbshield.control.agents import Agents
from dbshield.control.approval import Approval
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask, Parameter
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.model import AccessLevel, Effect, ObjectKind, ObjectName, Operation
from dbshield.store.database import Database
from support.control import NOW, registered, tables_database
from support.people import Phone, enrol, vault_in
from support.servers import Server

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


@contextmanager
def office_in(server: Server, folder: Path) -> Iterator[Office]:
    """With ann and bob, who are both admins."""
    with tables_database(server) as dsn, registered(dsn) as database:
        vault = vault_in(folder)
        people = People(database, vault)
        past = NOW - 10 * STEP
        ann = enrol(people, "ann", past)
        bob = enrol(people, "bob", past, ann.vouch(past), role=Role.ADMIN)
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
