"""What happens, told to every open page: server-sent events (HTML Living Standard, section 9.2).

One connection to the control database hears of approvals and freezes for all browsers. A notice is never believed: it makes a
page look again. What cannot be heard (statements, which nobody is notified of) is looked at once a second, while a page follows.

Laws:
- A stream sends what a part of a page looks like now, and again when it looks different: a browser that reconnects has missed
  nothing.
- A stream ends soon after its session did, and keeps no session alive.
- What cannot be looked at is said so: a page that shows yesterday's peace is worse than none.
- Nobody takes the streams of all: one person has a share of them.
- No event loop waits for the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dbshield.console.frame import person_of
from dbshield.errors import DbshieldError
from dbshield.store.schema import APPROVALS_CHANNEL, CHANNEL

LOOK: Final = 1.0
"""Seconds between two looks at what nobody notifies of."""
CHECK: Final = 5.0
"""Seconds between two looks at whether the session still is one."""
LATE: Final = 5.0
"""Seconds after which a look that is not over is told of."""
GATHER: Final = 0.2
"""Seconds in which notices become one look."""
RETRY: Final = 1.0
"""Seconds between two attempts to reach the control database."""
SILENCE: Final = 15.0
"""Seconds after which something is sent in any case: middleboxes forget quiet connections after thirty or more."""
STREAMS_MOST: Final = 300
STREAMS_PER_PERSON: Final = 20
"""Open pages of one person, in all their browsers: one more does not follow what happens until another is closed."""

OVER: Final = (
    '<div class="notice warn" role="alert"><p><b>Your session is over.</b> <a href="">Sign in again</a> to go on.</p></div>'
)
AWAY: Final = (
    '<div class="notice bad"><p><b>The control database cannot be reached.</b> '
    "What this page shows is from before, and it follows again by itself.</p></div>"
)

Look = Callable[[], Awaitable[str]]
"""A part of a page as it looks now; empty while the page shall keep what it has."""


class Live:
    """What open pages wait on. `run` is for the lifespan of the application."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: set[asyncio.Event] = set()
        self._open = Counter[str]()
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
        """A stream of these parts, by the name of their event. With `every` they are looked at each so many seconds as well.
        Where there are too many streams of one person, or of all, the answer is 429 or 503."""
        person = person_of(request)
        return _Stream(self, person.name if person is not None else "", self._events(parts, valid, every))

    @contextlib.contextmanager
    def place(self, person: str) -> Iterator[int]:
        """One more stream of this person's while the block runs: 0, or the status that refuses it."""
        if self._open[person] >= STREAMS_PER_PERSON:
            yield 429
        elif self._open.total() >= STREAMS_MOST:
            yield 503
        else:
            self._open[person] += 1
            try:
                yield 0
            finally:
                self._open[person] -= 1
                if not self._open[person]:
                    del self._open[person]

    async def _events(
        self, parts: Mapping[str, Look], valid: Callable[[], Awaitable[bool]], every: float | None
    ) -> AsyncIterator[str]:
        changed = asyncio.Event()
        self._waiting.add(changed)
        loop = asyncio.get_running_loop()
        sent: dict[str, str] = {}
        last = checked = loop.time()
        away = False
        yield "retry: 2000\n\n"
        try:
            while not self._ended:
                changed.clear()
                failed = False
                for name, look in parts.items():
                    looking = asyncio.ensure_future(look())
                    try:
                        if not (await asyncio.wait({looking}, timeout=LATE))[0] and not away:
                            # It hangs, which may take long to become an error.
                            away, last = True, loop.time()
                            yield event("away", AWAY)
                        text = await looking
                    except DbshieldError:
                        # The page keeps what it has; it is asked for again in a moment.
                        failed = True
                        continue
                    finally:
                        looking.cancel()
                    if sent.get(name, "") != text:
                        sent[name] = text
                        last = loop.time()
                        yield event(name, text)
                if failed != away:
                    away, last = failed, loop.time()
                    yield event("away", AWAY if away else "")
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


class _Stream(StreamingResponse):
    """Counted from before its first byte until its connection is over, however that ends."""

    def __init__(self, live: Live, person: str, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._live = live
        self._person = person

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._live.place(self._person) as refused:
            if refused:
                await Response(status_code=refused, headers={"Retry-After": "30"})(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)


def event(name: str, text: str) -> str:
    """One event. Lines are what the format is made of, so each of the text's has its own `data`."""
    lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n"
