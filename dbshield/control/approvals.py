"""Approvals in the control database: asking, claiming, recording what came of it. Deciding is in `dbshield.control.deciding`.

Laws, each of them also kept by a trigger of the database (see migration 0005):
- An approval begins as waiting and moves only forward; what is done, failed, denied, expired or withdrawn stays so. It is used
  once, because nothing leads back to `approved`.
- What was asked for never changes.
- It becomes approved, and later running, only while enough people who are still there are for it, and nobody is against it.

Past its end an open approval counts as expired, without any timer: every operation compares the time it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from dbshield.control.approval import OPEN, Approval, Decision, State, read_approval
from dbshield.control.asking import Ask, new_id, remembered, store_findings, store_parameters
from dbshield.control.audit_store import Entry, append
from dbshield.control.person_roles import Role
from dbshield.errors import Refused
from dbshield.store.database import Database
from dbshield.store.schema import agents, approvals, decisions, freezes, people

UNDEFINED_OBJECT: Final = "42704"
WRONG_STATE: Final = "55000"
"""object_not_in_prerequisite_state"""
TOO_MANY: Final = "53400"
"""configuration_limit_exceeded"""

WAITING_MOST: Final = 50
"""Approvals of one agent that wait at once. A human who is asked for more reads none of them."""
LOCK_SPACE: Final = 0x6462_7368
"""The first half of the advisory locks of equal asks, "dbsh", so that they meet no others."""


class Approvals:
    """The approvals in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, ask: Ask, *, now: datetime, ttl: timedelta, needed: int, most: int = WAITING_MOST) -> Approval:
        """Asks for a statement. An equal ask of the same agent that is still open gives that one back, however many ask at once,
        and so does one that runs now: who lost the first answer and asks again does not have it run twice.

        Refused where the agent has too many that wait.
        """
        fresh = new_id()
        row = {
            "id": fresh,
            "environment": ask.environment,
            "agent": ask.agent,
            "agent_id": ask.agent_id,
            "access": ask.access.value,
            "database": ask.database,
            "session": ask.session,
            "application": ask.application,
            "statement": ask.statement,
            "parameters": store_parameters(ask.parameters),
            "settings": dict(ask.settings),
            "digest": ask.digest,
            "normal": ask.normal,
            "effects": [str(effect) for effect in ask.effects],
            "findings": store_findings(ask.findings),
            "remembers": remembered(ask),
            "requested_at": now,
            "expires_at": now + ttl,
            "needed": needed,
        }
        with self._database.transaction() as connection:
            # by agent, so that neither two equal asks nor one too many slip past each other
            connection.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, func.hashtext(f"{ask.agent}.{ask.environment}"))))
            equal = connection.scalar(
                select(approvals.c.id)
                .where(
                    approvals.c.environment == ask.environment,
                    approvals.c.digest == row["digest"],
                    approvals.c.agent_id.is_not_distinct_from(ask.agent_id),
                    or_(_is_open(now), approvals.c.state == State.RUNNING.value),
                )
                .order_by(approvals.c.requested_at)
                .limit(1)
            )
            if equal is None:
                self._not_too_many(connection, ask, now, most)
                connection.execute(insert(approvals).values(row))
                made = load(connection, fresh)
                append(connection, [approval_entry("approval-requested", made, now, rules=_rules(ask))])
                return made
            return load(connection, equal)

    def get(self, approval_id: str) -> Approval:
        """Refused where there is none with this id."""
        with self._database.transaction() as connection:
            return load(connection, approval_id)

    def list_(
        self,
        *,
        now: datetime,
        states: Collection[State] = (),
        environment: str | None = None,
        first: int = 0,
        limit: int | None = None,
    ) -> list[Approval]:
        """The approvals in these states as of `now` (in any where none is named), the oldest first; with `limit` no more than so
        many, from the one at place `first` on. Each comes with its whole statement: who shows a few of many asks for a few."""
        query = select(approvals).order_by(approvals.c.requested_at, approvals.c.id).offset(first).limit(limit)
        query = query.where(*_which(now, states, environment))
        with self._database.transaction() as connection:
            return _with_decisions(connection, connection.execute(query).all())

    def count(self, *, now: datetime, states: Collection[State]) -> int:
        """How many are in these states as of `now`."""
        with self._database.transaction() as connection:
            return connection.scalar(select(func.count()).select_from(approvals).where(*_which(now, states, None))) or 0

    def over(self, *, now: datetime, before: datetime | None = None, limit: int = 50) -> list[Approval]:
        """The newest of those that nobody decides or runs any more, by when they were asked for; those before a time."""
        query = select(approvals).where(or_(approvals.c.state.not_in((*OPEN, State.RUNNING)), _in_state(State.EXPIRED, now)))
        if before is not None:
            query = query.where(approvals.c.requested_at < before)
        query = query.order_by(approvals.c.requested_at.desc(), approvals.c.id.desc()).limit(limit)
        with self._database.transaction() as connection:
            return _with_decisions(connection, connection.execute(query).all())

    def withdraw(self, approval_id: str, now: datetime) -> Approval:
        """Takes an open one back. Refused where it is not open."""
        with self._database.transaction() as connection:
            withdrawn = move(connection, approval_id, State.WITHDRAWN, now=now, decided_at=now)
            append(connection, [approval_entry("approval-withdrawn", withdrawn, now)])
            return withdrawn

    def expire(self, now: datetime) -> int:
        """Writes down what has expired anyway; how many. Nothing depends on when this is called."""
        late = (approvals.c.state.in_(OPEN), approvals.c.expires_at <= now)
        with self._database.transaction() as connection:
            return connection.execute(update(approvals).where(*late).values(state=State.EXPIRED.value)).rowcount

    def previewed(self, approval_id: str, preview: Mapping[str, Any]) -> None:
        """Keeps what the human shall see besides the statement. Refused where it is not open."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                update(approvals).where(approvals.c.id == approval_id, approvals.c.state.in_(OPEN)).values(preview=dict(preview))
            )
            if not changed.rowcount:
                raise wrong_state(load(connection, approval_id), "is not open")

    # -- the executor

    def claim(self, executor: str, *, environments: Collection[str], now: datetime) -> Approval | None:
        """The oldest approved one of these environments, which this executor alone may run from now on; None where there is none.

        One that was changed by hand, or that lost its agent or a person who approved it, is withdrawn with the reason instead.
        While its environment or its agent is frozen it is left alone: it may expire meanwhile, or go on when the freeze is over.
        """
        query = (
            select(approvals)
            .where(
                approvals.c.state == State.APPROVED.value, approvals.c.expires_at > now, approvals.c.environment.in_(environments)
            )
            .where(~_frozen(now))
            .order_by(approvals.c.decided_at, approvals.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        while True:
            with self._database.transaction() as connection:
                row = connection.execute(query).one_or_none()
                if row is None:
                    return None
                [found] = _with_decisions(connection, [row])
                objection = _objection(found) or _agent_is_gone(connection, found)
                if not objection:
                    return move(connection, found.id, State.RUNNING, now=now, executor=executor, started_at=now)
                error = {"sqlstate": "42501", "message": objection, "detail": "", "hint": "Ask again."}
                withdrawn = move(connection, found.id, State.WITHDRAWN, now=now, error=error)
                append(connection, [approval_entry("approval-withdrawn", withdrawn, now, reason=objection)])

    def began(self, approval_id: str, transaction_id: str) -> None:
        """Keeps which transaction of the protected server runs it, so that after a crash it can be asked what became of it."""
        self._running(approval_id, {"transaction_id": transaction_id})

    def finished(
        self,
        approval_id: str,
        *,
        tag: str,
        result: Mapping[str, Any] | None = None,
        undo: str | None = None,
        now: datetime,
    ) -> Approval:
        """It ran and was committed. Refused where it is not running."""
        values = {"tag": tag, "result": None if result is None else dict(result), "finished_at": now}
        return self._running(approval_id, {**values, "state": State.DONE.value} | ({} if undo is None else {"undo": undo}))

    def failed(self, approval_id: str, error: Mapping[str, Any], *, now: datetime) -> Approval:
        """It did not run, or nothing of it stayed; `error`: sqlstate, message, detail, hint. Refused where it is not running."""
        return self._running(approval_id, {"error": dict(error), "finished_at": now, "state": State.FAILED.value})

    def _running(self, approval_id: str, values: Mapping[str, Any]) -> Approval:
        with self._database.transaction() as connection:
            changed = connection.execute(
                update(approvals).where(approvals.c.id == approval_id, approvals.c.state == State.RUNNING.value).values(**values)
            )
            found = load(connection, approval_id)
            if not changed.rowcount:
                raise wrong_state(found, "is not running")
            if "finished_at" in values:
                fields = {"tag": found.tag, "error": found.error, "undo": found.undo, "transaction": found.transaction_id}
                append(connection, [approval_entry("executed", found, values["finished_at"], **fields)])
            return found

    @staticmethod
    def _not_too_many(connection: Connection, ask: Ask, now: datetime, most: int) -> None:
        waiting = connection.scalar(
            select(func.count()).where(
                approvals.c.environment == ask.environment, approvals.c.agent == ask.agent, _in_state(State.WAITING, now)
            )
        )
        if waiting is not None and waiting >= most:
            raise Refused(
                f"{waiting} statements of {ask.agent} wait for a human already",
                sqlstate=TOO_MANY,
                hint="Wait for the answers; `dbshield approvals list` shows them to a human.",
            )


def load(connection: Connection, approval_id: str, *, lock: bool = False) -> Approval:
    """One approval with its decisions, locked until the end of the transaction if wanted. Refused where there is none."""
    query = select(approvals).where(approvals.c.id == approval_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise Refused(
            f"there is no approval {approval_id}",
            sqlstate=UNDEFINED_OBJECT,
            hint="`dbshield approvals list` shows those that there are.",
        )
    return _with_decisions(connection, [row])[0]


def move(connection: Connection, approval_id: str, state: State, *, now: datetime, **values: Any) -> Approval:
    """Moves an approval that is locked or alone. Refused where the move is not a legal one, or the time is over."""
    found = load(connection, approval_id, lock=True)
    if found.state_at(now) is State.EXPIRED:
        raise wrong_state(found, "has expired", expired=True)
    try:
        with connection.begin_nested():
            connection.execute(update(approvals).where(approvals.c.id == approval_id).values(state=state.value, **values))
    except IntegrityError as error:
        raise wrong_state(found, f"cannot become {state}") from error
    return load(connection, approval_id)


def approval_entry(kind: str, approval: Approval, at: datetime, **fields: Any) -> Entry:
    """What the audit keeps of something that happened to an approval: which it is, and not the statement's constants."""
    known = {
        "environment": approval.environment,
        "agent": approval.agent,
        "database": approval.database,
        "session": approval.session,
        "approval": approval.id,
        "digest": approval.digest.hex(),
        "state": approval.state.value,
        "statement": approval.normal,
    }
    return Entry(at=at, kind=kind, fields=known | fields)


