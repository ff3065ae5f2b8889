"""What a session does with a statement whose rows are counted: ours goes around it, and the answers to ours go to nobody.

The counterpart of handlers.py for sessions that count; counting.py has the queries. The server answers in order, so a session
needs to know only where its own begins: the description of a counting query has a column of a name that nobody can guess.

    simple     Query: [before] the client's statement [after]      T(before) D C    ... C    T(after) D C
    extended   Describe Bind Execute Close  around each Execute    t T(before) 2 D C 3  ... C  t T(after) 2 D C 3
               around a Parse or Bind that may change rows itself  t T(early) 2 D C 3  1 or 2  t T(after) 2 D C 3

The client's CommandComplete is kept back until `after` has answered; when that is an error, the client reads the refusal in its
place, and nothing of ours in between. What the tables here do not name is passed or refused as in handlers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dbshield.errors import ProtocolError, Refused
from dbshield.model import Allow, Judgement, Limit
from dbshield.policy.counting import commits, forgets_statements, takes_back_settings
from dbshield.policy.rules import limits
from dbshield.session import counted_copy, handlers
from dbshield.session.counted_state import Counting, Phase
from dbshield.session.counting import Limits, Wrapped, changed_rows
from dbshield.session.handlers import CLIENT, COUNTED_QUERY, FAILED, HEADER, IDLE, OWN, QUERY, SERVER, changed_table, declared
from dbshield.session.names import MAX_NAMES, NAME_BYTES
from dbshield.session.refusal import refusal
from dbshield.wire.backend import ErrorResponse
from dbshield.wire.frontend import Query
from dbshield.wire.report import POSITION

if TYPE_CHECKING:
    from dbshield.session.relay import Relay

# What the client may send.


def begin(relay: Relay) -> bytes:
    """What the server gets before the first counted statement of a session that was not expected to have any. Empty where it
    counts already, and where it cannot begin, since ours is a Query: in a pipeline, or in a transaction that has failed."""
    if relay.counting is not None or relay.spare is None or relay.busy or relay.status == FAILED:
        return b""
    relay.counting = Counting(relay.spare())
    relay.counting.counter.limits = Limits.of(relay.judge.policy)
    return relay.prepare_again()


def query(relay: Relay, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
    """A Query that is counted, or that takes back what the session has set or prepared, or that is refused."""
    opening = begin(relay) if type(judgement.verdict) is Limit else b""
    counting = relay.counting
    refused = resets_at_work(relay, judgement)
    if refused is None and type(judgement.verdict) is Limit and counting is not None:
        relay.judged.append(judgement)
        counting.separate = counting.separate or bool(relay._cycles)
        relay._cycles.append(COUNTED_QUERY)
        relay.expect_counted(judgement.verdict.max_rows, len(judgement.counted))
        wrapped = counting.wrap(data[pos + HEADER : end - 1], judgement)
        return opening + Query(query=wrapped.text).encode()
    if refused is not None or type(judgement.verdict) is not Allow:
        relay._cycles.append(QUERY)
        return opening + relay.refuse(refused or judgement, extended=False)
    relay.judged.append(judgement)
    relay._cycles.append(QUERY)
    if counting is None or not any(map(forgets_statements, judgement.effects)):
        return None
    return data[pos:end] + relay.prepare_again()


def parse(relay: Relay, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
    """A Parse of a statement that is counted, or refused because nothing can be counted here."""
    opening = begin(relay)
    counting = relay.counting
    if counting is None:
        return relay.refuse(judgement, extended=True)
    if not _is_planned(judgement):
        return opening + data[pos:end] if opening else None
    relay._unsynced = True
    return opening + _early(relay, counting, judgement, data[pos:end])


def bind(relay: Relay, judgement: Judgement, data: bytes, pos: int, end: int) -> bytes | None:
    """A Bind of a statement that is counted, that takes back what the session has prepared, or that may not run any more."""
    opening = begin(relay) if type(judgement.verdict) is Limit else b""
    counting = relay.counting
    refused = resets_at_work(relay, judgement)
    limited = type(judgement.verdict) is Limit and counting is not None
    if refused is not None or not (limited or type(judgement.verdict) is Allow):
        return opening + relay.refuse(refused or judgement, extended=True)
    planned = limited and _is_planned(judgement)
    if planned and end - pos != declared(data, pos):
        # It would be bound before our query behind it can be sent.
        return opening + relay.refuse(relay._judge.judge_length(declared(data, pos)), extended=True)
    relay.judged.append(judgement)
    relay._unsynced = True
    if counting is None:
        return None
    portal = data[pos + HEADER : data.index(0, pos + HEADER)][:NAME_BYTES]
    if limited:
        counting.portals[portal] = judgement
        relay._statements.bound.discard(portal)
        if len(counting.portals) > MAX_NAMES:
            raise Refused("too many portals are open in this session", sqlstate="54000", hint="Close portals that are not used.")
    else:
        # The server may yet skip this Bind, and then the portal is still the one that is counted.
        relay._statements.bound.add(portal)
        counting.separate = counting.separate or any(map(commits, judgement.effects))
    counting.prepare_next |= judgement.resets and any(map(forgets_statements, judgement.effects))
    if relay.counts_binds and not planned and not opening:
        return None
    if not relay.counts_binds:
        relay.counts_binds = True
        relay.choose_client_handlers()
    # Not None, so that whoever called looks the table up again.
    return opening + (_early(relay, counting, judgement, data[pos:end]) if planned else data[pos:end])


def is_planned(relay: Relay, data: bytes, pos: int) -> bool:
    """Whether the Bind at `pos`, of which the names are there, is counted itself, and so must be read whole."""
    portal_end = data.find(0, pos + HEADER)
    name_end = data.find(0, portal_end + 1) if portal_end >= 0 else -1
    if name_end < 0 or relay.counting is None:
        return False
    judgement = relay.prepared.believed(data[portal_end + 1 : name_end])
    return _is_planned(relay._judge.judge(handlers.PREPARED_BY_NAME) if judgement is None else judgement)


def _is_planned(judgement: Judgement) -> bool:
    return any(each.planned for each in judgement.counted)


def _early(relay: Relay, counting: Counting, judgement: Judgement, message: bytes) -> bytes:
    """A Parse or Bind that is counted itself. The server reads literals with their types' functions when it takes a Parse, which
    checks a domain in an array; it plans when it takes a Bind, and calls functions that are said to be STABLE or IMMUTABLE
    (manual, 36.7). No Execute need follow."""
    assert isinstance(judgement.verdict, Limit)
    relay.expect_counted(judgement.verdict.max_rows)
    return counting.counter.early + message + counting.after


def resets_at_work(relay: Relay, judgement: Judgement) -> Judgement | None:
    """The refusal of a RESET ALL or DISCARD ALL while a transaction may be open, because it would take back what is counted
    there, and of a text that is counted after it has taken our queries back. DEALLOCATE ALL alone may come at any time, and where
    the policy only observes nothing is counted."""
    if not judgement.resets or relay.counting is None or judgement.observed is not None:
        return None
    quiet = relay.status == IDLE and not relay._unsynced and all(cycle == OWN for cycle in relay._cycles)
    only_prepared = not any(map(takes_back_settings, judgement.effects))
    if type(judgement.verdict) is not Limit and (only_prepared or quiet):
        return None
    what = "it would take back what the session counts in the transaction at work"
    return limits.stopped(limits.ResetAtWork().finding(None, message=what), judgement)


def execute(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    portal = data[pos + HEADER : handlers.text_end(data, pos + HEADER, end)][:NAME_BYTES]
    judgement = counting.portals.get(portal) or handlers.fetched(relay, portal)
    if judgement is None or portal in relay._statements.bound:
        return None
    assert isinstance(judgement.verdict, Limit)
    copies = judgement.counted[0].inserts
    relay._unsynced = True
    relay.expect_counted(judgement.verdict.max_rows)
    before = counting.counter.before(inserts=copies)
    if copies:
        counting.copy_waits = judgement
        relay.choose_client_handlers()
        return before + data[pos:end]
    return before + data[pos:end] + counting.after


def _sync_in_copy(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """The server drops it too (CopyGetData in copyfromparse.c), unless the COPY has failed by then, which is not known yet."""
    return b"" if relay._copying else _sync(relay, data, pos, end)


def _sync(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    handlers.sync(relay, data, pos, end)
    counting = relay.counting
    assert counting is not None
    counting.separate = True
    if not counting.prepare_next:
        return None
    counting.prepare_next = False
    return data[pos:end] + relay.prepare_again()


# What the server may send while something is counted.

BEGINS_IN: Final = {
    Phase.BEFORE: (Phase.CLIENTS,),
    Phase.EARLY: (Phase.CLIENTS,),
    Phase.AFTER: (Phase.KEPT, Phase.TAKEN),
}
"""In which phase our queries are answered."""
ENDS_IN: Final = {Phase.BEFORE: Phase.COUNTED, Phase.EARLY: Phase.TAKEN, Phase.AFTER: Phase.CLIENTS}
"""What comes behind."""


def _parameter_description(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """Kept for one message: a RowDescription or NoData comes right behind it."""
    counting = relay.counting
    assert counting is not None
    counting.described = data[pos:end]
    return b""


def _row_description(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    described, counting.described = counting.described, b""
    begins: Phase | None = None
    if data.find(counting.counter.name, pos, end) >= 0:
        if data.find(counting.counter.before_column, pos, end) >= 0:
            begins = Phase.BEFORE
        elif data.find(counting.counter.early_column, pos, end) >= 0:
            begins = Phase.EARLY
        elif data.find(counting.counter.after_column, pos, end) >= 0:
            begins = Phase.AFTER
    if begins is None:
        return described + data[pos:end] if described else None
    if counting.phase not in BEGINS_IN[begins]:
        raise ProtocolError("the server answered out of order")
    counting.phase = begins
    counting.extended = bool(described)
    relay.choose_server_handlers()
    return b""


def _no_data(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    described, counting.described = counting.described, b""
    return described + data[pos:end] if described else None


def _complete(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """CommandComplete, EmptyQueryResponse or PortalSuspended: the end of one statement's answer."""
    counting = relay.counting
    assert counting is not None
    if counting.phase is Phase.COUNTED:
        counting.kept = data[pos:end]
        counting.phase = Phase.KEPT
        return b""
    if counting.changed:
        tag = data[pos + HEADER : end - 1]
        if tag == b"COMMIT":
            relay.tell_changed()
        elif tag == b"ROLLBACK":
            counting.failed = True
    return None


