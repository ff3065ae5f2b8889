"""Keeps what is known of a database's functions fresh while agents have sessions in it.

One connection of dbshield's own for each database, in the role of one of its sessions, reads the catalogue again when the server
notifies it (sql/catalogue_notify.sql), soon after a statement passed here that changes functions or what calls them, and every
AGE seconds whatever happens. What has changed reaches the sessions that stand through `Judges.learn`.

Law: what cannot be read for STALE seconds is forgotten, so that every function of the database counts as unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from dbshield.errors import DbshieldError, Refused
from dbshield.guard.identity import IDENTITY_QUERY, Identity, read_identity
from dbshield.model import AgentLogin
from dbshield.policy.functions import CATALOGUE_QUERY
from dbshield.proxy import upstream
from dbshield.proxy.judges import Judges, Key, Rows, key_of
from dbshield.proxy.rotation import Find, newest
from dbshield.wire.backend import DataRow, ErrorResponse, NotificationResponse, ReadyForQuery, decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import Query, Terminate

CHANNEL: Final = "dbshield_catalogue"
"""What sql/catalogue_notify.sql notifies."""
APPLICATION_NAME: Final = "dbshield catalogue"
"""How the connection shows in pg_stat_activity."""
AGE: Final = 30.0
"""Seconds after which the catalogue is read again in any case."""
STALE: Final = 300.0
"""Seconds after which a catalogue that cannot be read is not believed any more: ten times AGE, so that a restart or a failover of
the server passes."""
BRIEF: Final = 1.0
"""Seconds that a database's first session must stand; what is over before needs no connection beside it."""
SETTLE: Final = 0.1
"""Seconds between a notification and the reading; a migration sends many in a row."""
REST: Final = 4.0
"""Between two readings lies so many times what the first one took: a large catalogue takes a while, and anybody may notify."""
AFTER_STATEMENT: Final = (0.2, 1.0, 5.0)
"""Seconds from the judgement of a statement to the readings after it, which nobody tells when it commits."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries to reach a server, at most."""
ASKING: Final = 30.0
"""Seconds that a login or an answer of the server may take."""

Meets = Callable[[str, Identity], None]


class Watchers:
    """The databases that are watched, each for as long as it has a session."""

    def __init__(
        self, judges: Judges, log: Any, find: Find = lambda _: None, meets: Meets = lambda _environment, _found: None
    ) -> None:
        """`find` is the directory's, since a role's password may have changed since its session began. `meets` raises Refused
        where a server is not the one of an environment."""
        self._judges = judges
        self._log = log
        self._find = find
        self._meets = meets
        self._watched: dict[Key, _Watcher] = {}
        judges.on_redefined = self._redefined

    def join(self, login: AgentLogin, database: str) -> Callable[[], None]:
        """A session begins in this database; what is returned is called once, when it ends."""
        key = key_of(login, database)
        watcher = self._watched.get(key)
        if watcher is None:
            watcher = self._watched[key] = _Watcher(self._judges, self._log, database, self._find, self._meets)
        place = watcher.add(login)

        def leave() -> None:
            if watcher.remove(place):
                self._watched.pop(key, None)

        return leave

    def _redefined(self, key: Key) -> None:
        watcher = self._watched.get(key)
        if watcher is not None:
            watcher.redefined()

    async def stop(self) -> None:
        """End every connection."""
        watched, self._watched = list(self._watched.values()), {}
        await asyncio.gather(*(watcher.stop() for watcher in watched))


