"""Messages that end beyond the chunk: what must be read whole is held, what need not be streams through.

The relay's own hands, as the handlers are. Source: SocketBackend in `postgres.c` for the limits.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from dbshield.errors import ProtocolError
from dbshield.session import counted, counted_copy, held_cycle
from dbshield.session.handlers import HEADER, LENGTH, QUERY

if TYPE_CHECKING:
    from dbshield.session.relay import Relay

SMALL_MESSAGE: Final = 10_000
"""PQ_SMALL_MESSAGE_LIMIT: the most that a message without a statement or a value may declare."""
LARGE_MESSAGE: Final = 0x3FFFFFFE
"""PQ_LARGE_MESSAGE_LIMIT: MaxAllocSize - 1."""
BIND_HEAD: Final = 8_192
"""The portal's and the statement's name stand within these first bytes of a Bind; our own limit, names are far shorter."""
ANSWER_HELD: Final = 1 << 20
"""An ErrorResponse or a description up to this size is read whole, to see whether it is about ours, which is never longer."""
_LARGE: Final = frozenset(b"QPBFd")
"""Types whose messages may be large: those with a statement or a value in them."""
_TEXT: Final = frozenset(b"QPF")
_PARSE, _BIND, _COPY_DATA = b"PBd"
_WHOLE: Final = frozenset(b"ETtAN")
"""Types of answers that may be long and are read whole where they are read at all."""

head_at: Final = Struct("!Bi").unpack_from
"""A message's type and length in one call: it is made for every message and every row."""


def hold_client(relay: Relay, data: bytes, pos: int, need: int) -> None:
    relay._client_held = bytearray(data[pos:])
    relay._client_need = need


def hold_server(relay: Relay, data: bytes, pos: int, need: int) -> None:
    relay._server_held = bytearray(data[pos:])
    relay._server_need = need


def from_client(relay: Relay, data: bytes, pos: int, start: int, out: list[bytes]) -> bytes:
    """Hold what must be read whole, stream what need not be, and refuse a text that is too long without keeping it."""
    kind, length = head_at(data, pos)
    total = length + 1
    limit = relay._max_message if kind in _LARGE else SMALL_MESSAGE
    if not LENGTH <= length <= limit:
        raise ProtocolError(f"invalid message length {length} in a message of type {chr(kind)!r}")
    if kind in _LARGE:
        counted_copy.check(relay, kind)
    have = len(data) - pos
    streams, drops = kind == _COPY_DATA, False
    if kind in _LARGE and not relay._discarding and relay._client_handlers is held_cycle.COLLECTING_CLIENT:
        out += [data[start:pos], held_cycle.misfit(relay)]
        streams = drops = True
    elif kind in _LARGE and relay._discarding:
        streams = drops = True
    elif kind in _TEXT and total > relay._max_statement + HEADER:
        judgement = relay._judge.judge_length(length)
        out += [data[start:pos], relay.refuse(judgement, extended=kind == _PARSE)]
        if kind != _PARSE:
            relay._cycles.append(QUERY)
        streams = drops = True
    elif (
        kind == _BIND
        and total <= relay._max_statement
        and have >= min(total, BIND_HEAD)
        and (held_cycle.is_held(relay, data, pos) or counted.is_planned(relay, data, pos))
    ):
        hold_client(relay, data, pos, total)
        out.append(data[start:pos])
        return b"".join(out)
    elif kind == _BIND and have >= min(total, BIND_HEAD):
        handler = relay._client_handlers[_BIND]
        assert handler is not None
        instead = handler(relay, data, pos, len(data))
        streams = True
        if relay._discarding and instead is not None:
            out += [data[start:pos], instead]
            drops = True
    if not streams:
        hold_client(relay, data, pos, min(total, BIND_HEAD) if kind == _BIND else total)
        out.append(data[start:pos])
        return b"".join(out)
    relay._client_rest = total - have
    relay._client_drops = drops
    if not drops:
        out.append(data[start:])
    return b"".join(out)


def from_server(relay: Relay, data: bytes, pos: int, start: int, out: list[bytes]) -> bytes:
    """Hold what the session must understand, stream all else."""
    kind, length = head_at(data, pos)
    total = length + 1
    if length < LENGTH:
        raise ProtocolError(f"the server sent an invalid message length {length}")
    if relay._server_handlers[kind] is None or (kind in _WHOLE and total > ANSWER_HELD):
        relay._server_rest = total - (len(data) - pos)
        out.append(data[start:])
    elif kind not in _WHOLE and length > SMALL_MESSAGE:
        raise ProtocolError(f"the server sent an invalid length {length} in a message of type {chr(kind)!r}")
    else:
        hold_server(relay, data, pos, total)
        out.append(data[start:pos])
    return b"".join(out)
