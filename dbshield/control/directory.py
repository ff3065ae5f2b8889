"""Every agent and its tokens, and every freeze, in the memory of a proxy, as fresh as the control database's last commit.

One connection listens for the notices that the control database's triggers send; each notice, however many come at once, leads to
one load of everything. A login therefore never waits for the control database.

Laws:
- While the connection is lost, agents are found as they were known last, for `grace` seconds and no longer; then `find` raises.
  Who was revoked meanwhile cannot be known. A token that expires is over all the same: whoever checks a proof reads the clock.
- A load of agents is one query in one snapshot, and replaces what was known in one step.
- What was frozen stays frozen while the connection is lost, even past its end: a longer freeze may have come meanwhile.
- An agent whose password cannot be read is not found, under a log line of its own; the others are.

Source: PostgreSQL manual, LISTEN and NOTIFY (a listener that starts first and reads then misses nothing).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import psycopg
import structlog
from psycopg.rows import class_row, scalar_row

from dbshield.config import EnvironmentConfig
from dbshield.control.logins import Upstreams, login_of, tokens_in
from dbshield.control.vault import Vault
from dbshield.errors import DbshieldError, StoreError, first_line
from dbshield.model import AccessLevel, AgentLogin, TokenVerifier
from dbshield.store.database import REVISION_QUERY, Revision
from dbshield.store.frozen import UNLIFTED_FREEZES, Freeze, longest
from dbshield.store.living import LIVING_AGENTS, PINNED_CLUSTERS, LivingRow
from dbshield.store.schema import CHANNEL

APPLICATION_NAME = "dbshield directory"
"""What pg_stat_activity shows of the connection."""
CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to the control database; a proxy that cannot know refuses rather sooner than later."""
QUERY_TIMEOUT = 5.0
"""Seconds for a load or a look whether the connection lives."""
POLL = 3.0
"""Seconds between two looks at a silent connection; a server that vanished without a word is noticed after it."""
GATHER = 0.05
"""Seconds in which further notices join the first one, so that a script that makes a thousand agents causes few loads."""
SOON = 0.01
"""Seconds to wait at least, where a freeze ends about now."""
RETRY_FIRST = 0.1
RETRY_MOST = 2.0
"""Seconds between two attempts to come back."""

KEEPALIVE: dict[str, Any] = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
"""libpq's words; a dead peer is noticed within about ten seconds even where nothing is sent."""

Connection = psycopg.AsyncConnection[Any]

log = structlog.get_logger(__name__)


