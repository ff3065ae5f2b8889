"""Where the audit's entries are kept now, and what is told to who cannot go on for it."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final

from dbshield.errors import Refused

CANNOT_CONNECT_NOW: Final = "57P03"


@unique
class Keeping(StrEnum):
    """Where entries are kept now."""

    DATABASE = "database"
    DISK = "disk"
    NOWHERE = "nowhere"


def refused(keeping: Keeping) -> Refused:
    """For a session that waits for its entry, or may not begin."""
    if keeping is Keeping.NOWHERE:
        return Refused(
            "the audit can be kept nowhere, so no session goes on",
            sqlstate=CANNOT_CONNECT_NOW,
            hint="Tell whoever runs dbshield: its control database is away, and the audit's spool or its disk is full.",
        )
    return Refused(
        "the audit's database is away, so what may write was not sent to the server",
        sqlstate=CANNOT_CONNECT_NOW,
        hint="Reconnect and look whether your transaction is there: what was not committed is rolled back. Try again later.",
    )
