"""One client session after login: bytes of one peer in, bytes for the other peer out. No I/O and no clock.

Laws, on which everything here rests:

1. Nothing reaches the server that was not judged, or that is not known to carry no statement.
2. The order of answers and the transaction status are always the server's own. A refusal is made by handing the server, in
   place of what is refused, a message that is certain to be a syntax error, and by exchanging the ErrorResponse that it
   answers for the refusal. So a refusal in a pipeline, in a transaction block or behind a Flush comes at its place, fails
   the block, and is followed by the true ReadyForQuery (docs/decisions/0002-refusal-by-syntax-error.md).
3. What passes is the client's own bytes. A chunk in which nothing was exchanged goes out as the object that came in.
4. Nothing is kept but an unfinished message that must be read whole; what is long and carries no statement streams through.

Source: PostgreSQL 18 manual, "Frontend/Backend Protocol"; the limits are those of SocketBackend in `postgres.c`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from dbshield.errors import Refused
from dbshield.model import Hold, Judgement, Limit
from dbshield.session import counted, held, held_cycle, unfinished
from dbshield.session.counted import COUNTING_SERVER, OWN_ANSWER, OWN_CYCLE
from dbshield.session.counted_state import Counting, Phase
from dbshield.session.counting import UNTOLD, Limits, RowCounter
from dbshield.session.handlers import BIND, CLIENT, DISCARDING, EXECUTIONS, HEADER, IDLE, LENGTH, OWN, SERVER, SYNC
from dbshield.session.held import HeldStatement, Holding, Prepared
from dbshield.session.names import StatementNames
from dbshield.session.refusal import refusal
from dbshield.session.text_judge import TextJudge
from dbshield.session.unfinished import LARGE_MESSAGE, head_at
from dbshield.wire.frontend import Parse, Query

MAX_REFUSALS: Final = 1_000
"""Refusals on their way to the server at one time; a client that pipelines more does not read its answers."""


OWN_PHASES: Final = frozenset({Phase.BEFORE, Phase.EARLY, Phase.AFTER})
"""In which our own queries are answered."""


class Relay:
    """The state of one session between a client and its server.

    `judged` collects the judgement of every statement that the client sent, in order; the caller takes them out.
    `status` is the transaction status that the server last told, as the character's code. `fatal` tells that the server has
    sent an error that ends the session, `terminated` that the client has said good-bye.
    `outcomes` collects what came of counted statements: the rows by table of a transaction that is over, and the judgement of one
    that the server failed for us; and the statement that waits for a human, whom the caller asks (see held.py). `counting` is
    None in a session that has changed no rows and is not likely to; `spare` makes it a counter when it comes to that. `holding`
    is None in one whose held statements are all refused.
    Raises ProtocolError when a peer breaks the protocol and Refused when the session must not go on; both end it.
    """

    __slots__ = (
        "_client_drops",
        "_client_handlers",
        "_client_held",
        "_client_need",
        "_client_rest",
        "_copying",
        "_cycles",
        "_discarding",
        "_judge",
        "_marker",
        "_max_message",
        "_max_statement",
        "_refusals",
        "_serial",
        "_server_handlers",
        "_server_held",
        "_server_need",
        "_server_rest",
        "_statements",
        "_unsynced",
        "counting",
        "counts_binds",
        "fatal",
        "holding",
        "judged",
        "outcomes",
        "spare",
        "status",
        "terminated",
    )

    def __init__(
        self,
        *,
        judge: TextJudge,
        marker: str,
        counter: RowCounter | None = None,
        spare: Callable[[], RowCounter] | None = None,
        asks: Callable[[], bool] | None = None,
        max_message: int = LARGE_MESSAGE,
        max_statement: int = 1 << 20,
    ) -> None:
        """`marker` is an identifier that nobody can guess: it tells our syntax errors from the client's own.

        `max_message` bounds a single message and `max_statement` the text of one, both in bytes. With a `counter`, what
        `opening` gives must be the first that the server gets. `asks` tells whether a human can be asked now.
        """
        self._judge = judge
        self._marker = marker.encode("ascii") + b"_"
        self._max_message = min(max_message, LARGE_MESSAGE)
        self._max_statement = max_statement
        self._statements = StatementNames()
        self._cycles: deque[int] = deque()
        self._refusals: dict[bytes, bytes] = {}
        self._serial = 0
        self._discarding = False
        self._unsynced = False
        self._copying = False
        self._client_held = bytearray()
        self._client_need = 0
        self._client_rest = 0
        self._client_drops = False
        self._server_held = bytearray()
        self._server_need = 0
        self._server_rest = 0
        self._client_handlers = CLIENT
        self._server_handlers = SERVER
        self.counting = Counting(counter) if counter else None
        if counter:
            counter.limits = Limits.of(judge.policy)
        self.judged: list[Judgement] = []
        self.counts_binds = False
        self.spare = spare
        self.holding = Holding(asks) if asks else None
        self.outcomes: list[Judgement | dict[str, int] | HeldStatement] = []
        self.status = IDLE
        self.terminated = False
        self.fatal = False

    @property
    def busy(self) -> bool:
        """Whether the server may be at work, as far as the session knows: it owes an answer, was asked to execute something
        that no Sync has followed yet, or takes the data of a COPY."""
        return bool(self._cycles) or self._unsynced or self._copying

    @property
    def idle(self) -> bool:
        """Whether the server has answered all that it was asked and no transaction is open."""
        return self.status == IDLE and not (self.busy or self._client_held or self._client_rest)

    @property
    def keeps(self) -> bool:
        """Whether a held statement keeps from the server what the client sends."""
        return self.holding is not None and self.holding.keeps

    @property
    def in_answer(self) -> bool:
        """Whether the client was sent a part of a message, so that anything put behind it would be taken for the rest."""
        return bool(self._server_rest)

    def from_client(self, data: bytes) -> bytes:
        """Take what the client sent; give what the server gets, which may be nothing yet."""
        if self._client_held:
            if self.holding is not None and self.holding.keeps:
                held.keep(self, self.holding, data)
                return b""
            self._client_held += data
            if len(self._client_held) < self._client_need:
                return b""
            data = bytes(self._client_held)
            self._client_held = bytearray()
        elif len(data) > HEADER and data[0] == BIND and self._executes(data):
            return data
        size = len(data)
        pos = start = 0
        out: list[bytes] = []
        if self._client_rest:
            pos = min(self._client_rest, size)
            self._client_rest -= pos
            if self._client_drops:
                start = pos
        handlers = DISCARDING if self._discarding else self._client_handlers
        last = size - HEADER
        while pos <= last:
            kind, length = head_at(data, pos)
            end = pos + 1 + length
            if end > size or length < LENGTH:
                return unfinished.from_client(self, data, pos, start, out)
            handler = handlers[kind]
            if handler is not None:
                instead = handler(self, data, pos, end)
                if instead is not None:
                    out.append(data[start:pos])
                    out.append(instead)
                    start = end
                    if self._client_held:
                        assert self.holding is not None
                        held.keep(self, self.holding, data[end:])
                        return b"".join(out)
                    handlers = DISCARDING if self._discarding else self._client_handlers
            pos = end
        if pos == size:
            if not out and not start:
                return data
            out.append(data[start:])
            return b"".join(out)
        unfinished.hold_client(self, data, pos, HEADER)
        out.append(data[start:pos])
        return b"".join(out)

    def _executes(self, data: bytes) -> bool:
        """Whether a chunk that begins with a Bind is all that a driver sends for an execution of a prepared statement which
        passes; then the session knows of it. So one look does what the handlers of its messages would do one by one."""
        end = 1 + head_at(data, 0)[1]
        if data[end:] not in EXECUTIONS or data[HEADER]:
            return False
        names = self._statements
        judgement = names.get(data[HEADER + 1 : data.find(0, HEADER + 1, end)])
        if judgement is None or not judgement.passes or names.doubtful:
            return False
        if self._client_handlers is not CLIENT or self._discarding or self._client_rest:
            return False
        self.judged.append(judgement)
        self._unsynced = False
        self._cycles.append(SYNC)
        return True

    def from_server(self, data: bytes) -> bytes:
        """Take what the server sent; give what the client gets, which may be nothing yet."""
        if self._server_held:
            self._server_held += data
            if len(self._server_held) < self._server_need:
                return b""
            data = bytes(self._server_held)
            self._server_held = bytearray()
        size = len(data)
        pos = start = 0
        out: list[bytes] = []
        if self._server_rest:
            pos = min(self._server_rest, size)
            self._server_rest -= pos
        handlers = self._server_handlers
        last = size - HEADER
        while pos <= last:
            kind, length = head_at(data, pos)
            end = pos + 1 + length
            if end > size or length < LENGTH:
                return unfinished.from_server(self, data, pos, start, out)
            handler = handlers[kind]
            if handler is not None:
                instead = handler(self, data, pos, end)
                if instead is not None:
                    out.append(data[start:pos])
                    out.append(instead)
                    start = end
                    handlers = self._server_handlers
            pos = end
        if pos == size:
            if not out:
                return data
            out.append(data[start:])
            return b"".join(out)
        unfinished.hold_server(self, data, pos, HEADER)
        out.append(data[start:pos])
        return b"".join(out)

    # Refusals

    def refuse(self, judgement: Judgement, *, extended: bool, advice: str = "") -> bytes:
        """What the server gets in place of a refused message: an identifier alone, which no grammar accepts.

        A Parse gets a name, because an unnamed one would destroy the client's unnamed statement.
        """
        token = self.stand_in(judgement, refusal(judgement, advice))
        if not extended:
            return Query(query=token).encode()
        self._discarding = True
        return Parse(name=token, query=token).encode()

    def own_name(self, what: bytes) -> bytes:
        """A name on the server that nobody else gives."""
        return self._marker + what

    def stand_in(self, judgement: Judgement, answer: bytes) -> bytes:
        """The identifier that stands for a stopped statement; the error that the server makes of it is exchanged for `answer`."""
        if len(self._refusals) >= MAX_REFUSALS:
            raise Refused("too many refused statements in one pipeline", sqlstate="54000", hint="Read the answers first.")
        self.judged.append(judgement)
        self._serial += 1
        token = self._marker + b"%d" % self._serial
        self._refusals[token] = answer
        return token

    # Counted rows

    def opening(self) -> bytes:
        """What the server gets before anything of the client: the counting queries, whose answer the client never sees."""
        return self.prepare_again()

    def prepare_again(self) -> bytes:
        if self.counting is None:
            return b""
        self.counting.fault = ""
        self._cycles.append(OWN)
        self.choose_server_handlers()
        return self.counting.counter.prepare

    def expect_counted(self, max_rows: int, statements: int = 1) -> None:
        """Counted statements are on their way to the server, each of which may change so many rows."""
        assert self.counting is not None
        self.counting.send(max_rows, statements)
        if self._server_handlers is SERVER:
            self._server_handlers = COUNTING_SERVER

    def choose_server_handlers(self) -> None:
        """By what is answered now: a Query of ours, a counting query, a session that counts, or nothing out of the ordinary."""
        counting = self.counting
        if self._cycles and self._cycles[0] == OWN:
            self._server_handlers = OWN_CYCLE
        elif counting is None or (counting.is_over and not (self._cycles or self._unsynced)):
            self._server_handlers = SERVER
        elif counting.phase in OWN_PHASES:
            self._server_handlers = OWN_ANSWER
        else:
            self._server_handlers = COUNTING_SERVER

    def tell_changed(self) -> None:
        """The transaction is over: its rows are what the agent has changed."""
        assert self.counting is not None
        if self.counting.changed:
            self.outcomes.append(self.counting.changed)
            self.counting.changed = {}

    @property
    def untold(self) -> dict[str, int]:
        """The rows by table that may have been changed although nobody was told, should the session end now: the server may yet
        commit what the client did not wait for. Under UNTOLD stand those of which not even the table is known."""
        counting = self.counting
        if counting is None or not self.busy:
            return {}
        return counting.changed | ({UNTOLD: counting.in_flight} if counting.in_flight else {})

    # What is not simply allowed

    def other_query(self, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
        if type(judgement.verdict) is Hold and self.holding is not None and self.holding.asks():
            return held.query(self, judgement, data, pos, end)
        return counted.query(self, judgement, data, pos, end)

    def other_bind(self, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
        return counted.bind(self, judgement, data, pos, end)

    def named_execute(self, data: bytes, pos: int, end: int) -> bytes | None:
        return counted.execute(self, data, pos, end)

    def other_parse(self, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
        if type(judgement.verdict) is Limit:
            return counted.parse(self, judgement, data, pos, end)
        if type(judgement.verdict) is Hold and self.holding is not None and self.holding.asks():
            return held_cycle.parse(self, judgement, data, pos, end)
        return self.refuse(judgement, extended=True)

    def held_bind(self, prepared: Prepared, data: bytes, pos: int, end: int) -> bytes:
        return held_cycle.bind(self, prepared, data, pos, end)

    def reached(self, token: bytes) -> None:
        held.reached(self, token)

    def skipped(self) -> None:
        held.skipped(self)

    def choose_client_handlers(self) -> None:
        self._client_handlers = held_cycle.client_handlers(self)

    # A policy or a database that changes

    @property
    def prepared(self) -> StatementNames:
        """What the client has prepared, by name."""
        return self._statements

    @property
    def judge(self) -> TextJudge:
        """What judges now."""
        return self._judge

    def use(self, judge: TextJudge) -> None:
        """Judge by `judge` from now on, the statements too that are prepared already."""
        before, self._judge = self._judge, judge
        if self.counting is not None:
            self.counting.counter.limits = Limits.of(judge.policy)
        self._statements.judge_again(judge, before)