class _Watcher:
    """One database."""

    def __init__(self, judges: Judges, log: Any, database: str, find: Find, meets: Meets) -> None:
        self._judges = judges
        self._log = log
        self._find = find
        self._meets = meets
        self._database = database
        self._logins: dict[int, AgentLogin] = {}
        self._places = 0
        self._due: list[float] = []
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    def add(self, login: AgentLogin) -> int:
        self._places += 1
        self._logins[self._places] = login
        return self._places

    def remove(self, place: int) -> bool:
        """Whether that was the last session."""
        self._logins.pop(place, None)
        if self._logins:
            return False
        self._task.cancel()
        return True

    def redefined(self) -> None:
        now = asyncio.get_running_loop().time()
        # However many statements come, none of them puts off the reading that comes next.
        self._due = [*self._due[:1], *(now + delay for delay in AFTER_STATEMENT)]
        self._hurry.set()

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def _login(self) -> AgentLogin:
        """One of the sessions'; the oldest, whose role has proved to work for longest."""
        return next(iter(self._logins.values()))

    async def _watch(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), BRIEF)
        pause = 1.0
        while True:
            login, began = self._login, asyncio.get_running_loop().time()
            try:
                await self._listen(login)
            except (DbshieldError, ConnectionError, TimeoutError) as error:
                self._failed(login, error)
            except Exception:  # noqa: BLE001 - a watcher that died of a bug would leave functions as they were, without a word
                self._log.exception("bug in watching a catalogue", database=self._database)
            if asyncio.get_running_loop().time() - began > LONGEST_PAUSE:
                pause = 1.0
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _failed(self, login: AgentLogin, error: Exception) -> None:
        self._log.warning(
            "the functions of a database are not watched",
            environment=login.environment,
            database=self._database,
            role=login.upstream.user,
            why=str(error) or type(error).__name__,
        )
        if self._judges.age(login, self._database) > STALE:
            self._log.error(
                "the functions of a database could not be read for long, so all of them count as unknown",
                environment=login.environment,
                database=self._database,
            )
            self._judges.forget(login, self._database)

    async def _listen(self, login: AgentLogin) -> None:
        """Read now and whenever it is time, until the connection fails. Raises what ended it."""
        async with asyncio.timeout(ASKING):
            settings = {"application_name": APPLICATION_NAME}
            server = await upstream.connect(newest(self._find, login), database=self._database, settings=settings)
        link = _Link(server)
        try:
            # What another cluster's functions do says nothing of the one that sessions stand with.
            self._meets(login.environment, read_identity(await link.ask(IDENTITY_QUERY)))
            await link.ask(f"listen {CHANNEL}")
            now = asyncio.get_running_loop().time
            while True:
                began = now()
                self._judges.learn(login, self._database, await link.ask(CATALOGUE_QUERY))
                rested = now() + REST * (now() - began)
                await self._wait(link)
                await asyncio.sleep(max(SETTLE, rested - now()))
        finally:
            if not server.inbox.lost:
                server.transport.write(Terminate().encode())
            server.transport.close()

    async def _wait(self, link: _Link) -> None:
        """Until the catalogue is to be read again."""
        now = asyncio.get_running_loop().time()
        self._due = [time for time in self._due if time > now]
        latest = now + AGE
        while not link.notified:
            self._hurry.clear()
            now = asyncio.get_running_loop().time()
            until = min([*self._due, latest])
            if until <= now:
                return
            told = asyncio.ensure_future(link.hear())
            hurried = asyncio.ensure_future(self._hurry.wait())
            try:
                done, _ = await asyncio.wait({told, hurried}, timeout=until - now, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hurried.cancel()
                if not told.done():
                    told.cancel()
                    await asyncio.gather(told, return_exceptions=True)
            if told in done:
                told.result()  # raises where the server is gone
            elif not done:
                return


class _Link:
    """An idle server connection that notifications come on. `notified` is set by one, until the next question."""

    def __init__(self, server: upstream.Server) -> None:
        self._server = server
        self._frames = FrameReader()
        self.notified = False

    async def ask(self, text: str) -> Rows:
        """The rows that the server answers with. Raises Refused, ConnectionError and TimeoutError."""
        self.notified = False
        self._server.transport.write(Query(query=text.encode()).encode())
        rows: Rows = []
        failed: ErrorResponse | None = None
        async with asyncio.timeout(ASKING):
            while True:
                for message in await self._receive():
                    match message:
                        case DataRow(values=values):
                            rows.append(tuple(value if value is None else value.decode() for value in values))
                        case ErrorResponse():
                            failed = message
                        case ReadyForQuery():
                            if failed is not None:
                                raise Refused(failed.message, sqlstate=failed.sqlstate)
                            return rows

    async def hear(self) -> None:
        """Wait until the server says something by itself. Raises ConnectionError, and Refused when it says good-bye."""
        for message in await self._receive():
            if isinstance(message, ErrorResponse):
                raise Refused(message.message, sqlstate=message.sqlstate)

    async def _receive(self) -> list[object]:
        messages: list[object] = [
            decode_backend(frame.code, frame.payload) for frame in self._frames.feed(await self._server.inbox.receive())
        ]
        self.notified = self.notified or any(
            isinstance(message, NotificationResponse) and message.channel == CHANNEL.encode() for message in messages
        )
        return messages