def _error(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    counting.phase = Phase.CLIENTS
    counting.kept = counting.described = b""
    counting.failed = True
    relay.prepared.failed()
    relay.choose_server_handlers()
    if relay._copying:
        counting.copy_waits = None  # what comes of its data is dropped by the server
        relay.choose_client_handlers()
    frame = data[pos:end]
    overrun = counting.counter.overrun(frame)
    if overrun is not None:
        relay._copying = False
        judgement = limits.overrun(overrun.kind, overrun.what, counting.fault)
        relay.outcomes.append(judgement)
        return refusal(judgement)
    if counting.wrapped and relay._cycles and relay._cycles[0] == COUNTED_QUERY and b"\0P" in frame:
        frame = _with_position(frame, counting.wrapped[0])
    instead = handlers.error_response(relay, frame, 0, len(frame))
    return frame if instead is None else instead


def _with_position(frame: bytes, wrapped: Wrapped) -> bytes:
    error = ErrorResponse.decode(frame[HEADER:])
    moved = tuple(
        (letter, str(wrapped.position(int(text)))) if letter == POSITION and text.isdigit() else (letter, text)
        for letter, text in error.fields
    )
    return ErrorResponse(fields=moved).encode()


def _ready(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    if counting.kept:
        raise ProtocolError("the server did not answer a counting query")
    if relay._cycles and relay._cycles[0] == COUNTED_QUERY:
        counting.wrapped.popleft()
    handlers.ready_for_query(relay, data, pos, end)
    counting.phase = Phase.CLIENTS
    if relay.status == IDLE:
        if counting.failed:
            counting.changed = {}
        relay.tell_changed()
    counting.failed = False
    if not (relay._copying or relay._cycles or relay._unsynced):
        counting.copy_waits = None  # it failed before it asked for its data
        relay.choose_client_handlers()
        counting.land()
    relay.choose_server_handlers()
    return data[pos:end]


def _drop(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    return b""


def _own_row(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    if counting.phase is Phase.AFTER:
        counting.changed = changed_rows(data[pos + HEADER : end])
        counting.failed = False  # what was rolled back before is not among these
    return b""


def _own_complete(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    return b"" if counting.extended else _own_end(relay, data, pos, end)


def _own_end(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    counting = relay.counting
    assert counting is not None
    kept, counting.kept = counting.kept, b""
    if counting.phase is Phase.AFTER:
        counting.in_flight = max(0, counting.in_flight - counting.max_rows)
    counting.phase = ENDS_IN[counting.phase]
    relay.choose_server_handlers()
    return kept


def _own_unexpected(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    raise ProtocolError("the server answered a counting query in an unexpected way")


# What it answers when ours was a Query of its own.


def _own_error(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """Our queries are not there now; a counted statement will fail for it, and say why."""
    counting = relay.counting
    assert counting is not None
    error = ErrorResponse.decode(data[pos + HEADER : end])
    if error.severity in {"FATAL", "PANIC"}:
        relay.fatal = True
        return None
    counting.fault = error.message
    return b""


def _own_ready(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    handlers.ready_for_query(relay, data, pos, end)
    relay.choose_server_handlers()
    return b""


COUNTING_CLIENT: Final = changed_table(CLIENT, E=execute, S=_sync, c=counted_copy.copy_ends, f=counted_copy.copy_ends)
COPYING_CLIENT: Final = changed_table(COUNTING_CLIENT, **dict.fromkeys("QPBCDEFdcf", counted_copy.only_data), S=_sync_in_copy)
"""From the Execute of a COPY to the end of its data."""
COUNTING_SERVER: Final = changed_table(
    SERVER,
    G=counted_copy.copy_in_response,
    t=_parameter_description,
    T=_row_description,
    n=_no_data,
    C=_complete,
    I=_complete,
    s=_complete,
    E=_error,
    Z=_ready,
)
"""While something is counted, or was in a transaction that is still open."""
OWN_ANSWER: Final = changed_table(
    SERVER,
    **dict.fromkeys("TtnIsGHWVcd", _own_unexpected),
    D=_own_row,
    C=_own_complete,
    E=_error,
    Z=_own_unexpected,
    _1=_own_unexpected,
    _2=_drop,
    _3=_own_end,
)
"""While a counting query is answered."""
OWN_CYCLE: Final = changed_table(
    SERVER, **dict.fromkeys("TtnIsGHWVcdDCN", _drop), **dict.fromkeys(("_1", "_2", "_3"), _drop), E=_own_error, Z=_own_ready
)
"""While a Query of ours is answered."""