def wrong_state(approval: Approval, why: str, *, expired: bool = False) -> Refused:
    """An approval that is not where it would have to be."""
    state = State.EXPIRED if expired else approval.state
    return Refused(
        f"approval {approval.id} {why}: it is {state}",
        sqlstate=WRONG_STATE,
        hint="An approval is for one use; the agent sends its statement again to ask anew.",
    )


def _objection(approval: Approval) -> str:
    """Why an approved one may not be run after all; empty where it may."""
    if not approval.intact:
        return f"approval {approval.id} was changed after it was asked for"
    if len(approval.approved_by) < approval.needed:
        return f"approval {approval.id} lost a person who had approved it"
    return ""


def _agent_is_gone(connection: Connection, approval: Approval) -> str:
    """Whoever removes an agent takes back what it asked for."""
    if approval.agent_id is None:
        return ""
    there = connection.scalar(select(agents.c.id).where(agents.c.id == approval.agent_id, agents.c.removed_at.is_(None)))
    return "" if there is not None else f"the agent that asked for approval {approval.id} was removed"


def _frozen(now: datetime) -> ColumnElement[bool]:
    """Whether the environment or the agent of an approval is frozen."""
    return exists().where(
        freezes.c.environment == approvals.c.environment,
        or_(freezes.c.agent.is_(None), freezes.c.agent == approvals.c.agent),
        freezes.c.lifted_at.is_(None),
        or_(freezes.c.until.is_(None), freezes.c.until > now),
    )


