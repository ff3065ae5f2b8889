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
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, Protocol

from dbshield.errors import ProtocolError, Refused
from dbshield.model import Allow, Judgement
from dbshield.session.refusal import refusal
from dbshield.wire.backend import ParameterStatus
from dbshield.wire.frontend import FunctionCall, Parse, Query, Sync

HEADER: Final = 5
"""A type byte and a length of four."""
SMALL_MESSAGE: Final = 10_000
"""PQ_SMALL_MESSAGE_LIMIT: the most that a message without a statement or a value may declare."""
LARGE_MESSAGE: Final = 0x3FFFFFFE
"""PQ_LARGE_MESSAGE_LIMIT: MaxAllocSize - 1."""
BIND_HEAD: Final = 8_192
"""The portal's and the statement's name stand within these first bytes of a Bind; our own limit, names are far shorter."""
ERROR_HELD: Final = 1 << 20
"""An ErrorResponse up to this size is read whole, to see whether it answers a refusal; ours is never longer."""
MAX_NAMES: Final = 10_000
"""Names of prepared statements that a session remembers; the oldest is forgotten, which costs only its text in the audit."""
MAX_REFUSALS: Final = 1_000
"""Refusals on their way to the server at one time; a client that pipelines more does not read its answers."""

PINNED: Final = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
"""Settings that decide how the server reads a text. The readers assume these values, so any other ends the session."""

PREPARED_BY_NAME: Final = Judgement(verdict=Allow(), normal="(a statement prepared by name)")
"""For a name that no Parse of this session registered: SQL PREPARE made it, and its body was judged then."""

IDLE: Final = ord("I")
QUERY, SYNC, FUNCTION, SYNC_BEFORE_END = range(4)
"""What a ReadyForQuery is awaited for. The last one is a Sync behind which the client has ended a COPY."""

NAME_BYTES: Final = 63
"""Bytes of a statement's name that the server looks at: NAMEDATALEN - 1 (StorePreparedStatement in prepare.c)."""

_length_at: Final = Struct("!i").unpack_from

Handler = Callable[["Relay", bytes, int, int], bytes | None]
"""Takes a chunk and the bounds of one message in it; gives what goes out in its place, or None where it passes."""


class TextJudge(Protocol):
    """What a session asks of the policy; `dbshield.policy.judge.Judge` is one."""

    def judge(self, text: bytes) -> Judgement: ...

    def judge_length(self, length: int) -> Judgement: ...

    def judge_function(self, oid: int, arguments: Sequence[bytes | None], formats: Sequence[int]) -> Judgement: ...


