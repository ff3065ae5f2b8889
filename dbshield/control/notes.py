"""What a proxy writes back into the control database when there is time: which tokens were used, which cluster was first seen.

Law: nothing waits for it. While the control database is away the notes are kept, one for each token and environment, and written
when it is back.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import psycopg
import structlog

from dbshield.store.living import NOTE_USES, PIN_FIRST_USE

APPLICATION_NAME: Final = "dbshield notes"
INTERVAL: Final = 60.0
"""Seconds between two writes about one token, at least."""
TIMEOUT: Final = 5.0
"""Seconds for a connection and for what is written over it."""
FIRST_USE: Final = "a proxy, on first use"
"""Who pinned an environment, where no human did."""

log = structlog.get_logger(__name__)


class Notes:
    """The notes of one process; times are seconds since 1970."""

    def __init__(self, control_dsn: str) -> None:
        self._dsn = control_dsn
        self._used: dict[str, tuple[float, str]] = {}
        self._written: dict[str, float] = {}
        self._pins: dict[str, tuple[int, float]] = {}
        self._away = False

    def used(self, token_id: str, source: str, now: float) -> None:
        """A session began with this token."""
        self._used[token_id] = (now, source)

    def pin(self, environment: str, system_identifier: int, now: float) -> None:
        """An environment was seen for the first time. What a human or another proxy pinned meanwhile stays."""
        self._pins.setdefault(environment, (system_identifier, now))

    async def flush(self, now: float, *, everything: bool = False) -> None:
        """Writes what is due; of tokens only those that were not written lately, unless `everything` is to go. Never raises."""
        due = {
            token: use
            for token, use in self._used.items()
            if everything or now - self._written.get(token, float("-inf")) >= INTERVAL
        }
        pins = dict(self._pins)
        if not due and not pins:
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._write(due, pins)
        except (psycopg.Error, OSError, TimeoutError) as error:
            if not self._away:
                self._away = True
                log.warning("notes.kept", reason=str(error).strip() or type(error).__name__)
            return
        self._away = False
        for token, use in due.items():
            self._written[token] = now
            if self._used.get(token) == use:
                del self._used[token]
        for environment in pins:
            del self._pins[environment]
        for token in [token for token, written in self._written.items() if now - written >= INTERVAL]:
            del self._written[token]

    async def _write(self, uses: dict[str, tuple[float, str]], pins: dict[str, tuple[int, float]]) -> None:
        connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=int(TIMEOUT)
        )
        async with connection:
            for environment, (identifier, seen) in pins.items():
                await connection.execute(PIN_FIRST_USE, [identifier, seen, FIRST_USE, environment])
            if uses:
                moments, sources = zip(*uses.values(), strict=True)
                await connection.execute(NOTE_USES, [list(uses), list(moments), list(sources)])
