"""What was served last, and where: so that who starts can tell what changed in the configuration while nothing ran.

Laws:
- A change is told once for each place (a machine, a file, a state folder), however many workers start there at once: who looks
  holds the table, and the entries, their places in the chain and the new picture are one commit.
- A place that nobody knows is compared with the one that was served last with the same file, since machines of a cluster have new
  names each time. Where there is none, an entry says what agents may do from now on.
- Nothing is kept that a reload would not tell, or that a secret could be found in (see `picture`).
- It is no proof: who can write to the control database can change what is compared with.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, delete, exists, select, text
from sqlalchemy.dialects.postgresql import insert

from dbshield.control.audit_store import Entry, append, stamp
from dbshield.control.picture import Picture, overlaid, policy_changes, read, setting_changes
from dbshield.store.database import Database
from dbshield.store.schema import SCHEMA, served_configurations

PROXY: Final = "proxy"
SCHEDULER: Final = "scheduler"
SECTIONS: Final[dict[str, tuple[str, ...]]] = {PROXY: (), SCHEDULER: ("schedule", "backup")}
"""What each part tells of; a proxy of everything."""
KEPT: Final = timedelta(days=90)
"""After which a place is forgotten that served nothing, unless it is the newest one with its file."""
LOCK_TIMEOUT: Final = "5s"
"""A machine that hangs may hold the table; who could not look tries again later."""
PURPOSE: Final = "digests of served configurations"
"""What the key of the pictures is derived for."""

_SERVED: Final = served_configurations.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a configuration is served: the machine's name, the file (empty for the environment and the defaults alone), the state
    folder. Two that run beside each other on one machine differ in one of the last two."""

    host: str
    file: str
    state: str

    @classmethod
    def here(cls, file: Path | None, state: Path) -> Place:
        return cls(host=socket.gethostname(), file=str(file.absolute()) if file is not None else "", state=str(state))


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What was served last, and where and since when."""

    host: str
    at: datetime
    picture: Picture


class Served:
    """What one part of dbshield serves at one place. Synchronous; every method raises StoreError where the control database is
    away."""

    def __init__(self, database: Database, place: Place, part: str) -> None:
        self._database = database
        self._place = place
        self._part = part

    def look(self, picture: Picture, now: datetime) -> list[Entry]:
        """At a start: tells in the audit what differs from what was served last, and keeps this; the entries, oldest first."""
        # As it will come back.
        new = replace(read(picture.text(), picture.key), defaults=picture.defaults)
        with self._database.transaction() as connection:
            connection.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text(f"lock table {SCHEMA}.served_configurations in share row exclusive mode"))
            entries = self._entries(self._last(connection), new, now)
            self._keep(connection, new, now)
            connection.execute(_forget(now))
            if entries:
                append(connection, entries)
        return entries

    def keep(self, picture: Picture, now: datetime) -> None:
        """After a reload, which has told what it changed."""
        with self._database.transaction() as connection:
            connection.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT}'"))
            self._keep(connection, picture, now)

    def close(self) -> None:
        """Lets go of the connection; the next call makes another."""
        self._database.close()

    def _last(self, connection: Connection) -> Last | None:
        """The picture to compare with: of this place, or else the newest with this file. What a scheduler has kept since belongs
        to what a proxy compares with, and the other way round, so that one of them tells it."""
        place = self._place
        # A scheduler keeps two sections alone, which is no use to a proxy.
        parts = [PROXY] if self._part == PROXY else [PROXY, SCHEDULER]
        row = connection.execute(
            select(served_configurations)
            .where(_SERVED.file == place.file, _SERVED.part.in_(parts))
            .order_by(
                and_(_SERVED.host == place.host, _SERVED.state == place.state).desc(),
                _SERVED.served_at.desc(),
            )
            .limit(1)
        ).one_or_none()
        picture = _read(row)
        if row is None or picture is None:
            return None
        last = Last(host=row.host, at=row.served_at, picture=picture)
        beside = connection.execute(
            select(served_configurations).where(
                _SERVED.host == row.host,
                _SERVED.file == row.file,
                _SERVED.state == row.state,
                _SERVED.part == SCHEDULER,
                _SERVED.served_at > row.served_at,
                _SERVED.key == row.key,
            )
        ).one_or_none()
        told = _read(beside)
        return last if told is None else replace(last, picture=overlaid(picture, told, SECTIONS[SCHEDULER]))

    def _entries(self, last: Last | None, new: Picture, now: datetime) -> list[Entry]:
        where: dict[str, Any] = {**asdict(self._place), "part": self._part}
        if last is None:
            # A scheduler says nothing of what agents may do.
            first = Entry(at=now, kind="configuration-served", fields={"policies": new.policies, **where})
            return [first] if self._part == PROXY else []
        where["before"] = {"host": last.host, "at": stamp(last.at)}
        entries = []
        if self._part == PROXY:
            entries += [
                Entry(at=now, kind="policy-changed", fields={"environment": environment, "changed": changed, **where})
                for environment, changed in policy_changes(last.picture, new).items()
            ]
        if changed := setting_changes(last.picture, new, SECTIONS[self._part]):
            entries.append(Entry(at=now, kind="configuration-changed", fields={"changed": changed, **where}))
        return entries

    def _keep(self, connection: Connection, picture: Picture, now: datetime) -> None:
        made = insert(served_configurations).values(
            **asdict(self._place), part=self._part, key=picture.key, picture=picture.text(), served_at=now
        )
        connection.execute(
            made.on_conflict_do_update(
                index_elements=served_configurations.primary_key.columns,
                set_={name: made.excluded[name] for name in ("key", "picture", "served_at")},
            )
        )


def _read(row: Row[Any] | None) -> Picture | None:
    """The picture of a row. One that somebody has spoilt counts as none, so what is served is told from the beginning."""
    try:
        return read(row.picture, row.key) if row is not None else None
    except ValueError:
        return None


def _forget(now: datetime) -> Any:
    """Forgets places that are gone: machines of a cluster have new names each time."""
    newer = served_configurations.alias("newer")
    return delete(served_configurations).where(
        _SERVED.served_at < now - KEPT,
        exists().where(newer.c.file == _SERVED.file, newer.c.part == _SERVED.part, newer.c.served_at > _SERVED.served_at),
    )