class Relay:
    """The state of one session between a client and its server.

    `judged` collects the judgement of every statement that the client sent, in order; the caller takes them out.
    `status` is the transaction status that the server last told, as the character's code. `fatal` tells that the server has
    sent an error that ends the session, `terminated` that the client has said good-bye.
    Raises ProtocolError when a peer breaks the protocol and Refused when the session must not go on; both end it.
    """

    __slots__ = (
        "_client_drops",
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
        "_server_held",
        "_server_need",
        "_server_rest",
        "_statements",
        "_unsynced",
        "fatal",
        "judged",
        "status",
        "terminated",
    )

    def __init__(self, *, judge: TextJudge, marker: str, max_message: int = LARGE_MESSAGE, max_statement: int = 1 << 20) -> None:
        """`marker` is an identifier that nobody can guess: it tells our syntax errors from the client's own.

        `max_message` bounds a single message and `max_statement` the text of one, both in bytes.
        """
        self._judge = judge
        self._marker = marker.encode("ascii") + b"_"
        self._max_message = min(max_message, LARGE_MESSAGE)
        self._max_statement = max_statement
        self._statements: dict[bytes, Judgement] = {}
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
        self.judged: list[Judgement] = []
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
    def in_answer(self) -> bool:
        """Whether the client was sent a part of a message, so that anything put behind it would be taken for the rest."""
        return bool(self._server_rest)

    def from_client(self, data: bytes) -> bytes:
        """Take what the client sent; give what the server gets, which may be nothing yet."""
        if self._client_held:
            self._client_held += data
            if len(self._client_held) < self._client_need:
                return b""
            data = bytes(self._client_held)
            self._client_held = bytearray()
        size = len(data)
        pos = start = 0
        out: list[bytes] = []
        if self._client_rest:
            pos = min(self._client_rest, size)
            self._client_rest -= pos
            if self._client_drops:
                start = pos
        handlers = _DISCARDING if self._discarding else _CLIENT
        while size - pos >= HEADER:
            kind = data[pos]
            length: int = _length_at(data, pos + 1)[0]
            end = pos + 1 + length
            if end > size or length < 4:
                return self._unfinished_from_client(data, pos, start, out)
            handler = handlers[kind]
            if handler is not None:
                instead = handler(self, data, pos, end)
                if instead is not None:
                    out.append(data[start:pos])
                    out.append(instead)
                    start = end
                    handlers = _DISCARDING if self._discarding else _CLIENT
            pos = end
        if pos == size:
            if not out and not start:
                return data
            out.append(data[start:])
            return b"".join(out)
        self._hold_client(data, pos, HEADER)
        out.append(data[start:pos])
        return b"".join(out)

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
        while size - pos >= HEADER:
            kind = data[pos]
            length: int = _length_at(data, pos + 1)[0]
            end = pos + 1 + length
            if end > size or length < 4:
                return self._unfinished_from_server(data, pos, start, out)
            handler = _SERVER[kind]
            if handler is not None:
                instead = handler(self, data, pos, end)
                if instead is not None:
                    out.append(data[start:pos])
                    out.append(instead)
                    start = end
            pos = end
        if pos == size:
            if not out:
                return data
            out.append(data[start:])
            return b"".join(out)
        self._hold_server(data, pos, HEADER)
        out.append(data[start:pos])
        return b"".join(out)

    # Messages that end beyond the chunk

    def _hold_client(self, data: bytes, pos: int, need: int) -> None:
        self._client_held = bytearray(data[pos:])
        self._client_need = need

    def _hold_server(self, data: bytes, pos: int, need: int) -> None:
        self._server_held = bytearray(data[pos:])
        self._server_need = need

    def _unfinished_from_client(self, data: bytes, pos: int, start: int, out: list[bytes]) -> bytes:
        """Hold what must be read whole, stream what need not be, and refuse a text that is too long without keeping it."""
        kind = data[pos]
        length: int = _length_at(data, pos + 1)[0]
        total = length + 1
        limit = self._max_message if kind in _LARGE else SMALL_MESSAGE
        if not 4 <= length <= limit:
            raise ProtocolError(f"invalid message length {length} in a message of type {chr(kind)!r}")
        have = len(data) - pos
        streams, drops = kind == _COPY_DATA, False
        if kind in _LARGE and self._discarding:
            streams = drops = True
        elif kind in _TEXT and total > self._max_statement + HEADER:
            judgement = self._judge.judge_length(length)
            out += [data[start:pos], self._refuse(judgement, extended=kind == _PARSE)]
            if kind != _PARSE:
                self._cycles.append(QUERY)
            streams = drops = True
        elif kind == _BIND and have >= min(total, BIND_HEAD):
            _bind(self, data, pos, len(data))
            streams = True
        if not streams:
            self._hold_client(data, pos, min(total, BIND_HEAD) if kind == _BIND else total)
            out.append(data[start:pos])
            return b"".join(out)
        self._client_rest = total - have
        self._client_drops = drops
        if not drops:
            out.append(data[start:])
        return b"".join(out)

    def _unfinished_from_server(self, data: bytes, pos: int, start: int, out: list[bytes]) -> bytes:
        """Hold what the session must understand, stream all else."""
        kind = data[pos]
        length: int = _length_at(data, pos + 1)[0]
        total = length + 1
        if length < 4:
            raise ProtocolError(f"the server sent an invalid message length {length}")
        if _SERVER[kind] is None or (kind == _ERROR and total > ERROR_HELD):
            self._server_rest = total - (len(data) - pos)
            out.append(data[start:])
        elif kind != _ERROR and length > SMALL_MESSAGE:
            raise ProtocolError(f"the server sent an invalid length {length} in a message of type {chr(kind)!r}")
        else:
            self._hold_server(data, pos, total)
            out.append(data[start:pos])
        return b"".join(out)

    # Refusals

    def _refuse(self, judgement: Judgement, *, extended: bool) -> bytes:
        """What the server gets in place of a refused message: an identifier alone, which no grammar accepts.

        A Parse gets a name, because an unnamed one would destroy the client's unnamed statement.
        """
        if len(self._refusals) >= MAX_REFUSALS:
            raise Refused("too many refused statements in one pipeline", sqlstate="54000", hint="Read the answers first.")
        self.judged.append(judgement)
        self._serial += 1
        token = self._marker + b"%d" % self._serial
        self._refusals[token] = refusal(judgement)
        if not extended:
            return Query(query=token).encode()
        self._discarding = True
        return Parse(name=token, query=token).encode()


