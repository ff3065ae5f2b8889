"""People with an authenticator app, and decisions by them, for tests."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyotp

from dbshield.control.approval import Approval
from dbshield.control.deciding import Deciding
from dbshield.control.people import People, Vouch
from dbshield.control.person_roles import Role
from dbshield.control.second_factor import STEP_SECONDS
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from support.control import ENVIRONMENTS


class Phone:
    """The app of one person."""

    def __init__(self, person: str, secret: str) -> None:
        self.person = person
        self.totp = pyotp.TOTP(secret)

    def code(self, now: datetime, *, steps: int = 0) -> str:
        """The code of `now`, or of so many time steps later. Each works once."""
        return self.totp.generate_otp(int(now.timestamp()) // STEP_SECONDS + steps)

    def vouch(self, now: datetime, *, steps: int = 0) -> Vouch:
        return Vouch(person=self.person, code=self.code(now, steps=steps))


def vault_in(folder: Path) -> Vault:
    """The vault of a test's folder."""
    path = folder / "secret.key"
    return Vault.load(path) if path.exists() else Vault.create(path)


def enrol(people: People, name: str, now: datetime, vouch: Vouch | None = None, *, role: Role | None = None) -> Phone:
    """A person who is there, with the code of the step before `now` used up."""
    phone = Phone(name, people.add(name, by="test", now=now, vouch=vouch, role=role).secret)
    people.confirm(name, phone.code(now, steps=-1), now=now)
    return phone


def approve(database: Database, folder: Path, approval_id: str, now: datetime) -> Approval:
    """One person's yes, for tests that are about what follows: everybody else must not be enrolled."""
    people = People(database, vault_in(folder))
    name = "approver"
    there = [person.name for person in people.list_()]
    if name in there:
        raise AssertionError("approve() is for one approval; for more, enrol() once and use Deciding")
    phone = enrol(people, name, now)
    return Deciding(database, people, ENVIRONMENTS).approve(approval_id, person=name, code=phone.code(now), now=now)
