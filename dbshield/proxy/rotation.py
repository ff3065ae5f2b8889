"""Connects as an agent's role, also in the moment in which the role's password is exchanged.

`dbshield agent rotate` changes the password on the server and in the control database, one a few milliseconds behind the other,
and each proxy hears of it a moment later. Whoever logs in just then holds the wrong one of the two; it is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from dbshield.errors import DbshieldError, Refused
from dbshield.model import AgentLogin, Upstream
from dbshield.proxy import upstream

INVALID_PASSWORD: Final = "28P01"  # noqa: S105 - a SQLSTATE
PAUSES: Final = (0.2, 0.8, 2.0)
"""Seconds before each further try. A proxy hears of a change within a tenth of a second (control/directory.py); the last one is
for a machine that has so much to do that `dbshield agent rotate` stands still between its two changes."""

Find = Callable[[str], AgentLogin | None]
"""The agent of a user name as it is known now; raises DbshieldError while nothing can be known."""


async def connect(find: Find, login: AgentLogin, *, database: str, settings: Mapping[str, str]) -> upstream.Server:
    """As `upstream.connect`. Raises Refused, the first one where none of the passwords is right."""
    try:
        return await upstream.connect(login.upstream, database=database, settings=settings)
    except Refused as error:
        if error.sqlstate != INVALID_PASSWORD:
            raise
        first = error
    for pause in PAUSES:
        await asyncio.sleep(pause)
        try:
            return await upstream.connect(newest(find, login), database=database, settings=settings)
        except Refused as error:
            if error.sqlstate != INVALID_PASSWORD:
                raise
    raise first


def newest(find: Find, login: AgentLogin) -> Upstream:
    """How the agent reaches the server by what is known now; as it did, where it is gone or nothing can be known."""
    try:
        current = find(login.user)
    except DbshieldError:
        return login.upstream
    return current.upstream if current is not None else login.upstream
