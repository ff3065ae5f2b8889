"""What one worker serves, kept for whoever starts after it; at its start it tells what changed since.

Law: no login waits for it. While the control database is away the newest configuration is kept in mind, and written when it is
back. A worker that is killed before has told more than it has kept, so the next start tells it again: twice rather than never.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from dbshield.config import Config
from dbshield.control.audit import AuditLog
from dbshield.control.audit_store import Entry
from dbshield.control.changes import audit_reload
from dbshield.control.picture import Picture, picture_of
from dbshield.control.served import Served
from dbshield.errors import StoreError


class Serving:
    """The configuration of one worker; `key` is that of its pictures."""

    def __init__(self, served: Served, audit: AuditLog, log: Any, config: Config, key: bytes) -> None:
        self._served = served
        self._audit = audit
        self._log = log
        self._key = key
        self._newest = picture_of(config, key)
        self._due: Picture | None = self._newest
        self._looked = False
        self._away = False
        self._writing = asyncio.Lock()

    def reloaded(self, config: Config, now: float) -> None:
        """Tells what a reload changed; it is kept with the next `flush`."""
        old, self._newest = self._newest, picture_of(config, self._key)
        audit_reload(self._audit, old, self._newest, now=now)
        self._due = self._newest

    async def flush(self) -> None:
        """Looks at what was served before, the first time, and keeps what is served now. Never raises; what could not be done is
        done by a later one."""
        async with self._writing:
            while (picture := self._due) is not None:
                try:
                    entries = await asyncio.to_thread(self._write, picture)
                except StoreError as error:
                    if not self._away:
                        self._log.warning("the served configuration is not kept yet", why=error.message)
                    self._away = True
                    return
                self._away, self._looked = False, True
                for entry in entries:
                    self._audit.kept_elsewhere(entry.line())
                if self._due is picture:
                    self._due = None

    def _write(self, picture: Picture) -> list[Entry]:
        """In a thread. Seldom, so no connection is held for it."""
        now = datetime.now(UTC)
        try:
            if not self._looked:
                return self._served.look(picture, now)
            self._served.keep(picture, now)
        finally:
            self._served.close()
        return []
