"""One judge for each protected database and policy, so that its cache serves all the sessions that share them.

A judge knows the functions of its database, read from the server's catalogue by the first session that needs them and again
when what is known is old. An unchanged catalogue keeps its judges, and so their caches.

Law: a session that stands is judged by the policy that holds now, not by the one of its login. What a reload, a freeze, its end
or the catalogue changes reaches it through `follow`, which gives its relay another judge. A session whose policy cannot be told
is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Final

from dbshield.errors import DbshieldError, Refused
from dbshield.model import AgentLogin, Judgement
from dbshield.policy.functions import CATALOGUE_QUERY, Function, FunctionCatalogue
from dbshield.policy.judge import CACHE_BYTES, Judge
from dbshield.policy.made import Made, makes, meet, used_in
from dbshield.policy.policy import Policy
from dbshield.policy.reaching import ROWS
from dbshield.proxy import upstream
from dbshield.proxy.sessions import Session
from dbshield.proxy.upstream import Server

CATALOGUE_AGE: Final = 30.0
"""Seconds for which a new session takes the functions as they were read."""
CACHES_BYTES: Final = 8 * CACHE_BYTES
"""What the verdicts of all judges of a worker may hold of memory."""
JUDGES_KEPT: Final = 16
"""Judges of one database that are kept although no session uses them: those of policies that come back, as after a freeze."""

Rows = list[tuple[str | None, ...]]
Key = tuple[str, str, str, int]
"""Environment, database, and the server's host and port: a reload may name another server."""


@dataclass(slots=True)
class _Known:
    """What is known of one database. `created` are functions that its sessions create, until the catalogue shows them, `made` the
    names of relations that they make or change."""

    key: Key
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_at: float = float("-inf")
    rows: Rows = field(default_factory=list)
    functions: FunctionCatalogue | None = None
    judges: dict[Policy, Judge] = field(default_factory=dict)
    created: dict[str, Function] = field(default_factory=dict)
    made: Made = field(default_factory=Made)


