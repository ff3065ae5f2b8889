"""What a client reads instead of its statement's own answer, when a human has decided or when nobody has: words, and no I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum, unique
from typing import Final

from dbshield.config import EnvironmentConfig
from dbshield.control.approval import Approval, State
from dbshield.control.denials import Denial
from dbshield.session import held_answers
from dbshield.session.held import ALONE, HeldStatement
from dbshield.session.held_answers import Rows
from dbshield.session.refusal import INSUFFICIENT_PRIVILEGE

QUERY_CANCELED: Final = "57014"
OVER: Final = frozenset({State.DENIED, State.EXPIRED, State.WITHDRAWN, State.DONE, State.FAILED})
"""States that nothing leads out of."""
ASK_A_HUMAN: Final = "Ask a human to run it."
ASK_ANEW: Final = "Send the statement again to ask anew."
IN_VAIN: Final = "holds this statement for a human; nothing was executed"
UNKNOWN: Final = "unknown"
"""What DETAIL calls the state of an approval that nobody can look at."""
BEGUN: Final = {
    State.APPROVED: "was told to run this statement, and has not begun",
    State.RUNNING: "runs this statement now; what came of it is not known yet",
}


@unique
class Stop(Enum):
    """Why a session waits no longer, although nobody has decided."""

    TIME = "time"
    CANCELLED = "cancelled"
    GONE = "gone"
    DRAINING = "draining"
    FLOODED = "flooded"


GIVEN_UP: Final = frozenset({Stop.CANCELLED, Stop.GONE, Stop.FLOODED})
"""What the client itself brought about: it wants the statement no more."""


def decided(statement: HeldStatement, approval: Approval, now: datetime) -> bytes:
    """The answer of an approval that is over."""
    state = approval.state_at(now)
    match state:
        case State.DONE:
            return held_answers.ran(statement, approval.tag or "", rows(approval))
        case State.FAILED:
            return held_answers.failed(approval.error or {}, approval.id)
        case State.DENIED:
            said = next((decision for decision in reversed(approval.decisions) if not decision.approves), None)
            return denied(statement, f"{said.person}: {said.reason}" if said else "no reason was given", approval.id)
        case State.EXPIRED:
            what = "expired before it was decided and run"
        case _:
            why = (approval.error or {}).get("message")
            what = f"was withdrawn ({why})" if why else "was withdrawn"
    return held_answers.stopped(statement, f"{IN_VAIN}: {approval.id} {what}", hint=ASK_ANEW, approval=approval.id, state=state)


def rows(approval: Approval) -> Rows | None:
    """The rows that were stored with what an approved statement answered."""
    result = approval.result
    if result is None:
        return None
    columns = [(column["name"], column["type"], column["modifier"]) for column in result["columns"]]
    return Rows(columns=columns, rows=result["rows"])


def denied(statement: HeldStatement, reason: str, approval: str) -> bytes:
    return held_answers.stopped(
        statement,
        f"was told by a human not to run this statement; nothing was executed: {reason}",
        hint="Do what the reason says, or ask that person. The same in other words gets the same answer.",
        approval=approval,
        state=State.DENIED,
    )


def remembered(statement: HeldStatement, denial: Denial) -> bytes:
    """A denial of the same effect, a while ago."""
    return denied(statement, f"{denial.person}: {denial.reason}", denial.approval)


def in_vain(statement: HeldStatement, approval: Approval, settings: EnvironmentConfig, why: Stop | None, now: datetime) -> bytes:
    """The answer to a client that waits no longer, of an approval that is open or running. `why` is None where it was not to wait
    at all."""
    name, state = approval.id, approval.state_at(now)
    doing = BEGUN.get(state, IN_VAIN)
    again = f"send the identical statement again to wait for {name}" if state in BEGUN or state is State.WAITING else ASK_ANEW
    sqlstate = INSUFFICIENT_PRIVILEGE
    match why:
        case Stop.CANCELLED | Stop.GONE:
            sqlstate = QUERY_CANCELED
            left = "was withdrawn" if state is State.WITHDRAWN else f"stays {state}, since another session asked for it too"
            what, hint = f"gave up this statement, because the client cancelled it; {name} {left}", ASK_ANEW
        case Stop.FLOODED:
            what, hint = f"{doing}: too much came behind it", ALONE
        case Stop.DRAINING:
            what, hint = f"{doing}: dbshield is shutting down", f"Reconnect, and {again}."
        case _:
            waited = f" in {settings.approval_wait:g} seconds" if settings.approval_wait else " yet"
            what = f"{IN_VAIN}: nobody has decided on {name}{waited}" if state is State.WAITING else doing
            until = approval.expires_at.astimezone(UTC)
            hint = f"Tell a human to look at {name}. Approved before {until:%H:%M} UTC it is run without you; or {again}."
    return held_answers.stopped(statement, what, hint=hint, approval=name, state=state, sqlstate=sqlstate)


def unknown(statement: HeldStatement, approval: str, why: str) -> bytes:
    """The answer to a client that waits no longer while nobody can tell whether a human's yes has been taken up, or will be."""
    return held_answers.stopped(
        statement,
        f"cannot tell whether this statement ran or will run: {approval} cannot be looked at, since {why}",
        hint=f"Do not send it again before a human has looked (`dbshield approvals show {approval}`), when that is over.",
        approval=approval,
        state=UNKNOWN,
        sqlstate=QUERY_CANCELED,
    )


def progress(approval: Approval, state: State, seconds: float) -> str:
    """What a client is told that waits."""
    if state is State.APPROVED:
        return f"{approval.id} is approved and waits for the executor"
    if state is State.RUNNING:
        return f"{approval.id} is approved and runs"
    needed = approval.needed - len(approval.approved_by)
    people = "one person" if needed == 1 else f"{needed} persons"
    return (
        f"this statement waits for {people} to approve {approval.id}, {seconds:.0f} seconds more "
        f"(dbshield approvals show {approval.id})"
    )