class Directory:
    """Finds the agent behind a login's user name. One for each process; `start` and `stop` in that process's event loop.

    `grace` is for how many seconds agents are still found after the control database went away.
    """

    def __init__(
        self,
        *,
        control_dsn: str,
        environments: Mapping[str, EnvironmentConfig],
        vault: Vault,
        grace: float = 0.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dsn = control_dsn
        self._clock = clock
        self._environments = environments
        self._vault = vault
        self._grace = grace
        self._lost_at: float | None = None
        self._logins: dict[str, AgentLogin] = {}
        self._tokens: dict[str, TokenVerifier] = {}
        self._agents: dict[str, AccessLevel] = {}
        self._pins: dict[str, int] = {}
        self._unreadable: dict[str, str] = {}
        self._rows: list[LivingRow] = []
        self._freezes: list[Freeze] = []
        self._frozen: dict[str, Freeze] = {}
        self._available = False
        self._callbacks: list[Callable[[], None]] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """False while the connection to the control database is lost, before `start` and after `stop`."""
        return self._available

    def find(self, user: str) -> AgentLogin | None:
        """The agent that logs in as `agent.environment`; nothing where there is none. StoreError while nothing can be known."""
        if not self._available and not self._remembers:
            raise StoreError(
                "the control database does not answer", hint="Try again in a moment; no agent can log in until it is back."
            )
        return self._logins.get(user)

    @property
    def _remembers(self) -> bool:
        """Whether what was known last is still believed."""
        return self._lost_at is not None and time.monotonic() - self._lost_at < self._grace

    def token(self, token_id: str) -> TokenVerifier | None:
        """A token that nobody has revoked, of an agent that is there, in an environment that is configured; it may have expired.

        Never raises: while the connection is lost it says what was known last.
        """
        return self._tokens.get(token_id)

    def access(self, user: str) -> AccessLevel | None:
        """The level of the agent that logs in under this name; nothing where it is there no more. Never raises, as `token`."""
        return self._agents.get(user)

    def serves(self, environment: str) -> bool:
        """Whether an environment is configured here."""
        return environment in self._environments

    def databases(self, environment: str) -> Sequence[str]:
        """The databases that agents of an environment may use; none where it is not configured here."""
        return self._environments[environment].databases if environment in self._environments else ()

    @property
    def pins(self) -> Mapping[str, int]:
        """The system identifier of the cluster that each environment was seen to be; replaced, never changed."""
        return self._pins

    def frozen(self, environment: str, agent: str | None = None) -> Freeze | None:
        """The freeze that was put on an environment or on this agent of it, the one that holds longest of several; nothing
        where there is none.

        Never raises: while the connection is lost it says what was known last.
        """
        found = [self._frozen[whom] for whom in (environment, f"{agent}.{environment}") if whom in self._frozen]
        return longest(found) if found else None

    @property
    def freezes(self) -> Mapping[str, Freeze]:
        """What is frozen, by `Freeze.whom`, with the freeze that holds longest; replaced, never changed."""
        return self._frozen

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back after every load that changed something, when a freeze ends, and when `available` changes."""
        self._callbacks.append(callback)

    def reconfigure(self, environments: Mapping[str, EnvironmentConfig]) -> None:
        """Other settings, or the same with other passwords in their files. At once: agents of every environment are in memory."""
        self._environments = environments
        self._publish(self._rows)

    async def start(self) -> None:
        """The first load, and from then on every change. StoreError where the first load fails."""
        try:
            self._connection = await self._connect()
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise StoreError(
                f"the control database does not answer: {first_line(error)}", hint="Look at [control] url, and at the server."
            ) from error
        self._task = asyncio.create_task(self._stay(), name="directory")

    async def stop(self) -> None:
        """Nobody is found any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._close()
        self._set_available(False)
        self._lost_at = None

    async def _stay(self) -> None:
        """Follows the connection, and finds a new one whenever it is lost, until the task is cancelled."""
        pause = RETRY_FIRST
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                    log.info("directory.back", agents=len(self._logins))
                    pause = RETRY_FIRST
                await self._follow(self._connection)
            except (psycopg.Error, OSError, TimeoutError, DbshieldError) as error:
                self._lost(first_line(error))
            except Exception:
                # A bug. A task that died of it would leave yesterday's agents in force for ever.
                log.exception("directory.bug")
                self._lost("a bug in dbshield")
            await self._close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MOST)

    async def _connect(self) -> Connection:
        """A connection that listens, and the first load over it."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=int(CONNECT_TIMEOUT), **KEEPALIVE
            )
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                # Before the first load: what commits in between is then noticed.
                await connection.execute(f"listen {CHANNEL}")
                await _require_revision(connection)
                await self._load(connection)
        except BaseException:
            await connection.close()
            raise
        self._set_available(True)
        return connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _follow(self, connection: Connection) -> None:
        """Loads after every notice. Ends only with an error or a cancellation."""
        while True:
            noticed = await _wait_for_notice(connection, min(POLL, self._next_end()))
            if noticed:
                await asyncio.sleep(GATHER)
                await _wait_for_notice(connection, 0.0)
            async with self._in_time():
                if noticed:
                    await self._load(connection)
                else:
                    await connection.execute("select")
                    self._freeze(self._freezes)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Unavailable from the deadline on: psycopg takes its time to cancel a query whose server is gone."""
        late = asyncio.get_running_loop().call_later(QUERY_TIMEOUT, self._lost, "it does not answer in time")
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                yield
        finally:
            late.cancel()

    async def _load(self, connection: Connection) -> None:
        async with connection.cursor(row_factory=class_row(Freeze), binary=True) as cursor:
            await cursor.execute(UNLIFTED_FREEZES)
            self._freeze(await cursor.fetchall())
        async with connection.cursor(binary=True) as pinned:
            await pinned.execute(PINNED_CLUSTERS)
            self._pins = dict(await pinned.fetchall())
        async with connection.cursor(row_factory=class_row(LivingRow), binary=True) as cursor:
            await cursor.execute(LIVING_AGENTS)
            self._publish(await cursor.fetchall())

    def _publish(self, rows: list[LivingRow]) -> None:
        """Replaces what is known, in one step."""
        self._rows = rows
        logins: dict[str, AgentLogin] = {}
        tokens: dict[str, TokenVerifier] = {}
        agents: dict[str, AccessLevel] = {}
        unreadable: dict[str, str] = {}
        upstreams = {name: Upstreams(environment, self._vault) for name, environment in self._environments.items()}
        for _, group in groupby(rows, key=lambda row: row.id):
            of_agent = list(group)
            first = of_agent[0]
            if first.environment not in upstreams:
                continue
            user = f"{first.name}.{first.environment}"
            agents[user] = AccessLevel(first.access)
            of_this = tokens_in(of_agent)
            tokens.update((token.token_id, token) for token in of_this)
            try:
                upstream = upstreams[first.environment].of(first)
            except DbshieldError as error:
                unreadable[user] = error.message
                continue
            logins[user] = login_of(first, of_this, self._environments[first.environment], upstream)
        for user, reason in unreadable.items():
            if self._unreadable.get(user) != reason:
                log.error("directory.agent_left_out", user=user, reason=reason)
        changed = logins != self._logins or tokens != self._tokens
        self._logins, self._unreadable, self._tokens, self._agents = logins, unreadable, tokens, agents
        if changed:
            self._tell()

    def _freeze(self, freezes: list[Freeze]) -> None:
        """Takes the freezes that hold now, of all that nobody lifted."""
        now = self._clock()
        self._freezes = [freeze for freeze in freezes if freeze.in_force(now)]
        frozen: dict[str, Freeze] = {}
        for freeze in self._freezes:
            known = frozen.get(freeze.whom)
            frozen[freeze.whom] = freeze if known is None else longest((known, freeze))
        if frozen != self._frozen:
            self._frozen = frozen
            self._tell()

    def _next_end(self) -> float:
        """Seconds until the first freeze ends."""
        now = self._clock()
        ends = ((freeze.until - now).total_seconds() for freeze in self._freezes if freeze.until is not None)
        return max(SOON, min(ends, default=POLL))

    def _lost(self, reason: str) -> None:
        if self._available:
            log.error("directory.lost", reason=reason, logins_from_memory_for=f"{self._grace:g} s")
        self._set_available(False)

    def _set_available(self, available: bool) -> None:
        if available != self._available:
            self._available = available
            self._lost_at = None if available else time.monotonic()
            self._tell()

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()


async def _require_revision(connection: Connection) -> None:
    async with connection.cursor(row_factory=scalar_row) as cursor:
        try:
            await cursor.execute(REVISION_QUERY)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            Revision(current=None).require()
        else:
            Revision(current=await cursor.fetchone()).require()


async def _wait_for_notice(connection: Connection, seconds: float) -> bool:
    """Whether a notice came within so many seconds; takes all that are there."""
    noticed = False
    async with aclosing(connection.notifies(timeout=seconds, stop_after=1)) as notices:
        async for _ in notices:
            noticed = True
    return noticed
