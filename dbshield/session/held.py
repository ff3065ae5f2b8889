"""What a session does with a statement that waits for a human.

Laws:
- Nothing of a held text reaches the server from the session, not even to be planned: planning folds constants and may run
  functions. For a Parse of one the server gets an empty statement of that name, so that names, Close and Describe stay the
  server's own work, and a Bind that were ever missed would run nothing.
- A session waits only where the server itself has told that no transaction is open. At the place of the held statement it gets
  what stands for a refusal (docs/decisions/0002-refusal-by-syntax-error.md); the error is kept from the client, and so is the
  ReadyForQuery behind it, until somebody has decided. Then the answer goes out, and the ReadyForQuery with it. So what the client
  sent before is answered first, and the server holds no lock while a human thinks.
- The statement is run elsewhere. So before a human is asked, the server is: what has the session set that decides what the text
  means (terms.py)?
- While it waits, what the client sends is kept as it came, and read when the answer is out.

    simple     Query                                                   stands alone in its message
    extended   [Parse] Bind [Describe portal] Execute [Close] Sync     stands alone before its Sync

What comes in another form is refused at once, and told how to come (docs/decisions/0027-sessions-that-wait.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final

from dbshield.errors import ProtocolError
from dbshield.model import Judgement
from dbshield.session import handlers
from dbshield.session.handlers import HEADER, IDLE, QUERY, SERVER, changed_table, declared
from dbshield.session.terms import Terms, question, read
from dbshield.sqltext.alone import Answer, answer
from dbshield.wire.frontend import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbshield.session.relay import Relay

MAX_HELD_NAMES: Final = 64
MAX_HELD_TEXT: Final = 64 << 10
"""Prepared statements that are held, and bytes of the text of each, that a session remembers."""
TERMINATE: Final = ord("X")

KEPT: Final = b"\0"
"""What the bytes that are kept begin with, so that they are never empty: only then does the session look whether it waits."""

IN_BLOCK: Final = (
    "A human can be asked outside of a transaction block: COMMIT or ROLLBACK, then send it alone in autocommit mode."
)
ALONE: Final = "A human can be asked for a statement that comes alone: in a message of its own, with its own Sync."
ONE_GO: Final = "A human can be asked for it as a simple Query, or as Parse, Bind, Execute and Sync in one go."
DESCRIBED: Final = (
    "Its result cannot be described before a human has decided: send it as a simple Query, without parameters of the protocol."
)
BINARY: Final = "A human can be asked for it when its rows come as text: send it as a simple Query."
OF_SESSION: Final = "No human can be asked for it: only this session could run it."
TEMPORARY: Final = (
    "No human can be asked while this session has temporary objects, whose names may stand for others: DISCARD TEMP, then send it"
    " again."
)
NO_TEXT: Final = "A value that is sent as text has to be UTF-8 without NUL."
TOO_LONG: Final = "No human can be asked for a statement or values of this length."


@unique
class Phase(IntEnum):
    """Where a held statement stands."""

    NONE = 0
    COLLECTING = 1
    """Its Bind has come, its Sync has not."""
    SENT = 2
    """What stands for it is on its way to the server; from here on what the client sends is kept."""
    REACHED = 3
    """The server has come to it."""
    LOOKING = 4
    """The server is ready, and is asked on what terms the session stands."""
    WAITING = 5
    """It has told. The next word is a human's."""
    SKIPPED = 6
    """The server never came to it, because of an error before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value of Bind: the type's OID as Parse gave it (0: left to the server), the format (0 text, 1 binary), the bytes."""

    type: int
    format: int
    value: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStatement:
    """What a human is asked for, and the form in which the client wants its answer. `parameters` is None for a simple query, and
    `terms` where the server did not tell them; then nobody can be asked."""

    text: bytes = field(repr=False)
    parameters: tuple[Parameter, ...] | None = field(default=None, repr=False)
    judgement: Judgement
    described: bool = False
    """Whether the portal's columns were asked for."""
    closed: int = 0
    """Close messages for its portal that want an answer."""
    terms: Terms | None = None

    @property
    def extended(self) -> bool:
        return self.parameters is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A held text that a Parse gave a name. `plain` where the server's description of an empty statement is the true one."""

    text: bytes = field(repr=False)
    types: tuple[int, ...]
    judgement: Judgement
    answer: Answer
    plain: bool


class Holding:
    """What a session knows of held statements. `asks` tells whether a human can be asked in this environment at all."""

    __slots__ = (
        "asks",
        "bound",
        "describing",
        "executed",
        "pending",
        "phase",
        "portal",
        "ready",
        "scanned",
        "statement",
        "token",
        "told",
    )

    def __init__(self, asks: Callable[[], bool]) -> None:
        self.asks = asks
        self.describing = False
        """Whether a name was given that the server must not be asked to describe."""
        self.phase = Phase.NONE
        self.bound: Prepared | None = None
        self.portal = b""
        self.executed = -1
        """The row count of the Execute; -1 until it has come."""
        self.pending: tuple[bool, int, tuple[Parameter, ...]] = (False, 0, ())
        self.statement: HeldStatement | None = None
        self.token = b""
        """What the server complains about when it has come to the held statement."""
        self.ready = b""
        """The ReadyForQuery that the client does not have yet."""
        self.told: list[bytes] = []
        """The rows that the server told the session's terms in."""
        self.scanned = 0
        """How far the kept bytes were looked through for a good-bye."""

    @property
    def keeps(self) -> bool:
        """Whether what the client sends is kept."""
        return self.phase >= Phase.SENT


