"""What a session knows of its counted statements while they are answered; counted.py acts on it."""

from __future__ import annotations

from collections import deque
from enum import IntEnum, unique

from dbshield.model import Judgement
from dbshield.session.counting import RowCounter, Wrapped


@unique
class Phase(IntEnum):
    """Where in the answers the session stands."""

    CLIENTS = 0
    """Answers to what is not counted."""
    BEFORE = 1
    """Answers to our query before the statement."""
    COUNTED = 2
    """Answers to the counted statement."""
    KEPT = 3
    """Its CommandComplete is kept back."""
    AFTER = 4
    """Answers to our query behind it."""
    EARLY = 5
    """Answers to our query before a Parse or Bind that is counted."""
    TAKEN = 6
    """Answers to that Parse or Bind."""


class Counting:
    """What a session knows of its counted statements. `changed` has the rows by table that the open transaction has changed."""

    __slots__ = (
        "changed",
        "copy_waits",
        "counter",
        "described",
        "extended",
        "failed",
        "fault",
        "in_flight",
        "kept",
        "max_rows",
        "phase",
        "portals",
        "prepare_next",
        "wrapped",
    )

    def __init__(self, counter: RowCounter) -> None:
        self.counter = counter
        self.phase = Phase.CLIENTS
        self.extended = False
        """Whether ours that is being answered was sent in the extended protocol."""
        self.described = b""
        """A ParameterDescription that may be ours: the RowDescription behind it tells."""
        self.kept = b""
        """The CommandComplete that the client does not have yet."""
        self.portals: dict[bytes, Judgement] = {}
        self.copy_waits: Judgement | None = None
        """The counted COPY whose data is still to come; our query cannot go out before its end."""
        self.wrapped: deque[Wrapped] = deque()
        """The texts on their way to the server, for the positions in its errors."""
        self.changed: dict[str, int] = {}
        self.failed = False
        """Whether the transaction has failed or was rolled back since the last ReadyForQuery."""
        self.in_flight = 0
        """The rows that counted statements may have changed of which the server has not told yet."""
        self.max_rows = 0
        """What each of them may change at most."""
        self.prepare_next = False
        """Whether the client has forgotten our queries with its own, so that they go out again behind its Sync."""
        self.fault = ""
        """Why the server did not take our queries, in its words."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of what the server may answer next is about a counted statement or its transaction."""
        return self.phase is Phase.CLIENTS and not self.changed