def _rules(ask: Ask) -> list[str]:
    return [finding.rule for finding in ask.findings]


def _is_open(now: datetime) -> ColumnElement[bool]:
    return and_(approvals.c.state.in_(OPEN), approvals.c.expires_at > now)


def _which(now: datetime, states: Collection[State], environment: str | None) -> list[ColumnElement[bool]]:
    wanted = [or_(*(_in_state(state, now) for state in states))] if states else []
    return [*wanted, approvals.c.environment == environment] if environment is not None else wanted


def _in_state(state: State, now: datetime) -> ColumnElement[bool]:
    if state in OPEN:
        return and_(approvals.c.state == state.value, approvals.c.expires_at > now)
    stored = approvals.c.state == state.value
    return or_(stored, and_(approvals.c.state.in_(OPEN), approvals.c.expires_at <= now)) if state is State.EXPIRED else stored


def _with_decisions(connection: Connection, rows: Iterable[Row[Any]]) -> list[Approval]:
    found = [dict(row._mapping) for row in rows]
    said: dict[str, list[Decision]] = {row["id"]: [] for row in found}
    if not said:
        return []
    there = and_(people.c.removed_at.is_(None), func.coalesce(people.c.enrolled_at <= decisions.c.at, False))
    # A denial of somebody who since may only look is a denial all the same.
    counts = and_(there, or_(people.c.role != Role.VIEWER.value, decisions.c.decision == "deny"))
    query = (
        select(decisions, counts.label("counts"))
        .join(people, people.c.name == decisions.c.person)
        .where(decisions.c.approval.in_(said))
        .order_by(decisions.c.at, decisions.c.person)
    )
    for row in connection.execute(query):
        said[row.approval].append(
            Decision(person=row.person, approves=row.decision == "approve", reason=row.reason, at=row.at, counts=row.counts)
        )
    return [read_approval(row, said[row["id"]]) for row in found]