# What the client may send.


def query(relay: Relay, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes:
    """A Query that is held: what the server gets in its place."""
    holding = holding_of(relay)
    text = data[pos + HEADER : end - 1]
    advice = objection(relay, judgement) or ("" if answer(text, judgement.effects) else OF_SESSION)
    if relay._unsynced:
        advice = ALONE
    relay._cycles.append(QUERY)
    if advice:
        return relay.refuse(judgement, extended=False, advice=advice)
    token = send(relay, holding, HeldStatement(text=text, judgement=judgement))
    return Query(query=token).encode()


def keep(relay: Relay, holding: Holding, data: bytes) -> None:
    """Keep what the client sends while it waits, and look for its good-bye."""
    sent = relay._client_held
    sent += data
    while holding.scanned + HEADER <= len(sent):
        if sent[holding.scanned] == TERMINATE:
            relay.terminated = True
            return
        holding.scanned += max(HEADER, declared(sent, holding.scanned))


def kept(relay: Relay) -> int:
    """The bytes that are kept."""
    return max(0, len(relay._client_held) - len(KEPT))


def release(relay: Relay) -> bytes:
    """What the client has sent meanwhile, which is to be read now. The statement is over."""
    holding = holding_of(relay)
    sent = bytes(relay._client_held[len(KEPT) :])
    relay._client_held = bytearray()
    holding.phase = Phase.NONE
    holding.statement = holding.bound = None
    holding.ready = b""
    holding.told = []
    relay.choose_server_handlers()
    return sent


def look(relay: Relay) -> bytes:
    """What the server gets while it is idle, when a statement has come to its place: the question on what terms."""
    return question(relay.own_name(b"terms"))


# What the server may send.


def reached(relay: Relay, token: bytes) -> None:
    """The server has answered what stands for the held statement; its ReadyForQuery comes next."""
    holding = relay.holding
    if holding is not None and token == holding.token:
        holding.token = b""
        holding.phase = Phase.REACHED
        relay._server_handlers = REACHED_SERVER


def skipped(relay: Relay) -> None:
    """The server is ready, and has answered everything. Where it has not come to the held statement, it never will."""
    holding = relay.holding
    if holding is not None and holding.phase is Phase.SENT and holding.statement is not None:
        holding.token = b""
        holding.phase = Phase.SKIPPED
        relay.outcomes.append(holding.statement)


def _ready(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding = holding_of(relay)
    relay.choose_server_handlers()
    ordinary = relay._server_handlers[data[pos]]
    assert ordinary is not None
    ordinary(relay, data, pos, end)
    holding.ready = data[pos:end]
    if relay.status != IDLE:
        return _wait(relay, None)
    assert holding.statement is not None
    holding.phase = Phase.LOOKING
    relay.outcomes.append(holding.statement)
    relay._server_handlers = LOOKING_SERVER
    return b""


def _wait(relay: Relay, terms: Terms | None) -> bytes:
    holding = holding_of(relay)
    assert holding.statement is not None
    holding.statement = replace(holding.statement, terms=terms)
    holding.phase = Phase.WAITING
    relay.outcomes.append(holding.statement)
    relay._server_handlers = WAITING_SERVER
    return b""


def _told(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding_of(relay).told.append(data[pos + HEADER : end])
    return b""


def _not_told(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """An error, which leaves the rows without the last of them. One that ends the session is the client's."""
    handlers.error_response(relay, data, pos, end)
    if relay.fatal:
        return None
    holding_of(relay).told = []
    return b""


def _looked(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if end - pos != HEADER + 1 or data[pos + HEADER] != IDLE:
        raise ProtocolError("the server is in a transaction after it was asked for settings alone")
    return _wait(relay, read(holding_of(relay).told))


def _drop(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    return b""


def _out_of_turn(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    raise ProtocolError(f"the server sent a message of the unexpected type {chr(data[pos])!r} while it had nothing to answer")


def _whole(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """Read whole, so that what dbshield says to the client never falls into the middle of it."""
    return None


# Between them.


def send(relay: Relay, holding: Holding, statement: HeldStatement) -> bytes:
    """The statement is on its way: an identifier that the server will not know, and from now on the client's bytes are kept."""
    holding.token = relay.stand_in(statement.judgement, b"")
    holding.statement = statement
    holding.phase = Phase.SENT
    holding.bound = None
    relay._client_held = bytearray(KEPT)
    holding.scanned = len(KEPT)
    return holding.token


def objection(relay: Relay, judgement: Judgement) -> str:
    """Why nobody can be asked for this here and now, as far as the session knows before the server was asked."""
    if judgement.statements != 1:
        return ALONE
    if judgement.prepares or judgement.resets:
        return OF_SESSION
    return IN_BLOCK if relay.status != IDLE and not relay._cycles else ""


def holding_of(relay: Relay) -> Holding:
    assert relay.holding is not None
    return relay.holding


WAITING_SERVER: Final = changed_table(
    SERVER, A=_whole, N=_whole, **dict.fromkeys((*"ZGCDHITVWcdnst", "_1", "_2", "_3"), _out_of_turn)
)
"""While a human thinks."""
LOOKING_SERVER: Final = changed_table(
    WAITING_SERVER, **dict.fromkeys(("C", "_1", "_2", "_3"), _drop), D=_told, E=_not_told, Z=_looked
)
"""While the server answers on what terms the session stands."""
REACHED_SERVER: Final = changed_table(WAITING_SERVER, Z=_ready)
"""Between the error for what stands for the held statement and its ReadyForQuery."""
