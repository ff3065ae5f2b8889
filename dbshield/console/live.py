"""What happens, told to every open page: server-sent events (HTML Living Standard, section 9.2).

One connection to the control database hears of approvals and freezes for all browsers. A notice is never believed: it makes a
page look again. What cannot be heard (statements, which nobody is notified of) is looked at once a second, while a page follows.

Laws:
- A stream sends what a part of a page looks like now, and again when it looks different: a browser that reconnects has missed
  nothing.
- A stream ends soon after its session did, and keeps no session alive.
- No event loop waits for the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dbshield.errors import DbshieldError
from dbshield.store.schema import APPROVALS_CHANNEL, CHANNEL

LOOK: Final = 1.0
"""Seconds between two looks at what nobody notifies of."""
CHECK: Final = 5.0
"""Seconds between two looks at whether the session still is one."""
GATHER: Final = 0.2
"""Seconds in which notices become one look."""
RETRY: Final = 1.0
"""Seconds between two attempts to reach the control database."""
SILENCE: Final = 15.0
"""Seconds after which something is sent in any case: middleboxes forget quiet connections after thirty or more."""
STREAMS_MOST: Final = 300

OVER: Final = (
    '<div class="notice warn" role="alert"><p><b>Your session is over.</b> <a href="">Sign in again</a> to go on.</p></div>'
)

Look = Callable[[], Awaitable[str]]
"""A part of a page as it looks now; empty while the page shall keep what it has."""


class Live:
    """What open pages wait on. `run` is for the lifespan of the application."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: set[asyncio.Event] = set()
        self._ended = False
        self._log: Any = structlog.get_logger("dbshield.console")

    def end(self) -> None:
        """Ends every stream."""
        self._ended = True
        self._tell()

    async def run(self) -> None:
        """Hears of changes until it is cancelled."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, connect_timeout=10, application_name="dbshield console"
                )
                async with connection:
                    for channel in (APPROVALS_CHANNEL, CHANNEL):
                        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                    # What came to be before somebody listened.
                    self._tell()
                    async for _ in connection.notifies():
                        self._tell()
            except psycopg.Error as error:
                self._log.warning("the console hears of no changes", why=str(error).strip().splitlines()[0])
            self._tell()
            await asyncio.sleep(RETRY)

    async def follow(
        self, request: Request, parts: Mapping[str, Look], *, valid: Callable[[], Awaitable[bool]], every: float | None = None
    ) -> Response:
        """A stream of these parts, by the name of their event. With `every` they are looked at each so many seconds as well."""
        if len(self._waiting) >= STREAMS_MOST:
            return Response(status_code=503, headers={"Retry-After": "30"})
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(parts, valid, every), media_type="text/event-stream", headers=headers)

    async def _events(
        self, parts: Mapping[str, Look], valid: Callable[[], Awaitable[bool]], every: float | None
    ) -> AsyncIterator[str]:
        changed = asyncio.Event()
        self._waiting.add(changed)
        loop = asyncio.get_running_loop()
        sent: dict[str, str] = {}
        last = checked = loop.time()
        yield "retry: 2000\n\n"
        try:
            while not self._ended:
                changed.clear()
                for name, look in parts.items():
                    try:
                        text = await look()
                    except DbshieldError:
                        # The page keeps what it has; it is asked for again in a moment.
                        continue
                    if sent.get(name, "") != text:
                        sent[name] = text
                        last = loop.time()
                        yield event(name, text)
                patience = min(CHECK, every or CHECK)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), patience)
                    await asyncio.sleep(GATHER)
                now = loop.time()
                if now - checked >= CHECK:
                    checked = now
                    if not await self._holds(valid):
                        yield event("over", OVER)
                        return
                if now - last >= SILENCE:
                    last = now
                    yield ": still here\n\n"
        finally:
            self._waiting.discard(changed)

    @staticmethod
    async def _holds(valid: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await valid()
        except DbshieldError:
            # Nothing can be shown meanwhile either.
            return True

    def _tell(self) -> None:
        for each in self._waiting:
            each.set()


def event(name: str, text: str) -> str:
    """One event. Lines are what the format is made of, so each of the text's has its own `data`."""
    lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n"
