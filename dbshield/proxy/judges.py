"""One judge for each environment, database and access level, so that its cache serves all their sessions.

A judge knows the functions of its database, read from the server's catalogue by the first session that needs them and again
when what is known is old. An unchanged catalogue keeps its judge, and so its cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dbshield.model import AccessLevel, AgentLogin
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
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
    judges: dict[AccessLevel, Judge] = field(default_factory=dict)


class Judges:
    """`make` builds a judge from an access level, the environment's name and the functions."""

    def __init__(self, make: Callable[[AccessLevel, str, FunctionCatalogue], Judge]) -> None:
        self._make = make
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
        judge = known.judges.get(login.access)
        if judge is None:
            judge = known.judges[login.access] = self._make(login.access, login.environment, known.functions)
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
