"""The humans who decide, and how they come, change and go; second_factor.py takes their codes.

Laws:
- A secret is sealed in the vault for the row of its person, and shown once, when it is made.
- A person decides nothing before a first code showed that the secret is in the right hands.
- The first person is let in by whoever may use the control database and the key. From then on a person is added, gets a new
  secret or goes only with a code of somebody who is there: a second factor that anybody may make anew would be none.
- Nobody gives more than they have: who vouches has at least the role that the other one has or gets. Where nobody has it, the
  highest that anybody has is enough.
- Who is removed, or gets another role, secret or password, is signed out of the console in the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

import pyotp
from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dbshield.control.audit_store import Entry, append
from dbshield.control.passwords import check_password, verifier
from dbshield.control.person_roles import Role, wrong_role
from dbshield.control.second_factor import SecondFactor, living_people, nobody, totp_identity
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database
from dbshield.store.schema import console_sessions, people

ISSUER: Final = "dbshield"

PEOPLE_LOCK: Final = 0x6462_7368_7065_6F70
"""The advisory lock of changes to the list of people, "dbshpeop"."""

DUPLICATE_OBJECT: Final = "42710"
T = TypeVar("T")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A secret that was just made: the only moment at which it is known in clear. `secret` is base 32, as apps take it."""

    person: str
    secret: str = field(repr=False)

    @property
    def uri(self) -> str:
        """What a QR code for an authenticator app holds (otpauth, Key URI format)."""
        return pyotp.TOTP(self.secret).provisioning_uri(name=self.person, issuer_name=ISSUER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouch:
    """Somebody who is enrolled, with a code of theirs."""

    person: str
    code: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person who is there. Without `enrolled_at` the first code is still to come, and nothing can be decided."""

    name: str
    created_at: datetime
    created_by: str
    vouched_by: str | None
    enrolled_at: datetime | None
    locked_until: datetime | None
    role: Role
    has_password: bool

    def state(self, now: datetime) -> str:
        if self.enrolled_at is None:
            return "not confirmed"
        return "locked" if self.locked_until is not None and now < self.locked_until else "enrolled"


class People:
    """The people in the control database, with the vault that their secrets are sealed in."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._second_factor = SecondFactor(vault)

    def add(self, name: str, *, by: str, now: datetime, vouch: Vouch | None = None, role: Role | None = None) -> Enrolment:
        """A new person, who is to be confirmed. One who was never confirmed gets a new secret. Without a role: an admin where
        nobody is enrolled yet, else an approver.

        Refused where the person is there already, or somebody is enrolled and nobody vouches who may.
        """
        check_person(name)
        given = role if role is not None else Role.ADMIN if vouch is None else Role.APPROVER

        def change(connection: Connection, vouched_by: str | None) -> Enrolment:
            self._not_enrolled(connection, name)
            return self._enrol(connection, name, role=given, by=by, vouched_by=vouched_by, now=now)

        return self._admitted("person-added", name, now=now, by=by, vouch=vouch, change=change, role=given)

    def reset(self, name: str, *, by: str, now: datetime, vouch: Vouch | None = None) -> Enrolment:
        """A new secret for a person, who is to be confirmed anew; what they approved and has not begun no longer counts."""

        def change(connection: Connection, vouched_by: str | None) -> Enrolment:
            role = Role(self._living(connection, name).role)
            return self._enrol(connection, name, role=role, by=by, vouched_by=vouched_by, now=now)

        return self._admitted("person-reset", name, now=now, by=by, vouch=vouch, change=change)

    def remove(self, name: str, *, by: str, now: datetime, vouch: Vouch | None = None) -> None:
        """Ends a person; what they approved and has not begun no longer counts. Refused where there is no such person."""

        def change(connection: Connection, vouched_by: str | None) -> None:
            self._living(connection, name)
            gone = {"removed_at": now, "enrolled_at": None, "password": None}
            connection.execute(update(people).where(people.c.name == name).values(gone))
            sign_out(connection, name)

        self._admitted("person-removed", name, now=now, by=by, vouch=vouch, change=change)

    def set_role(self, name: str, role: Role, *, by: str, now: datetime, vouch: Vouch | None = None) -> None:
        """Gives a person another role. Refused where there is no such person, or nobody vouches who may."""

        def change(connection: Connection, _vouched_by: str | None) -> None:
            self._living(connection, name)
            connection.execute(update(people).where(people.c.name == name).values(role=role.value))
            sign_out(connection, name)

        self._admitted("person-role", name, now=now, by=by, vouch=vouch, change=change, role=role)

    def set_password(self, name: str, password: str, code: str, *, by: str, now: datetime) -> None:
        """Gives a person a password for the console, with a code of their own. ConfigError where the password is weak."""
        kept = verifier(check_password(password, name))

        def change(connection: Connection) -> None:
            connection.execute(update(people).where(people.c.name == name).values(password=kept))
            sign_out(connection, name)

        entry = Entry(at=now, kind="person-password", fields={"person": name, "by": by})
        self.confirmed(name, code, change, now=now, entries=[entry])

    def confirmed(
        self,
        name: str,
        code: str,
        change: Callable[[Connection], T],
        *,
        now: datetime,
        role: Role = Role.VIEWER,
        entries: Sequence[Entry] = (),
        **fields: Any,
    ) -> T:
        """Runs `change` in the transaction in which a code of the person is taken, if they have the role; then adds the entries.
        Refused where the code does not hold, which is written down with `fields`, or the role is a lower one."""
        with self._database.transaction() as connection:
            row = self._living(connection, name)
            if Role(row.role) < role:
                raise wrong_role(name, Role(row.role), role)
            wrong = self.verify(connection, name, code, now=now)
            if wrong is None:
                changed = change(connection)
                if entries:
                    append(connection, entries)
                return changed
            append(connection, [refused_code(name, wrong, now, **fields)])
        raise wrong

    def confirm(self, name: str, code: str, *, by: str = "", now: datetime) -> Person:
        """The first code of a new secret. Refused where it is wrong, or where the person needs somebody to vouch by now."""
        with self._database.transaction() as connection:
            _lock(connection)
            row = self._living(connection, name)
            if row.enrolled_at is not None:
                raise Refused(f"{name} is confirmed already", sqlstate=DUPLICATE_OBJECT)
            if row.vouched_by is None and _enrolled(connection):
                raise Refused(
                    f"{name} was added before anybody was enrolled, and by now somebody is",
                    hint=f"`dbshield user add {name} --vouch PERSON` adds {name} with a code of theirs.",
                )
            wrong = self.verify(connection, name, code, now=now, confirming=True)
            if wrong is None:
                connection.execute(update(people).where(people.c.name == name).values(enrolled_at=now))
                row = self._living(connection, name)
                append(connection, [Entry(at=now, kind="person-confirmed", fields={"person": name, "by": by})])
            else:
                append(connection, [refused_code(name, wrong, now)])
        if wrong is not None:
            raise wrong
        return _person(row)

    def list_(self) -> list[Person]:
        """The people who are there, by name."""
        with self._database.transaction() as connection:
            return [_person(row) for row in connection.execute(living_people().order_by(people.c.name))]

    def verify(self, connection: Connection, name: str, code: str, *, now: datetime, confirming: bool = False) -> Refused | None:
        """Takes a code of a person within the caller's transaction, which must be committed either way: a wrong code has to be
        counted. Returns why it does not hold, or None. The row stays locked until the end of the transaction."""
        return self._second_factor.verify(connection, name, code, now=now, confirming=confirming)

    def _admitted(
        self,
        kind: str,
        name: str,
        *,
        now: datetime,
        by: str,
        vouch: Vouch | None,
        change: Callable[[Connection, str | None], T],
        role: Role | None = None,
    ) -> T:
        """Runs `change` with the name of who vouches, once they have shown their code; `role` is what the person gets."""
        fields = {"person": name, "by": by} | ({"role": role.value} if role is not None else {})
        with self._database.transaction() as connection:
            _lock(connection)
            if vouch is not None:
                _may_vouch(connection, vouch.person, name, role)
            wrong = self._vouched(connection, vouch, now)
            if wrong is None:
                vouched_by = vouch.person if vouch is not None else None
                changed = change(connection, vouched_by)
                append(connection, [Entry(at=now, kind=kind, fields=fields | {"vouched_by": vouched_by})])
                return changed
            if vouch is not None:
                append(connection, [refused_code(vouch.person, wrong, now)])
        raise wrong

    def _vouched(self, connection: Connection, vouch: Vouch | None, now: datetime) -> Refused | None:
        if vouch is not None:
            return self.verify(connection, vouch.person, vouch.code, now=now)
        enrolled = _enrolled(connection)
        if not enrolled:
            return None
        return Refused(
            "somebody who is enrolled has to vouch for this with a code",
            hint=f"Say --vouch and one of: {', '.join(enrolled)}.",
        )

    @staticmethod
    def _not_enrolled(connection: Connection, name: str) -> None:
        there = connection.execute(living_people().where(people.c.name == name, people.c.enrolled_at.is_not(None))).one_or_none()
        if there is not None:
            raise Refused(
                f"there is a person {name} already",
                sqlstate=DUPLICATE_OBJECT,
                hint=f"`dbshield user reset {name}` gives {name} a new secret.",
            )

    def _enrol(
        self, connection: Connection, name: str, *, role: Role, by: str, vouched_by: str | None, now: datetime
    ) -> Enrolment:
        secret = pyotp.random_base32()
        sign_out(connection, name)
        row = {
            "role": role.value,
            "sealed_totp": self._vault.seal(secret, identity=totp_identity(name)),
            "last_step": 0,
            "created_at": now,
            "created_by": by,
            "vouched_by": vouched_by,
            "enrolled_at": None,
            "wrong_codes": 0,
            "wrong_since": None,
            "locked_until": None,
            "removed_at": None,
        }
        statement = upsert(people).values(name=name, **row)
        connection.execute(statement.on_conflict_do_update(index_elements=[people.c.name], set_=row))
        return Enrolment(person=name, secret=secret)

    @staticmethod
    def _living(connection: Connection, name: str) -> Row[Any]:
        row = connection.execute(living_people().where(people.c.name == name).with_for_update()).one_or_none()
        if row is None:
            raise nobody(name)
        return row


def check_person(name: str) -> str:
    """The name itself. ConfigError where it has no proper form."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f'"{name}" is not a name of a person', hint="A small letter or a digit, then up to 62 of a-z, 0-9 and . _ @ -"
        )
    return name


def refused_code(person: str, wrong: Refused, at: datetime, **fields: Any) -> Entry:
    """What the audit keeps of a code that was not taken."""
    return Entry(at=at, kind="code-refused", fields={"person": person, "reason": wrong.message, **fields})


def sign_out(connection: Connection, name: str) -> None:
    """Ends what a person has open on the console."""
    connection.execute(delete(console_sessions).where(console_sessions.c.person == name))


def _may_vouch(connection: Connection, voucher: str, name: str, role: Role | None) -> None:
    """Refused where who vouches has a lower role than the other one has or gets. Asked before the code is."""
    living = connection.execute(living_people()).all()
    roles = {row.name: Role(row.role) for row in living if row.enrolled_at is not None}
    if voucher not in roles:
        return
    # Also of somebody who has not confirmed yet: else a new secret for them would be a way up.
    has = next((Role(row.role) for row in living if row.name == name), Role.VIEWER)
    needed = max(role or Role.VIEWER, has, key=lambda one: one.rank)
    needed = min(needed, max(roles.values(), key=lambda one: one.rank), key=lambda one: one.rank)
    if roles[voucher] < needed:
        raise wrong_role(voucher, roles[voucher], needed)


def _lock(connection: Connection) -> None:
    """Nobody else adds, confirms or removes meanwhile. An advisory lock: one on the table would wait for those who decide, while
    they wait for the row of a person that is locked here."""
    connection.execute(select(func.pg_advisory_xact_lock(PEOPLE_LOCK)))


def _enrolled(connection: Connection) -> list[str]:
    return [
        row.name for row in connection.execute(living_people().where(people.c.enrolled_at.is_not(None)).order_by(people.c.name))
    ]


def _person(row: Row[Any]) -> Person:
    return Person(
        name=row.name,
        created_at=row.created_at,
        created_by=row.created_by,
        vouched_by=row.vouched_by,
        enrolled_at=row.enrolled_at,
        locked_until=row.locked_until,
        role=Role(row.role),
        has_password=row.password is not None,
    )
