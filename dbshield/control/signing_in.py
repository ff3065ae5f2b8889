"""Signing in to the console: a password and a code of the second factor, and the session that follows.

Laws:
- Whatever is wrong has one answer, after the same work: nobody learns here who is there, or whether a password was right.
- A code is taken only behind the right password, so that nobody who lacks it can lock a person's second factor.
- Attempts are counted before they are looked at, by name and by where they come from: many at once are counted like many in turn.
- A session is a number of 256 random bits that the browser holds; its SHA-256 is kept. It ends by its end, by idleness, by
  signing out, and with the person's role, password, secret or presence.
- What people type into the field of the name is not written down where it is nobody's name: it may be their password.

Sources: OWASP Session Management and Authentication Cheat Sheets.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, case, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dbshield.control import passwords
from dbshield.control.audit_store import Entry, append
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.control.second_factor import WRONG_CODE
from dbshield.errors import Refused
from dbshield.store.database import Database
from dbshield.store.schema import console_attempts, console_sessions, people

WINDOW: Final = timedelta(minutes=15)
MOST_OF_BOTH: Final = 8
"""Attempts for one name from one place, in a window."""
MOST_OF_SOURCE: Final = 40
"""From one place: an office behind one address has many people."""
MOST_OF_NAME: Final = 100
"""For one name from anywhere: a limit on guessing from many places, and too many for keeping somebody out by the way."""
IPV6_PREFIX: Final = 64
"""What one subscriber has (RFC 6177); single addresses cost nothing there."""
TOUCH: Final = timedelta(seconds=30)
"""How exactly it is known when somebody was here: not every click is a write."""
TOKEN_BYTES: Final = 32
TOO_MANY: Final = "53400"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """Somebody with a session."""

    person: str
    role: Role


class SigningIn:
    """Sign-ins and sessions in the control database; `idle` and `lasting` are when a session ends."""

    def __init__(self, database: Database, people_: People, *, idle: timedelta, lasting: timedelta) -> None:
        self._database = database
        self._people = people_
        self._idle = idle
        self._lasting = lasting

    def sign_in(self, name: str, password: str, code: str, *, source: str, now: datetime) -> str:
        """What the browser shall hold. Refused where anything is wrong, or was too often."""
        counters = _counters(name, source)
        with self._database.transaction() as connection:
            row = connection.execute(_living().where(people.c.name == name)).one_or_none()
            beyond = [_count(connection, who, now) - most for who, most in counters.items()]
            # At the first of them: whoever goes on is not worth an entry each.
            if 1 in beyond:
                append(connection, [_refused(row, source, "too many attempts", now)])
        if max(beyond) > 0:
            raise Refused(
                "there were too many attempts to sign in", sqlstate=TOO_MANY, hint="Wait a quarter of an hour, and try again."
            )
        stored = row.password if row is not None else None
        matches = passwords.matches(password, stored)
        with self._database.transaction() as connection:
            why = "no such person" if row is None else "no password" if row.password is None else "" if matches else "password"
            if not why:
                wrong = self._people.verify(connection, name, code, now=now)
                why = wrong.message if wrong is not None else ""
            # By now the person's row is locked: a password that was changed while it was tried is none any more.
            if not why and connection.scalar(select(people.c.password).where(people.c.name == name)) != stored:
                why = "password"
            if not why:
                for who in counters:
                    _uncount(connection, who)
                token = self._open(connection, name, source, now)
                append(connection, [Entry(at=now, kind="console-signed-in", fields={"person": name, "source": source})])
                return token
            append(connection, [_refused(row, source, why, now)])
        raise Refused(
            "the name, the password or the code is wrong",
            sqlstate=WRONG_CODE,
            hint="A code works once: if this one was used before, wait for the next.",
        )

    def find(self, token: str, *, now: datetime, active: bool = True) -> SignedIn | None:
        """Who holds this, if it is a session. With `active` it is a click of theirs, which puts off the end by idleness."""
        if not token:
            return None
        this = console_sessions.c.id == _digest(token)
        query = (
            select(people.c.name, people.c.role, console_sessions.c.seen_at)
            .join(people, people.c.name == console_sessions.c.person)
            .where(this, console_sessions.c.expires_at > now, console_sessions.c.seen_at > now - self._idle)
            .where(people.c.removed_at.is_(None), people.c.enrolled_at.is_not(None), people.c.password.is_not(None))
        )
        with self._database.transaction() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            if active and now - row.seen_at >= TOUCH:
                connection.execute(update(console_sessions).where(this).values(seen_at=now))
            return SignedIn(person=row.name, role=Role(row.role))

    def sign_out(self, token: str, *, now: datetime) -> None:
        """Ends a session, if it is one."""
        with self._database.transaction() as connection:
            ended = delete(console_sessions).where(console_sessions.c.id == _digest(token)).returning(console_sessions.c.person)
            person = connection.scalar(ended)
            if person is not None:
                append(connection, [Entry(at=now, kind="console-signed-out", fields={"person": person})])

    def _open(self, connection: Connection, name: str, source: str, now: datetime) -> str:
        over = (console_sessions.c.expires_at <= now) | (console_sessions.c.seen_at <= now - self._idle)
        connection.execute(delete(console_sessions).where(over))
        stale = select(console_attempts.c.who).where(console_attempts.c.since <= now - WINDOW).with_for_update(skip_locked=True)
        connection.execute(delete(console_attempts).where(console_attempts.c.who.in_(stale)))
        token = secrets.token_urlsafe(TOKEN_BYTES)
        row = {"id": _digest(token), "person": name, "created_at": now, "seen_at": now, "source": source}
        connection.execute(insert(console_sessions).values(row | {"expires_at": now + self._lasting}))
        return token


def _counters(name: str, source: str) -> dict[bytes, int]:
    """What attempts are counted by, with how many each may have. Always in this order, so that two never wait for each other."""
    place = _place(source)
    limits = ((f"both {name} {place}", MOST_OF_BOTH), (f"source {place}", MOST_OF_SOURCE), (f"name {name}", MOST_OF_NAME))
    return {hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(): most for text, most in limits}


def _place(source: str) -> str:
    """An address, or the network that one subscriber has."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    # What listens on IPv6 and IPv4 at once sees an IPv4 address so; they would all be one network.
    mapped = address.ipv4_mapped if address.version == 6 else None
    if address.version == 4 or mapped is not None:
        return str(mapped or address)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


def _count(connection: Connection, who: bytes, now: datetime) -> int:
    """One attempt more; how many there are in the window that runs."""
    over = console_attempts.c.since <= now - WINDOW
    counted = (
        upsert(console_attempts)
        .values(who=who, attempts=1, since=now)
        .on_conflict_do_update(
            index_elements=[console_attempts.c.who],
            set_={
                "attempts": case((over, 1), else_=console_attempts.c.attempts + 1),
                "since": case((over, now), else_=console_attempts.c.since),
            },
        )
        .returning(console_attempts.c.attempts)
    )
    found: int = connection.execute(counted).scalar_one()
    return found


def _uncount(connection: Connection, who: bytes) -> None:
    """One attempt less: it was right."""
    fewer = update(console_attempts).where(console_attempts.c.who == who, console_attempts.c.attempts > 0)
    connection.execute(fewer.values(attempts=console_attempts.c.attempts - 1))


def _refused(row: Row[Any] | None, source: str, why: str, now: datetime) -> Entry:
    person = row.name if row is not None else None
    return Entry(at=now, kind="console-refused", fields={"person": person, "source": source, "reason": why})


def _living() -> Any:
    return select(people.c.name, people.c.password).where(people.c.removed_at.is_(None))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
