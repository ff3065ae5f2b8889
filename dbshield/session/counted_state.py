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
        "separate",
        "transactions",
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
        """Whether the transaction has failed or was rolled back since the last ReadyForQuery, or since `changed` was told."""
        self.in_flight = 0
        """The rows that counted statements may have changed of which the server has not told yet."""
        self.transactions = 0
        """The transactions that they may be spread over: each may change `max_rows`."""
        self.separate = False
        """Whether the next counted statement may stand in another transaction than what was sent before it."""
        self.max_rows = 0
        """What each of them may change at most."""
        self.prepare_next = False
        """Whether the client has forgotten our queries with its own, so that they go out again behind its Sync."""
        self.fault = ""
        """Why the server did not take our queries, in its words."""

    def send(self, max_rows: int, statements: int) -> None:
        """So many counted statements go to the server, each of which may change so many rows."""
        self.max_rows = max_rows
        self.in_flight += max_rows * statements
        if self.separate and not self.transactions and self.changed:
            self.transactions = 1  # the open one, which is committed before the server sees these
        if self.separate or not self.transactions:
            self.transactions += 1
        self.separate = False

    def land(self) -> None:
        """The server has answered all that was sent."""
        self.in_flight = self.transactions = 0
        self.separate = False

    @property
    def pending(self) -> int:
        """The rows that this session may yet change in transactions before that of the last counted statement."""
        return max(0, self.transactions - 1) * self.max_rows

    @property
    def after(self) -> bytes:
        """The messages that go behind the last counted Execute."""
        return self.counter.after(self.max_rows, pending=self.pending)

    def wrap(self, text: bytes, judgement: Judgement) -> Wrapped:
        """The text of a counted Query with our queries in it, which is on its way from here on."""
        wrapped = self.counter.wrap(text, judgement.counted, self.max_rows, statements=judgement.statements, pending=self.pending)
        self.transactions += wrapped.commits
        self.wrapped.append(wrapped)
        return wrapped

    @property
    def is_over(self) -> bool:
        """Whether nothing of what the server may answer next is about a counted statement or its transaction."""
        return self.phase is Phase.CLIENTS and not self.changed
