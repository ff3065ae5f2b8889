"""One judge for each environment, database and policy, so that its cache serves all their sessions.

A judge knows the functions of its database, read from the server's catalogue by the first session that needs them and again
when what is known is old. An unchanged catalogue keeps its judge, and so its cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dbshield.model import AgentLogin
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy import upstream
from dbshield.proxy.upstream import Server

CATALOGUE_AGE: Final = 30.0
"""Seconds for which a new session takes the functions as they were read."""

Rows = list[tuple[str | None, ...]]


@dataclass(slots=True)
class _Known:
    """What is known of one database."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_at: float = float("-inf")
    rows: Rows = field(default_factory=list)
    functions: FunctionCatalogue | None = None
    judges: dict[Policy, Judge] = field(default_factory=dict)


class Judges:
    """`make` builds a judge; `policy_of` tells the policy that holds now for an agent's login."""

    def __init__(self, make: Callable[[Policy, FunctionCatalogue], Judge], policy_of: Callable[[AgentLogin], Policy]) -> None:
        self._make = make
        self._policy_of = policy_of
        self._known: dict[tuple[str, str], _Known] = {}

    async def judge(self, login: AgentLogin, database: str, server: Server) -> Judge:
        """The judge for a session; asks `server` for its functions where needed. Raises Refused when it does not tell."""
        known = self._known.setdefault((login.environment, database), _Known())
        now = asyncio.get_running_loop().time()
        if known.functions is None or now - known.read_at > CATALOGUE_AGE:
            async with known.lock:
                if known.functions is None or now - known.read_at > CATALOGUE_AGE:
                    await self._read(known, server)
        assert known.functions is not None
        policy = self._policy_of(login)
        judge = known.judges.get(policy)
        if judge is None:
            judge = known.judges[policy] = self._make(policy, known.functions)
        return judge

    async def _read(self, known: _Known, server: Server) -> None:
        rows = await upstream.query(server, CATALOGUE_QUERY)
        if known.functions is None or rows != known.rows:
            known.functions = FunctionCatalogue.from_rows(rows)
            known.rows = rows
            known.judges.clear()
        known.read_at = asyncio.get_running_loop().time()

    def clear(self) -> None:
        """Forget everything, after the configuration changed."""
        self._known.clear()
