"""Emergencies: a named person goes around the shield, for a while, with the second factor, and everybody hears of it.

Laws:
- It is written down, in the table and in the audit, before anything is made on the protected server: a role that nobody knows of
  cannot come to be, and one that was made by a command that died then is removed with the others.
- The code and the record are one transaction.
- An emergency is over when its role is gone. Who removes it holds its row meanwhile, so that nobody does it twice; what could not
  be removed is tried again, and said.

What is done on the server is `dbshield.guard.emergency`'s, which this module gets handed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select, update

from dbshield.config import EnvironmentConfig
from dbshield.control.agents import register_environments
from dbshield.control.audit_store import Entry, append
from dbshield.control.people import People, refused_code
from dbshield.errors import ConfigError, DbshieldError, Refused
from dbshield.store.database import Database
from dbshield.store.schema import emergencies

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
REASON_MAX: Final = 500
RETRY: Final = timedelta(seconds=30)
"""Between two attempts to remove a role."""
OVER: Final = "the end of its time"
"""Who ended an emergency that nobody ended."""
FAILED: Final = "a role that could not be made"

UNDEFINED_OBJECT: Final = "42704"
WRONG_STATE: Final = "55000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Emergency:
    """One emergency. Without `removed_at` its role may be there."""

    id: str
    environment: str
    person: str
    reason: str
    role: str
    acts_as: str
    created_at: datetime
    expires_at: datetime
    made_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None
    removed_at: datetime | None
    error: str | None

    def state(self, now: datetime) -> str:
        """living, ending or over."""
        if self.removed_at is not None:
            return "over"
        return "living" if self.ended_at is None and now < self.expires_at else "ending"


Remove = Callable[[Emergency], int]
"""Removes the role of an emergency from its server; how many sessions it ended. Raises DbshieldError or psycopg.Error."""


class Emergencies:
    """The emergencies in the control database, of the environments that are configured here."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = settings

    def begin(
        self,
        people: People,
        environment: str,
        *,
        person: str,
        code: str,
        reason: str,
        lasting: timedelta,
        now: datetime,
        by: str,
    ) -> Emergency:
        """Writes down an emergency; its role is still to be made, and `made` to be called then.

        Refused where the code is not the person's; ConfigError where the environment allows none, or not for so long.
        """
        settings = self._settings[environment]
        reason = " ".join(reason.split())
        if not reason or len(reason) > REASON_MAX or not reason.isprintable():
            raise ConfigError(
                f"an emergency needs a reason of at most {REASON_MAX} printable characters",
                hint="Colleagues read it at once, and auditors later.",
            )
        longest = timedelta(minutes=settings.emergency_max_minutes)
        if lasting > longest:
            raise ConfigError(
                f"an emergency in {environment} lasts {settings.emergency_max_minutes:g} minutes at most",
                hint="Say --for less; when it is over, another can begin.",
            )
        register_environments(self._database, [environment])
        number = "".join(secrets.choice(ALPHABET) for _ in range(8))
        row = {
            "id": f"brk-{number}",
            "environment": environment,
            "person": person,
            "reason": reason,
            "role": f"dbshield_emergency_{number}",
            "acts_as": settings.emergency_role,
            "created_at": now,
            "created_by": by,
            "expires_at": now + lasting,
        }
        with self._database.transaction() as connection:
            wrong = people.verify(connection, person, code, now=now)
            if wrong is not None:
                append(connection, [refused_code(person, wrong, now, environment=environment)])
            else:
                connection.execute(insert(emergencies).values(row))
                found = _load(connection, f"brk-{number}")
                append(connection, [_entry("break-glass", found, now, reason=reason, until=found.expires_at, by=by)])
                return found
        raise wrong

    def made(self, emergency: Emergency, now: datetime) -> None:
        """Its role is there."""
        with self._database.transaction() as connection:
            connection.execute(update(emergencies).where(emergencies.c.id == emergency.id).values(made_at=now))

    def list_(self, *, living: bool = False) -> list[Emergency]:
        """The emergencies, oldest first; with `living` those whose role may still be there."""
        query = select(emergencies).order_by(emergencies.c.created_at, emergencies.c.id)
        if living:
            query = query.where(emergencies.c.removed_at.is_(None))
        with self._database.transaction() as connection:
            return [_read(row) for row in connection.execute(query)]

    def end(self, emergency_id: str, *, by: str, now: datetime) -> Emergency:
        """Ends one before its time; `remove_due` does the rest. Refused where there is none, or it is over."""
        with self._database.transaction() as connection:
            found = _load(connection, emergency_id, lock=True)
            if found.removed_at is not None:
                raise Refused(f"the emergency {emergency_id} is over already", sqlstate=WRONG_STATE)
            values: dict[str, Any] = {"retry_at": None}
            if found.ended_at is None:
                values |= {"ended_at": now, "ended_by": by}
            connection.execute(update(emergencies).where(emergencies.c.id == emergency_id).values(values))
            return _load(connection, emergency_id)

    def settled(self, emergency_id: str) -> Emergency:
        """The emergency as somebody leaves it who may be removing its role right now: waits for them."""
        with self._database.transaction() as connection:
            return _load(connection, emergency_id, lock=True)

    def remove_due(self, remove: Remove, now: datetime) -> list[Emergency]:
        """Removes the roles of all whose time is over or that were ended; what became of each that was tried. Of environments
        with an administrator here alone: others can be removed where theirs is."""
        here = [name for name, each in self._settings.items() if each.administrator]
        tried: list[Emergency] = []
        while here and (found := self._remove_next(remove, here, now)) is not None:
            tried.append(found)
        return tried

    def _remove_next(self, remove: Remove, here: list[str], now: datetime) -> Emergency | None:
        query = select(emergencies).where(*_due(here, now)).order_by(emergencies.c.expires_at).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            found = _read(row)
            this = emergencies.c.id == found.id
            by = found.ended_by or OVER
            try:
                sessions = remove(found)
            except (DbshieldError, psycopg.Error) as error:
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                connection.execute(update(emergencies).where(this).values(error=why, retry_at=now + RETRY))
                if found.error is None:
                    append(connection, [_entry("break-glass-stuck", found, now, reason=why)])
            else:
                ended = {"ended_at": found.ended_at or now, "ended_by": by, "removed_at": now, "error": None, "retry_at": None}
                connection.execute(update(emergencies).where(this).values(ended))
                append(connection, [_entry("break-glass-over", found, now, by=by, sessions=sessions)])
            return _load(connection, found.id)


def _due(here: list[str], now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        emergencies.c.environment.in_(here),
        emergencies.c.removed_at.is_(None),
        or_(emergencies.c.expires_at <= now, emergencies.c.ended_at.is_not(None)),
        or_(emergencies.c.retry_at.is_(None), emergencies.c.retry_at <= now),
    )


def _load(connection: Connection, emergency_id: str, *, lock: bool = False) -> Emergency:
    query = select(emergencies).where(emergencies.c.id == emergency_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise Refused(
            f"there is no emergency {emergency_id}",
            sqlstate=UNDEFINED_OBJECT,
            hint="`dbshield break-glass --list` shows those that there are.",
        )
    return _read(row)


def _read(row: Row[Any]) -> Emergency:
    return Emergency(**{name: getattr(row, name) for name in Emergency.__slots__})


def _entry(kind: str, emergency: Emergency, at: datetime, **fields: Any) -> Entry:
    known = {
        "environment": emergency.environment,
        "person": emergency.person,
        "emergency": emergency.id,
        "role": emergency.role,
        "acts_as": emergency.acts_as,
    }
    return Entry(at=at, kind=kind, fields=known | fields)
