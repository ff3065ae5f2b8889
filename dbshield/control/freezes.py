"""Code freezes by a human: an environment in which agents write nothing until a time, or until somebody lifts it.

Any number may be in force at once, and an environment is frozen while one of them is: a later freeze never shortens an earlier
one, and nobody has to know of the others to add one in a hurry. `thaw` lifts them all. Lifted ones stay in the table, since
they say who froze what, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import insert, or_, select, update

from dbshield.config import EnvironmentConfig, near
from dbshield.control.agents import register_environments
from dbshield.control.issuing import UNDEFINED_OBJECT
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database
from dbshield.store.frozen import Freeze
from dbshield.store.schema import freezes

REASON_MAX = 120
"""Characters of a reason: agents read it inside a message that holds 300."""


class Freezes:
    """The freezes in the control database, of the environments that are configured here."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = settings

    def freeze(self, environment: str, *, reason: str, by: str, now: datetime, until: datetime | None = None) -> Freeze:
        """Freezes an environment, from the commit on. ConfigError where the environment, the reason or the time is none."""
        self._known(environment)
        reason = check_reason(reason)
        if until is not None and until <= now:
            raise ConfigError("the freeze would be over before it begins", hint="Name a time that is still to come.")
        register_environments(self._database, [environment])
        row = {"environment": environment, "reason": reason, "frozen_by": by, "frozen_at": now, "until": until}
        with self._database.transaction() as connection:
            number = connection.execute(insert(freezes).values(row).returning(freezes.c.id)).scalar_one()
        return Freeze(id=number, environment=environment, reason=reason, frozen_by=by, frozen_at=now, until=until)

    def thaw(self, environment: str, *, by: str, now: datetime) -> int:
        """Lifts every freeze of an environment; how many were in force. Refused where none was."""
        self._known(environment)
        unlifted = (freezes.c.environment == environment, freezes.c.lifted_at.is_(None))
        running = or_(freezes.c.until.is_(None), freezes.c.until > now)
        with self._database.transaction() as connection:
            lifted = connection.execute(update(freezes).where(*unlifted, running).values(lifted_at=now, lifted_by=by)).rowcount
        if not lifted:
            raise Refused(
                f"nobody froze {environment}",
                sqlstate=UNDEFINED_OBJECT,
                hint=f"If dbshield.toml freezes it: take frozen out of [environments.{environment}] and reload the proxies.",
            )
        return lifted

    def in_force(self, now: datetime) -> dict[str, tuple[Freeze, ...]]:
        """The freezes that hold now, by environment, the oldest first."""
        query = (
            select(
                freezes.c.id,
                freezes.c.environment,
                freezes.c.reason,
                freezes.c.frozen_by,
                freezes.c.frozen_at,
                freezes.c.until,
            )
            .where(freezes.c.lifted_at.is_(None), or_(freezes.c.until.is_(None), freezes.c.until > now))
            .order_by(freezes.c.environment, freezes.c.frozen_at, freezes.c.id)
        )
        found: dict[str, tuple[Freeze, ...]] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(query):
                freeze = Freeze(**row._mapping)
                found[freeze.environment] = (*found.get(freeze.environment, ()), freeze)
        return found

    def _known(self, environment: str) -> None:
        if environment not in self._settings:
            close = near(environment, self._settings)
            hint = f'Did you mean "{close}"?' if close else "`dbshield environment list` shows those that there are."
            raise ConfigError(f'the environment "{environment}" is not configured', hint=hint)


def check_reason(text: str) -> str:
    """A reason as it is kept: one line. Raises ConfigError."""
    reason = " ".join(text.split())
    if not reason:
        raise ConfigError("a freeze needs a reason", hint="Agents and colleagues read it: say what is going on.")
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise ConfigError(f"a reason has at most {REASON_MAX} printable characters", hint="Say it shorter.")
    return reason
