"""Changes that somebody confirms with their second factor: the code and the change are one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from dbshield.console.frame import Parts, Person
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.store.database import Within

T = TypeVar("T")


def confirmed_by(parts: Parts, person: Person, code: str, *, now: datetime, role: Role = Role.ADMIN) -> Within:
    """Runs a change where the person's code holds, and they have the role at that moment. The change raises Refused else."""
    people = People(parts.database, parts.vault)

    def within(change: Callable[[Connection], T], /) -> T:
        return people.confirmed(person.name, code, now=now, change=change, role=role)

    return within
