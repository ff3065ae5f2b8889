"""What a session does with each message that it must understand: one small function for each, and tables of them by type byte.

They are the Relay's own hands: they read and change its state, and nobody else calls them. Functions in a tuple rather than
methods, because one lookup by the type byte finds them. A handler takes a chunk and the bounds of one message in it; it gives
what goes out in that message's place, or None where it passes as it is. A type that stands in no table ends the session.

Source: PostgreSQL 18 manual, "Message Flow" and "Message Formats".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dbshield.errors import ProtocolError, Refused
from dbshield.model import Allow, Judgement, Limit
from dbshield.session.names import NAME_BYTES
from dbshield.sqltext.postgres_session import OWN_STATEMENTS
from dbshield.wire.backend import ParameterStatus
from dbshield.wire.frontend import Describe, Execute, FunctionCall, Sync, Target

if TYPE_CHECKING:
    from dbshield.session.relay import Relay

HEADER: Final = 5
"""A type byte and a length of four."""
LENGTH: Final = 4
"""The least length of a message: its own four bytes count."""
IDLE: Final = ord("I")
"""The status in a ReadyForQuery outside of a transaction."""
FAILED: Final = ord("E")
"""The status in a ReadyForQuery where the transaction has failed."""

PINNED: Final = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
"""Settings that decide how the server reads a text. The readers assume these values, so any other ends the session."""

PREPARED_BY_NAME: Final = b"execute prepared_by_name"
"""Judged for a name that no Parse of this session registered: SQL PREPARE made it, and its body was judged then."""

QUERY, SYNC, FUNCTION, SYNC_BEFORE_END, COUNTED_QUERY, OWN = range(6)
"""What a ReadyForQuery is awaited for: SYNC_BEFORE_END is a Sync behind which the client has ended a COPY, COUNTED_QUERY a Query
with ours in it, OWN a Query of ours alone."""

FETCHED_BY_NAME: Final = b"fetch from portal_by_name"
"""Judged for an Execute of a portal that has a name and that no counted Bind made: SQL may have opened it."""

OWN_NAME: Final = OWN_STATEMENTS.encode()
TAKE_OWN: Final = b"deallocate " + OWN_NAME
"""Judged for a Parse, Bind or Close that names a statement of the shield's own, whichever."""
Handler = Callable[["Relay", bytes, int, int], bytes | None]


def text_end(data: bytes, pos: int, end: int) -> int:
    """Where the NUL-terminated string at `pos` ends. Raises ProtocolError when it does not within the message."""
    found = data.find(0, pos, end)
    if found < 0:
        raise ProtocolError("a string in a message has no end")
    return found


def declared(data: bytes | bytearray, pos: int) -> int:
    """The bytes of the message at `pos`, its type with it."""
    return 1 + int.from_bytes(data[pos + 1 : pos + HEADER], "big")


def _own(relay: Relay) -> bytes | None:
    """What stands for a message that names a statement of the shield's own; None where the policy only observes."""
    judgement = relay._judge.judge(TAKE_OWN)
    return None if type(judgement.verdict) is Allow else relay.refuse(judgement, extended=True)


# What the client may send. A handler answers None where the message passes as it is.


