"""The extended protocol's way to a held statement: its Parse, and the cycle from its Bind to its Sync, which is collected.

    [Parse] Bind [Describe portal] Execute [Close portal] Sync     alone before its Sync

The laws stand in held.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dbshield.model import Judgement
from dbshield.session import handlers
from dbshield.session.counted import COPYING_CLIENT, COUNTING_CLIENT
from dbshield.session.handlers import CLIENT, HEADER, SYNC, Handler, changed_table, declared
from dbshield.session.held import (
    ALONE,
    BINARY,
    DESCRIBED,
    MAX_HELD_NAMES,
    MAX_HELD_TEXT,
    NO_TEXT,
    OF_SESSION,
    ONE_GO,
    TOO_LONG,
    HeldStatement,
    Parameter,
    Phase,
    Prepared,
    holding_of,
    objection,
    send,
)
from dbshield.session.names import NAME_BYTES
from dbshield.sqltext.alone import Answer, answer
from dbshield.wire.frontend import Bind, Close, Describe, Execute, Parse, Sync, Target

if TYPE_CHECKING:
    from dbshield.session.relay import Relay

_PARAMETER: Final = re.compile(rb"\$[0-9]")


def parse(relay: Relay, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes:
    """A Parse that is held: the server gets an empty statement of that name, or what refuses it."""
    holding = holding_of(relay)
    message = Parse.decode(data[pos + HEADER : end])
    found = answer(message.query, judgement.effects)
    advice = objection(relay, judgement) or ("" if found else OF_SESSION)
    name = message.name[:NAME_BYTES]
    if len(message.query) > MAX_HELD_TEXT:
        advice = TOO_LONG
    elif not advice and name not in relay._statements.held and len(relay._statements.held) >= MAX_HELD_NAMES:
        advice = ONE_GO
    if advice or found is None:
        return relay.refuse(judgement, extended=True, advice=advice)
    plain = found is Answer.TAG and not message.parameter_types and not _PARAMETER.search(message.query)
    relay._statements.hold(
        name, Prepared(text=message.query, types=message.parameter_types, judgement=judgement, answer=found, plain=plain)
    )
    if not plain and not holding.describing:
        holding.describing = True
        relay.choose_client_handlers()
    return Parse(name=message.name, query=b"", parameter_types=message.parameter_types).encode()


def bind(relay: Relay, prepared: Prepared, data: bytes, pos: int, end: int) -> bytes:
    """A Bind of a statement that is held. Nothing of it goes to the server; what follows is collected up to the Sync."""
    judgement = prepared.judgement
    if end - pos != declared(data, pos):
        return relay.refuse(judgement, extended=True, advice=TOO_LONG)
    message = Bind.decode(data[pos + HEADER : end])
    advice = objection(relay, judgement)
    if relay._unsynced:
        advice = ALONE
    elif not _formats_fit(message):
        advice = ONE_GO
    elif not _are_texts(message):
        advice = NO_TEXT
    elif not advice and prepared.answer is Answer.ROWS and any(message.result_formats):
        advice = BINARY
    if advice:
        return relay.refuse(judgement, extended=True, advice=advice)
    holding = holding_of(relay)
    relay._unsynced = True
    holding.phase = Phase.COLLECTING
    holding.bound = prepared
    holding.portal = message.portal[:NAME_BYTES]
    holding.executed = -1
    holding.pending = False, 0, _parameters(message, prepared.types)
    relay.choose_client_handlers()
    return b""


def _describe_collected(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding = holding_of(relay)
    message = Describe.decode(data[pos + HEADER : end])
    if message.target is not Target.PORTAL or message.name[:NAME_BYTES] != holding.portal or holding.executed >= 0:
        return misfit(relay)
    holding.pending = True, *holding.pending[1:]
    return b""


def _execute_collected(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding = holding_of(relay)
    message = Execute.decode(data[pos + HEADER : end])
    assert holding.bound is not None
    some_rows = message.max_rows > 0 and holding.bound.answer is Answer.ROWS
    if message.portal[:NAME_BYTES] != holding.portal or holding.executed >= 0 or some_rows:
        return misfit(relay)
    holding.executed = max(0, message.max_rows)
    return b""


def _close_collected(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding = holding_of(relay)
    message = Close.decode(data[pos + HEADER : end])
    if message.target is not Target.PORTAL or message.name[:NAME_BYTES] != holding.portal or holding.executed < 0:
        return misfit(relay)
    described, closed, parameters = holding.pending
    holding.pending = described, closed + 1, parameters
    return b""


def _sync_collected(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    holding = holding_of(relay)
    bound = holding.bound
    if bound is None or holding.executed < 0:
        return misfit(relay) + handlers.sync_ends_discarding(relay, data, pos, end)
    described, closed, parameters = holding.pending
    relay._unsynced = False
    relay._statements.settle()
    relay._cycles.append(SYNC)
    statement = HeldStatement(
        text=bound.text, parameters=parameters, judgement=bound.judgement, described=described, closed=closed
    )
    token = send(relay, holding, statement)
    relay.choose_client_handlers()
    return Parse(name=token, query=token).encode() + Sync().encode()


def _misfit_message(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    return misfit(relay)


def misfit(relay: Relay) -> bytes:
    """Something came between Bind and Sync that cannot be answered before a human has decided: the held statement is refused,
    and with it all that follows up to the Sync."""
    holding = holding_of(relay)
    bound = holding.bound
    assert bound is not None
    abandon(relay)
    return relay.refuse(bound.judgement, extended=True, advice=ONE_GO)


def abandon(relay: Relay) -> None:
    """Forget what was collected."""
    holding = holding_of(relay)
    holding.phase, holding.bound, holding.statement = Phase.NONE, None, None
    relay.choose_client_handlers()


def _describe_held(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """A Describe of a held name, whose parameters and columns only the server could tell."""
    message = Describe.decode(data[pos + HEADER : end])
    prepared = relay._statements.held.get(message.name[:NAME_BYTES])
    if message.target is not Target.STATEMENT or prepared is None or prepared.plain:
        return None
    return relay.refuse(prepared.judgement, extended=True, advice=DESCRIBED)


def is_held(relay: Relay, data: bytes, pos: int) -> bool:
    """Whether a Bind, of which only the beginning may be there, is one that is held; then it must be read whole."""
    portal_end = data.find(0, pos + HEADER)
    name_end = data.find(0, portal_end + 1) if portal_end >= 0 else -1
    return name_end >= 0 and data[portal_end + 1 : name_end][:NAME_BYTES] in relay._statements.held


def _formats_fit(message: Bind) -> bool:
    """Whether a server would take the formats of the values: none, one for all, or one for each, and text or binary."""
    formats = message.parameter_formats
    return len(formats) in {0, 1, len(message.parameters)} and set(formats) <= {0, 1}


def _are_texts(message: Bind) -> bool:
    """Whether the values that are sent as text are any. The server takes no others, and who runs the statement might cut them."""
    formats = message.parameter_formats
    for index, value in enumerate(message.parameters):
        binary = formats[0] if len(formats) == 1 else formats[index] if formats else 0
        if value is None or binary:
            continue
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if 0 in value:
            return False
    return True


def _parameters(message: Bind, types: tuple[int, ...]) -> tuple[Parameter, ...]:
    count, formats = len(message.parameters), message.parameter_formats
    each = formats * count if len(formats) == 1 else formats
    return tuple(
        Parameter(type=types[index] if index < len(types) else 0, format=each[index] if index < len(each) else 0, value=value)
        for index, value in enumerate(message.parameters)
    )


_NOT_COLLECTED: Final[dict[str, Handler]] = dict.fromkeys("PBQFHcdf", _misfit_message)
COLLECTING_CLIENT: Final = changed_table(
    CLIENT, **_NOT_COLLECTED, D=_describe_collected, E=_execute_collected, C=_close_collected, S=_sync_collected
)
"""Between the Bind of a held statement and its Sync."""
DESCRIBING_CLIENT: Final = changed_table(CLIENT, D=_describe_held)
DESCRIBING_COUNTING_CLIENT: Final = changed_table(COUNTING_CLIENT, D=_describe_held)
"""Where a held statement has a name."""


def client_handlers(relay: Relay) -> tuple[Handler | None, ...]:
    """The table by whether a counted COPY is under way, a held statement is collected, or one has a name, and whether a counted
    statement was ever bound."""
    holding = relay.holding
    if relay.counting is not None and relay.counting.copy_waits is not None:
        return COPYING_CLIENT
    if holding is not None and holding.phase is Phase.COLLECTING:
        return COLLECTING_CLIENT
    if holding is not None and holding.describing:
        return DESCRIBING_COUNTING_CLIENT if relay.counts_binds else DESCRIBING_CLIENT
    return COUNTING_CLIENT if relay.counts_binds else CLIENT
