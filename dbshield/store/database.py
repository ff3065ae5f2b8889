"""The control database as one object: its engine, its migrations, and whether it is the one that this dbshield knows.

Synchronous, on psycopg. What proxies follow at run time is read by `dbshield.control.directory` on a connection of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from dbshield.errors import StoreError, first_line
from dbshield.store.resources import data_folder
from dbshield.store.schema import REVISION, SCHEMA

T = TypeVar("T")
CONNECT_TIMEOUT = 10
"""Seconds; libpq has none of its own and would wait for the kernel's two minutes."""
APPLICATION_NAME = "dbshield"

REVISION_QUERY = f"select version_num from {SCHEMA}.alembic_version"  # noqa: S608  (a constant of ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The migration that the database has, nothing where it has none, and the one that this dbshield needs."""

    current: str | None
    needed: str = REVISION

    def require(self) -> None:
        """StoreError that says which side is behind, unless both are the same."""
        if self.current == self.needed:
            return
        if self.current is None:
            raise StoreError("the control database is empty", hint="`dbshield init` makes its tables.")
        if self.current < self.needed:
            raise StoreError(
                f"the control database has revision {self.current}, this dbshield needs {self.needed}",
                hint="`dbshield init` brings it up to date.",
            )
        raise StoreError(
            f"the control database has revision {self.current}, this dbshield knows {self.needed}: it is older than the database",
            hint="Install the newer dbshield here as well.",
        )


class Database:
    """The control database at a libpq connection string (URL or key=value, password included)."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @cached_property
    def engine(self) -> Engine:
        return create_engine("postgresql+psycopg://", creator=self._connect, pool_size=2, pool_pre_ping=True)

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction. StoreError where the server is away; what a constraint refuses stays an IntegrityError."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise StoreError(
                f"the control database does not answer: {_reason(error)}", hint="Look at [control] url, and at the server."
            ) from error
        except psycopg.OperationalError as error:
            raise StoreError(
                f"the control database does not answer: {first_line(error)}", hint="Look at [control] url, and at the server."
            ) from error

    def within(self, change: Callable[[Connection], T], /) -> T:
        """Runs a change in a transaction of its own."""
        with self.transaction() as connection:
            return change(connection)

    def migrate(self) -> Revision:
        """Brings the tables up to the newest revision, in one transaction. Returns what there was before.

        Any number of machines may do this at once: an advisory lock lets them pass one by one. StoreError where the
        database is newer.
        """
        # alembic takes a third of a second to load, and most commands never migrate.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        before = self.revision()
        if before.current is not None and before.current > before.needed:
            before.require()
        config = Config()
        config.set_main_option("script_location", str(data_folder("migrations")).replace("%", "%%"))
        with self.transaction() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                raise StoreError(
                    f"the control database could not be migrated: {_reason(error)}",
                    hint="Its role needs the right to create a schema.",
                ) from error
        return before

    def revision(self) -> Revision:
        with self.transaction() as connection:
            table = connection.scalar(text("select to_regclass(:name)::text"), {"name": f"{SCHEMA}.alembic_version"})
            return Revision(current=connection.scalar(text(REVISION_QUERY)) if table is not None else None)

    def require_current(self) -> None:
        """StoreError unless the database has exactly the revision that this dbshield knows."""
        self.revision().require()

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._dsn, connect_timeout=CONNECT_TIMEOUT, application_name=APPLICATION_NAME)


Opening = Callable[[], AbstractContextManager[Database]]
"""Opens the control database, which may not answer: StoreError then."""


class Within(Protocol):
    """Runs a change in a transaction that it opens and commits, such as one in which a person's code is taken too."""

    def __call__(self, change: Callable[[Connection], T], /) -> T: ...


def _reason(error: DBAPIError) -> str:
    return first_line(error.orig) if error.orig is not None else str(error)