class Judges:
    """`make` builds a judge, `policy_of` tells the policy that holds now for an agent's login or raises DbshieldError, `standing`
    gives the sessions that stand."""

    def __init__(
        self,
        make: Callable[[Policy, FunctionCatalogue], Judge],
        policy_of: Callable[[AgentLogin], Policy],
        standing: Callable[[], Iterable[Session]],
    ) -> None:
        self._make = make
        self._policy_of = policy_of
        self._standing = standing
        self._known: dict[Key, _Known] = {}
        self.on_redefined: Callable[[Key], None] = lambda key: None
        """Called with the database in which a statement passes that changes functions."""

    async def judge(self, login: AgentLogin, database: str, server: Server) -> Judge:
        """The judge for a new session; asks `server` for its functions where needed. Raises Refused when it does not tell."""
        known = self._get(login, database)
        now = asyncio.get_running_loop().time()
        if known.functions is None or now - known.read_at > CATALOGUE_AGE:
            async with known.lock:
                if known.functions is None or now - known.read_at > CATALOGUE_AGE:
                    rows = await upstream.query(server, CATALOGUE_QUERY)
                    # What was read meanwhile may be newer, and be what a name of `made` was forgotten for.
                    if known.functions is None or known.read_at < now:
                        self._take(known, rows)
        # Nothing is waited for from here until the session stands, so no change can pass it by.
        return self._judge(known, self._policy_of(login))

    def learn(self, login: AgentLogin, database: str, rows: Rows) -> bool:
        """Take the rows of CATALOGUE_QUERY on this database, asked for after the last ones were taken. Sessions that stand follow
        where they tell anything new."""
        known = self._get(login, database)
        told = self._settle(known)
        if self._take(known, rows):
            return True
        if told:
            self._anew(known, told)
        return False

    def _settle(self, known: _Known) -> Set[str]:
        """The names of relations that nobody need keep in mind any longer."""
        if not known.made.names:
            return frozenset()
        relays = [session.pair.relay for session in self._sessions(known)]
        prepared = [makes(judgement) for relay in relays for judgement in relay.prepared.values()]
        return known.made.settle({id(relay) for relay in relays if not relay.idle}, frozenset().union(*prepared))

    def _take(self, known: _Known, rows: Rows) -> bool:
        known.read_at = asyncio.get_running_loop().time()
        if known.functions is not None and rows == known.rows:
            return False
        functions = FunctionCatalogue.from_rows(rows)
        before, known.rows = known.rows, rows
        if known.functions is not None and known.functions.reach == functions.reach and _same(before, rows):
            return False
        known.functions = functions
        known.judges.clear()
        self.follow()
        return True

    def age(self, login: AgentLogin, database: str) -> float:
        """Seconds since the catalogue of this database was read."""
        return asyncio.get_running_loop().time() - self._get(login, database).read_at

    def forget(self, login: AgentLogin, database: str) -> None:
        """Take every function of this database for unknown; new sessions read them again."""
        known = self._get(login, database)
        self._take(known, [])
        known.read_at = float("-inf")

    def _get(self, login: AgentLogin, database: str) -> _Known:
        key = key_of(login, database)
        return self._known.setdefault(key, _Known(key))

    def renew(self, max_statement_bytes: int) -> None:
        """The configuration changed: new sessions read the catalogue again, since the server may be another one."""
        for known in self._known.values():
            known.read_at = float("-inf")
            for judge in known.judges.values():
                judge.limit_length(max_statement_bytes)
        self.follow()

    def __iter__(self) -> Iterator[tuple[str, Judge]]:
        """Every judge with its environment."""
        return ((known.key[0], judge) for known in self._known.values() for judge in known.judges.values())

    def follow(self) -> None:
        """Have every session that stands judged by the policy that holds now. Never raises."""
        judges: dict[tuple[str, str, Key], Judge] = {}
        for session in list(self._standing()):
            login = session.login
            key = key_of(login, session.database)
            who = (login.agent, login.access.value, key)
            try:
                judge = judges.get(who)
                if judge is None:
                    judge = judges[who] = self._judge(self._known[key], self._policy_of(login))
                if session.pair.relay.judge is not judge:
                    session.pair.relay.use(judge)
            except DbshieldError as error:
                session.pair.end(error.message, error, sqlstate=ENDED)
            except Exception as error:  # noqa: BLE001 - a bug must end the session, not leave it with yesterday's policy
                session.pair.end(f"bug in following a policy: {error!r}", _untold(), sqlstate=ENDED)

    def _judge(self, known: _Known, policy: Policy) -> Judge:
        judge = known.judges.get(policy)
        if judge is None:
            assert known.functions is not None
            if len(known.judges) >= JUDGES_KEPT:
                used = {id(session.pair.relay.judge) for session in self._standing()}
                known.judges = {old: kept for old, kept in known.judges.items() if id(kept) in used}
            judge = known.judges[policy] = self._make(policy, known.functions)
            judge.share(known.created, known.made)
            judge.on_redefined = lambda: self.on_redefined(known.key)
            judge.on_made = lambda names: self._anew(known, names)
            self._share_memory()
        return judge

    def _anew(self, known: _Known, names: Set[str]) -> None:
        """Have every INSERT into relations of these names judged anew, in every session of the database, and what reads them
        where that may change rows."""
        for judge in known.judges.values():
            judge.forget(names)
        reads = known.functions is not None and known.functions.reaches
        met: dict[int, tuple[Judgement, bool]] = {}
        for session in self._sessions(known):
            relay = session.pair.relay
            if meet(names, relay.prepared.inserts.names) or (reads and any(_meets(names, relay.prepared.values(), met))):
                relay.use(relay.judge)

    def _sessions(self, known: _Known) -> list[Session]:
        return [session for session in self._standing() if key_of(session.login, session.database) == known.key]

    def _share_memory(self) -> None:
        """However many policies there are, the worker keeps no more verdicts."""
        judges = [judge for known in self._known.values() for judge in known.judges.values()]
        for judge in judges:
            judge.bound(min(CACHE_BYTES, CACHES_BYTES // len(judges)))


ENDED: Final = "57P01"
"""admin_shutdown: the session is over by no fault of its client."""


def _same(before: Rows, rows: Rows) -> bool:
    """Whether two readings differ at most in what `Reach` is made of, as they do with every view that somebody makes."""
    return [row for row in before if row[0] not in ROWS] == [row for row in rows if row[0] not in ROWS]


def _meets(names: Set[str], judgements: Iterable[Judgement], met: dict[int, tuple[Judgement, bool]]) -> Iterator[bool]:
    """Whether each uses a relation of these names. Sessions share their judgements, so `met` keeps what was found by identity."""
    for judgement in judgements:
        found = met.get(id(judgement))
        if found is None:
            found = met[id(judgement)] = judgement, meet(names, used_in(judgement))
        yield found[1]


def _untold() -> Refused:
    return Refused("dbshield cannot tell the policy of this session", sqlstate=ENDED, hint="Reconnect.")


def key_of(login: AgentLogin, database: str) -> Key:
    """What the sessions of one database have in common."""
    return login.environment, database, login.upstream.host, login.upstream.port