def _text_end(data: bytes, pos: int, end: int) -> int:
    """Where the NUL-terminated string at `pos` ends. Raises ProtocolError when it does not within the message."""
    found = data.find(0, pos, end)
    if found < 0:
        raise ProtocolError("a string in a message has no end")
    return found


# What the client may send. A handler answers None where the message passes as it is.


def _query(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if data[end - 1]:
        raise ProtocolError("a Query has no end")
    judgement = relay._judge.judge(data[pos + HEADER : end - 1])
    relay._cycles.append(QUERY)
    if type(judgement.verdict) is Allow:
        relay.judged.append(judgement)
        return None
    return relay._refuse(judgement, extended=False)


def _parse(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    name_end = data.find(0, pos + HEADER, end)
    text_end = data.find(0, name_end + 1, end) if name_end >= 0 else -1
    if text_end < 0:
        raise ProtocolError("a string in a Parse has no end")
    judgement = relay._judge.judge(data[name_end + 1 : text_end])
    if type(judgement.verdict) is not Allow:
        return relay._refuse(judgement, extended=True)
    statements = relay._statements
    statements[data[pos + HEADER : name_end][:NAME_BYTES]] = judgement
    if len(statements) > MAX_NAMES:
        del statements[next(iter(statements))]
    return None


def _bind(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """A Bind is what makes one execution of a statement, so it is what the audit counts."""
    portal_end = data.find(0, pos + HEADER, end)
    name_end = data.find(0, portal_end + 1, end) if portal_end >= 0 else -1
    if name_end < 0:
        raise ProtocolError("a string in a Bind has no end")
    name = data[portal_end + 1 : name_end]
    judgement = relay._statements.get(name)
    if judgement is None:
        judgement = relay._statements.get(name[:NAME_BYTES], PREPARED_BY_NAME)
    relay.judged.append(judgement)
    relay._unsynced = True
    return None


def _close(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if data[pos + HEADER : pos + HEADER + 1] == b"S":
        relay._statements.pop(data[pos + HEADER + 1 : _text_end(data, pos + HEADER + 1, end)][:NAME_BYTES], None)
    return None


def _sync(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    relay._unsynced = False
    relay._cycles.append(SYNC)
    return None


def _copy_ends(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """CopyDone or CopyFail: the next Sync is one that the server answers. It may come before we know that there is a COPY."""
    relay._copying = False
    if relay._cycles and relay._cycles[-1] == SYNC:
        relay._cycles[-1] = SYNC_BEFORE_END
    return None


def _function_call(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    call = FunctionCall.decode(data[pos + HEADER : end])
    judgement = relay._judge.judge_function(call.function, call.arguments, call.argument_formats)
    relay._cycles.append(FUNCTION)
    if type(judgement.verdict) is Allow:
        relay.judged.append(judgement)
        return None
    return relay._refuse(judgement, extended=False)


def _terminate(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    relay.terminated = True
    return None


def _unknown_from_client(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    raise ProtocolError(f"invalid frontend message type {data[pos]}")


# While the server discards messages up to a Sync, so does the session: what it drops can do no harm.


def _drop(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    return b""


def _sync_ends_discarding(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    relay._discarding = relay._unsynced = False
    relay._cycles.append(SYNC)
    return _SYNC_MESSAGE


# What the server may send.


def _ready_for_query(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if end - pos != HEADER + 1:
        raise ProtocolError("the server sent a malformed ReadyForQuery")
    relay.status = data[pos + HEADER]
    cycles = relay._cycles
    if cycles:
        cycles.popleft()
    if relay._refusals and not cycles:
        relay._refusals.clear()  # an error before them made the server discard what stood for them
    return None


def _error_response(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    frame = data[pos:end]
    relay._copying = False
    if b"\0VFATAL\0" in frame or b"\0VPANIC\0" in frame:
        relay.fatal = True
        return None
    if relay._refusals:
        found = frame.find(relay._marker)
        if found >= 0:
            digits = found + len(relay._marker)
            while frame[digits : digits + 1].isdigit():
                digits += 1
            return relay._refusals.pop(frame[found:digits], None)
    return None


def _parameter_status(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    status = ParameterStatus.decode(data[pos + HEADER : end])
    if PINNED.get(status.name, status.value) != status.value:
        raise Refused(
            f"the server reports {status.name} = {status.value}; a session through dbshield keeps {PINNED[status.name]}",
            hint="Reconnect and leave this setting alone.",
        )
    return None


def _copy_in_response(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """In the extended protocol the server swallows the Syncs between the Execute and the end of the data (CopyGetData in
    copyfromparse.c). A simple Query answers for itself, whatever comes between."""
    cycles = relay._cycles
    if cycles and cycles[0] == QUERY:
        return None
    while cycles:
        if cycles.popleft() == SYNC_BEFORE_END:
            return None
    relay._copying = True
    return None


def _unknown_from_server(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    raise ProtocolError(f"the server sent a message of the unexpected type {data[pos]}")


def _table(default: Handler | None, **handlers: Handler | None) -> tuple[Handler | None, ...]:
    """One place for each of the 256 type bytes; keys are the type's character, `_` before a digit."""
    by_byte = {ord(key.removeprefix("_")): handler for key, handler in handlers.items()}
    return tuple(by_byte.get(byte, default) for byte in range(256))


_CLIENT: Final = _table(
    _unknown_from_client,
    Q=_query,
    P=_parse,
    B=_bind,
    C=_close,
    S=_sync,
    F=_function_call,
    X=_terminate,
    c=_copy_ends,
    f=_copy_ends,
    **dict.fromkeys("DEHd"),
)
_DISCARDING: Final = _table(_unknown_from_client, S=_sync_ends_discarding, X=_terminate, **dict.fromkeys("QPBCDEHFdcf", _drop))
_SERVER: Final = _table(
    _unknown_from_server,
    Z=_ready_for_query,
    E=_error_response,
    S=_parameter_status,
    G=_copy_in_response,
    **dict.fromkeys(("_1", "_2", "_3", "A", "C", "D", "H", "I", "N", "T", "V", "c", "d", "n", "s", "t")),
)
_LARGE: Final = frozenset(b"QPBFd")
_TEXT: Final = frozenset(b"QPF")
_PARSE, _BIND, _COPY_DATA, _ERROR = b"PBdE"
_SYNC_MESSAGE: Final = Sync().encode()
