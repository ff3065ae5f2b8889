"""A counted COPY of the extended protocol, from its Execute to the end of its data.

Our query behind it cannot go out before that end. So the client sends nothing else until the server has asked for the data and
got all of it: only then is it known that the server runs the COPY, and not what the portal was bound to before; and only then
which Syncs it swallows (CopyGetData in copyfromparse.c), so that every ReadyForQuery is taken for what it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dbshield.errors import ProtocolError, Refused
from dbshield.session import handlers
from dbshield.session.handlers import COUNTED_QUERY, QUERY

if TYPE_CHECKING:
    from dbshield.session.relay import Relay

_DATA: Final = frozenset(b"dcf")
_ENDS: Final = frozenset(b"cf")


def copy_ends(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    handlers.copy_ends(relay, data, pos, end)
    counting = relay.counting
    assert counting is not None
    judgement, counting.copy_waits = counting.copy_waits, None
    if judgement is None:
        return None
    relay.choose_client_handlers()
    # Not None, so that whoever called looks the table up again.
    return data[pos:end] if data[pos] == ord("f") else data[pos:end] + counting.after


def only_data(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """Whatever the client sends but Sync and Flush. Raises Refused for all but data that the server has asked for."""
    check(relay, data[pos])
    return copy_ends(relay, data, pos, end) if data[pos] in _ENDS else None


def check(relay: Relay, kind: int) -> None:
    """Raises Refused for a message that may not come in the midst of a counted COPY, even if not all of it is there."""
    if relay.counting is None or relay.counting.copy_waits is None or (relay._copying and kind in _DATA):
        return
    raise Refused(
        "nothing may be sent behind a COPY before the server has asked for its data and got all of it",
        sqlstate="08P01",
        hint="Wait for CopyInResponse, send the data, CopyDone and Sync, and go on behind them.",
    )


def copy_in_response(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    """The server takes the data: it has swallowed the Syncs behind the Execute, and nothing else was let through."""
    counting = relay.counting
    assert counting is not None
    if relay._cycles and relay._cycles[0] in {QUERY, COUNTED_QUERY}:
        return None
    if counting.copy_waits is None:
        raise ProtocolError("the server asks for the data of a COPY that nobody sent")
    relay._statements.failed()  # it swallows the Sync whose answer would tell
    relay._cycles.clear()
    relay._copying = True
    return None
