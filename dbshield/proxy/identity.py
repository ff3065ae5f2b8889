"""No session with a server that is not its environment's: every server connection is asked which cluster it is, once.

Laws:
- What the guard in the database says, and what was pinned, must both fit. A server that does not tell is refused.
- Trust on first use only where nothing is pinned, and the cluster is not known to be another environment's. It is logged and
  audited, and holds in this process at once, whether the control database can be told or not.
- A pin is exchanged by a human alone (`dbshield environment pin`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dbshield.errors import Refused
from dbshield.guard.identity import IDENTITY_QUERY, WRONG_SERVER, Identity, read_identity
from dbshield.proxy import upstream

NO_RIGHT: Final = "42501"


async def ask(server: upstream.Server) -> Identity:
    """Which cluster this idle server is. Raises Refused where it does not tell."""
    try:
        rows = await upstream.query(server, IDENTITY_QUERY)
    except Refused as error:
        if error.sqlstate != NO_RIGHT:
            raise
        raise Refused(
            "the server does not tell the agent's role which cluster it is",
            sqlstate=WRONG_SERVER,
            hint="Tell whoever runs it: grant execute on function pg_catalog.pg_control_system() to the role.",
        ) from error
    return read_identity(rows)


class Identities:
    """What is known of the environments' clusters. `pins` is the control database's word; `first_use` is told of each that this
    process was the first to see."""

    def __init__(self, pins: Callable[[], Mapping[str, int]], first_use: Callable[[str, int], None]) -> None:
        self._pins = pins
        self._first_use = first_use
        self._seen: dict[str, int] = {}

    def check(self, environment: str, found: Identity) -> None:
        """Raises Refused where a server is not the one of this environment."""
        if found.environment not in {"", environment}:
            raise _wrong(environment, f"is configured with the address of a server that says it is {found.environment}")
        known = {**self._seen, **self._pins()}
        pinned = known.get(environment)
        if pinned == found.system_identifier:
            return
        others = sorted(name for name, identifier in known.items() if identifier == found.system_identifier)
        if others:
            raise _wrong(environment, f"is configured with the address of the server of {' and '.join(others)}")
        if pinned is not None:
            raise _wrong(environment, f"is the cluster {pinned}, and at its address is the cluster {found.system_identifier} now")
        self._seen[environment] = found.system_identifier
        self._first_use(environment, found.system_identifier)


def _wrong(environment: str, what: str) -> Refused:
    return Refused(
        f"environment {environment} {what}",
        sqlstate=WRONG_SERVER,
        hint="Nothing was executed. Tell whoever runs dbshield: correct upstream, or, where this server is meant, run"
        f" `dbshield environment pin {environment}`.",
    )