def _query(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if data[end - 1]:
        raise ProtocolError("a Query has no end")
    judgement = relay._judge.judge(data[pos + HEADER : end - 1])
    if judgement.prepares:
        relay._statements.prepared(judgement.prepares)
    if type(judgement.verdict) is not Allow or judgement.resets:
        return relay.other_query(judgement, data, pos, end)
    relay._cycles.append(QUERY)
    relay.judged.append(judgement)
    return None


def _parse(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    name_end = data.find(0, pos + HEADER, end)
    text_end = data.find(0, name_end + 1, end) if name_end >= 0 else -1
    if text_end < 0:
        raise ProtocolError("a string in a Parse has no end")
    if data.startswith(OWN_NAME, pos + HEADER):
        return _own(relay)
    text = data[name_end + 1 : text_end]
    judgement = relay._judge.judge(text)
    instead = None
    if type(judgement.verdict) is not Allow:
        instead = relay.other_parse(judgement, data, pos, end)
        if type(judgement.verdict) is not Limit or relay.counting is None:
            return instead
    relay._statements.parsed(data[pos + HEADER : name_end][:NAME_BYTES], judgement, text)
    return instead


def bind(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """A Bind is what makes one execution of a statement, so it is what the audit counts."""
    portal_end = pos + HEADER
    # Nearly every portal has no name, and a look at one byte costs a fifth of a search.
    if portal_end >= end or data[portal_end]:
        portal_end = data.find(0, portal_end, end)
    name_end = data.find(0, portal_end + 1, end) if portal_end >= 0 else -1
    if name_end < 0:
        raise ProtocolError("a string in a Bind has no end")
    name = data[portal_end + 1 : name_end]
    names = relay._statements
    judgement = names.believed(name) if names.doubtful else names.get(name)
    if judgement is not None and judgement.passes and relay._client_handlers is CLIENT:
        relay.judged.append(judgement)
        relay._unsynced = True
        return None
    if judgement is None:
        if name.startswith(OWN_NAME):
            return _own(relay)
        prepared = names.held.get(name[:NAME_BYTES])
        if prepared is not None:
            return relay.held_bind(prepared, data, pos, end)
        judgement = names.believed(name)
        if judgement is None:
            judgement = relay._judge.judge(PREPARED_BY_NAME)
            relay._judge.note(names.makes.names)
    if judgement.prepares:
        names.prepared(judgement.prepares)
    if type(judgement.verdict) is not Allow or judgement.resets or relay._client_handlers is not CLIENT:
        return relay.other_bind(judgement, data, pos, end)
    relay.judged.append(judgement)
    relay._unsynced = True
    return None


def _execute(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """Only a portal with a name may be a cursor; nearly none has one."""
    named = pos + HEADER < end and data[pos + HEADER]
    return relay.named_execute(data, pos, end) if named and relay.counting is not None else None


def fetched(relay: Relay, portal: bytes) -> Judgement | None:
    """The judgement of an Execute of a cursor that SQL opened (DECLARE, or a body), which is a FETCH; None where none of these
    changes rows."""
    if not portal or portal in relay._statements.bound:
        return None
    judgement = relay._judge.judge(FETCHED_BY_NAME)
    if type(judgement.verdict) is not Limit:
        return None
    relay.judged.append(judgement)
    return judgement


def _close(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if data[pos + HEADER : pos + HEADER + 1] == b"S":
        if data.startswith(OWN_NAME, pos + HEADER + 1):
            return _own(relay)
        relay._statements.closed(data[pos + HEADER + 1 : text_end(data, pos + HEADER + 1, end)][:NAME_BYTES])
    return None


def sync(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    relay._unsynced = False
    names = relay._statements
    if names.fresh or names.bound:
        names.settle(alone=all(cycle == OWN for cycle in relay._cycles))
    relay._cycles.append(SYNC)
    return None


def copy_ends(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
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
    return relay.refuse(judgement, extended=False)


def _terminate(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    relay.terminated = True
    return None


def _unknown_from_client(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    raise ProtocolError(f"invalid frontend message type {data[pos]}")


# While the server discards messages up to a Sync, so does the session: what it drops can do no harm.


def _drop(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    return b""


def sync_ends_discarding(relay: Relay, data: bytes, pos: int, end: int) -> bytes:
    relay._discarding = relay._unsynced = False
    relay._statements.settle()
    relay._cycles.append(SYNC)
    return _SYNC_MESSAGE


# What the server may send.


def ready_for_query(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    if end - pos != HEADER + 1:
        raise ProtocolError("the server sent a malformed ReadyForQuery")
    relay.status = data[pos + HEADER]
    cycles = relay._cycles
    if cycles:
        if cycles.popleft() != OWN and relay._statements.asked:
            relay._statements.answered()
        if cycles and cycles[0] == OWN:
            relay.choose_server_handlers()
            return data[pos:end]
    if relay._refusals and not cycles and not relay._discarding:
        # An error before them made the server discard what stood for them. Where the client has yet to send a Sync behind a
        # refusal, this answers something earlier: what stands for that one is still on its way.
        relay._refusals.clear()
        relay.skipped()
    return None


def error_response(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    frame = data[pos:end]
    relay._copying = False
    relay._statements.failed()
    if b"\0VFATAL\0" in frame or b"\0VPANIC\0" in frame:
        relay.fatal = True
        return None
    if relay._refusals:
        found = frame.find(relay._marker)
        if found >= 0:
            digits = found + len(relay._marker)
            while frame[digits : digits + 1].isdigit():
                digits += 1
            token = frame[found:digits]
            instead = relay._refusals.pop(token, None)
            relay.reached(token)
            return instead
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
    relay._statements.failed()  # it swallows the Sync whose answer would tell
    if cycles and cycles[0] in {QUERY, COUNTED_QUERY}:
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


def changed_table(table: tuple[Handler | None, ...], **changes: Handler | None) -> tuple[Handler | None, ...]:
    """A table that is like another but for some type bytes."""
    by_byte = {ord(key.removeprefix("_")): handler for key, handler in changes.items()}
    return tuple(by_byte.get(byte, handler) for byte, handler in enumerate(table))


CLIENT: Final = _table(
    _unknown_from_client,
    Q=_query,
    P=_parse,
    B=bind,
    C=_close,
    S=sync,
    E=_execute,
    F=_function_call,
    X=_terminate,
    c=copy_ends,
    f=copy_ends,
    **dict.fromkeys("DHd"),
)
DISCARDING: Final = _table(_unknown_from_client, S=sync_ends_discarding, X=_terminate, **dict.fromkeys("QPBCDEHFdcf", _drop))
SERVER: Final = _table(
    _unknown_from_server,
    Z=ready_for_query,
    E=error_response,
    S=_parameter_status,
    G=_copy_in_response,
    **dict.fromkeys(("_1", "_2", "_3", "A", "C", "D", "H", "I", "N", "T", "V", "c", "d", "n", "s", "t")),
)
_SYNC_MESSAGE: Final = Sync().encode()

BIND: Final = ord("B")
_DESCRIBE: Final = Describe(target=Target.PORTAL).encode()
_EXECUTE: Final = Execute().encode()
EXECUTIONS: Final = frozenset({_EXECUTE + _SYNC_MESSAGE, _DESCRIBE + _EXECUTE + _SYNC_MESSAGE})
"""What drivers send behind a Bind, libpq the longer one. Known as a whole, it need not be read message by message."""
