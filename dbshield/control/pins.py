"""Which cluster each environment is pinned to, and a human's word that it is another one now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update

from dbshield.config import EnvironmentConfig, near
from dbshield.control.agents import register_environments
from dbshield.control.audit_store import Entry, append
from dbshield.errors import ConfigError
from dbshield.store.database import Database
from dbshield.store.schema import environments


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The cluster of an environment, when it was pinned and by whom."""

    environment: str
    system_identifier: int
    pinned_at: datetime | None
    pinned_by: str | None


class Pins:
    """The pins of the environments that are configured here."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig]) -> None:
        self._database = database
        self._settings = settings

    def all(self) -> dict[str, Pin]:
        """By environment; one that was never seen is not there."""
        query = select(
            environments.c.name, environments.c.system_identifier, environments.c.pinned_at, environments.c.pinned_by
        ).where(environments.c.system_identifier.is_not(None))
        with self._database.transaction() as connection:
            return {
                row.name: Pin(
                    environment=row.name,
                    system_identifier=row.system_identifier,
                    pinned_at=row.pinned_at,
                    pinned_by=row.pinned_by,
                )
                for row in connection.execute(query)
            }

    def pin(self, environment: str, *, system_identifier: int, by: str, now: datetime, only_first: bool = False) -> int | None:
        """Pins an environment to a cluster; what it was pinned to before. `only_first` leaves one that is pinned as it is.

        Raises ConfigError where the environment is not configured.
        """
        if environment not in self._settings:
            close = near(environment, self._settings)
            hint = f'Did you mean "{close}"?' if close else "`dbshield environment list` shows those that there are."
            raise ConfigError(f'the environment "{environment}" is not configured', hint=hint)
        register_environments(self._database, [environment])
        with self._database.transaction() as connection:
            before: int | None = connection.scalar(
                select(environments.c.system_identifier).where(environments.c.name == environment).with_for_update()
            )
            if before == system_identifier or (only_first and before is not None):
                return before
            connection.execute(
                update(environments)
                .where(environments.c.name == environment)
                .values(system_identifier=system_identifier, pinned_at=now, pinned_by=by)
            )
            # In words: JSON's readers elsewhere cut a number of 64 bits.
            fields = {
                "environment": environment,
                "person": by,
                "system_identifier": str(system_identifier),
                "before": str(before) if before is not None else None,
            }
            append(connection, [Entry(at=now, kind="environment-pinned", fields=fields)])
            return before
