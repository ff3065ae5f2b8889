"""Alerts in the control database: made of the audit's entries, claimed by whoever sends them, and what became of each.

Laws:
- An entry becomes an alert once: how far the audit was read is written in the transaction that adds the alerts.
- Before an alert is sent it is claimed for `lease` seconds. Whoever dies with a claim leaves it to others once that is over: an
  alert is sent at least once, and once more only where somebody died between sending and writing it down.
- Any number of processes may do all of this at once; advisory locks let one at a time read the audit, and one at a time choose
  what a channel sends next. Times are the database's.
- What cannot be delivered is tried for a day, and then kept as failed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from dbshield.config.alerts import AlertsConfig
from dbshield.control.alert_rules import KINDS, alert_of, unreadable
from dbshield.control.alert_wording import Alert
from dbshield.store.database import Database
from dbshield.store.schema import alert_position, alerts, audit, audit_head

APPROVAL: Final = re.compile(r"apr-[a-z2-7]{8}")
READ_LOCK: Final = 0x6462_7368_616C_7274
"""The advisory lock of who makes alerts of the audit, "dbshalrt"."""
SEND_LOCK: Final = 0x6462_616C
"""The first half of the locks of who chooses what a channel sends, "dbal"."""
ENTRIES: Final = 1_000
"""Of the audit that are read at a time."""
AT_ONCE: Final = 1_000
"""Alerts that one message may stand for."""
SHOWN: Final = 10
"""Alerts that one message shows."""
GRACE: Final = timedelta(seconds=5)
"""Beyond a channel's timeout until a claim is over."""
BACKOFF_MOST: Final = 300
"""Seconds between two attempts."""
GIVE_UP: Final = timedelta(days=1)
KEPT: Final = timedelta(days=90)
ERROR_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """An alert that came up `count` times, between two moments."""

    alert: Alert
    first_at: datetime
    last_at: datetime
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent at once, and the alerts that it stands for."""

    ids: tuple[int, ...]
    title: str
    body: str
    urgent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An alert as it is kept: `state` is pending, sent or failed."""

    id: int
    channel: str
    event: str
    environment: str | None
    title: str
    body: str
    count: int
    first_at: datetime
    last_at: datetime
    state: str
    attempts: int
    ended_at: datetime | None
    error: str | None
    urgent: bool = False


class AlertStore:
    """The alerts in the control database, for the channels that are configured here."""

    def __init__(self, database: Database, channels: Mapping[str, AlertsConfig], *, site: str = "") -> None:
        """`site` is where people open the console, for links to it; empty where nobody said so."""
        self._database = database
        self._channels = channels
        self._site = site

    def read(self) -> int | None:
        """Makes alerts of the next entries of the audit; how many entries were read, None where somebody else is reading. The
        first time of all it begins at the end: what was before anybody listened is no news. StoreError where the control database
        is away."""
        with self._database.transaction() as connection:
            if not connection.scalar(select(func.pg_try_advisory_xact_lock(READ_LOCK))):
                return None
            end = connection.scalar(select(audit_head.c.position)) or 0
            position = connection.scalar(select(alert_position.c.position))
            if position is None:
                connection.execute(insert(alert_position).values(position=end))
                return 0
            if position >= end:
                if position > end:  # The control database came back from a backup.
                    connection.execute(update(alert_position).values(position=end))
                return 0
            query = select(audit.c.id, audit.c.at, audit.c.kind, audit.c.entry).where(audit.c.id > position, _telling())
            rows = connection.execute(query.order_by(audit.c.id).limit(ENTRIES)).all()
            self._add(connection, alike(_noted(rows, self._site)))
            newest = rows[-1].id if len(rows) == ENTRIES else max([end, *(row.id for row in rows)])
            connection.execute(update(alert_position).values(position=newest))
            return int(newest - position)

    def add_for(self, channel: str, noted: Noted) -> None:
        """An alert for one channel, which is made of nothing in the audit."""
        with self._database.transaction() as connection:
            now = _now(connection)
            connection.execute(insert(alerts).values(_row(channel, noted, now, now)))

    def add_sent(self, channel: str, noted: Noted, attempts: int) -> None:
        """Keeps an alert that was sent while it could not be written down."""
        with self._database.transaction() as connection:
            row = _row(channel, noted, noted.first_at, noted.first_at)
            connection.execute(insert(alerts).values(row | {"state": "sent", "ended_at": noted.last_at, "attempts": attempts}))

    def claim(self, channel: str) -> Message | None:
        """What this channel has to send now, if anything; the caller says `sent` or `failed` of it."""
        config = self._channels[channel]
        with self._database.transaction() as connection:
            locked = func.pg_try_advisory_xact_lock(SEND_LOCK, func.hashtext(channel))
            if not connection.scalar(select(locked)):
                return None
            now = _now(connection)
            free = or_(alerts.c.claimed_at.is_(None), alerts.c.claimed_at < now - timedelta(seconds=config.timeout) - GRACE)
            due = (alerts.c.channel == channel, alerts.c.state == "pending", alerts.c.due_at <= now, free)
            # What is urgent first: a thousand others that wait, for the rate or for a service that was away, hide none of it.
            order = (alerts.c.urgent.desc(), alerts.c.id)
            rows = connection.execute(select(alerts).where(*due).order_by(*order).limit(AT_ONCE).with_for_update()).all()
            if not rows:
                return None
            if not self._may_send(connection, channel, now):
                rows = [row for row in rows if row.urgent]
            ids = [row.id for row in rows]
            claimed = {"claimed_at": now, "attempts": alerts.c.attempts + 1}
            connection.execute(update(alerts).where(alerts.c.id.in_(ids)).values(claimed))
            return message([_kept(row) for row in rows], urgent=any(row.urgent for row in rows)) if rows else None

    def sent(self, message: Message) -> None:
        with self._database.transaction() as connection:
            done = {"state": "sent", "ended_at": _now(connection), "claimed_at": None, "error": None}
            connection.execute(update(alerts).where(_these(message)).values(done))

    def failed(self, message: Message, error: str) -> None:
        """Tried again later, each time after a longer while, for a day."""
        with self._database.transaction() as connection:
            now = _now(connection)
            connection.execute(
                update(alerts)
                .where(_these(message), alerts.c.created_at < now - GIVE_UP)
                .values(state="failed", ended_at=now, claimed_at=None, error=error[:ERROR_MAX])
            )
            pause = func.least(BACKOFF_MOST, func.power(2, func.least(alerts.c.attempts, 20) - 1))
            connection.execute(
                update(alerts)
                .where(_these(message))
                .values(due_at=now + func.make_interval(0, 0, 0, 0, 0, 0, pause), claimed_at=None, error=error[:ERROR_MAX])
            )

    def list_(self, *, channel: str | None = None, state: str | None = None, limit: int = 50) -> list[Kept]:
        """The newest alerts, oldest first."""
        query = select(alerts).order_by(alerts.c.id.desc()).limit(limit)
        if channel is not None:
            query = query.where(alerts.c.channel == channel)
        if state is not None:
            query = query.where(alerts.c.state == state)
        with self._database.transaction() as connection:
            return [_kept(row) for row in connection.execute(query)][::-1]

    def forget(self) -> int:
        """Removes what ended long ago, and what waits for a channel that is configured no more; how many."""
        with self._database.transaction() as connection:
            now = _now(connection)
            old = alerts.c.ended_at < now - KEPT
            orphaned = and_(alerts.c.state == "pending", alerts.c.created_at < now - GIVE_UP - GIVE_UP)
            return connection.execute(delete(alerts).where(or_(old, orphaned))).rowcount

    def _add(self, connection: Connection, noted: Iterable[Noted]) -> None:
        now = _now(connection)
        fresh: list[dict[str, Any]] = []
        for one in noted:
            for name, config in self._channels.items():
                if wants(config, one.alert) and not self._joined(connection, name, one):
                    wait = 0.0 if one.alert.urgent else config.group_seconds
                    fresh.append(_row(name, one, now, now + timedelta(seconds=wait)))
        if fresh:
            connection.execute(insert(alerts), fresh)

    @staticmethod
    def _joined(connection: Connection, channel: str, noted: Noted) -> bool:
        """Whether an alert like it waits, which then stands for this one too."""
        alert = noted.alert
        like = (
            alerts.c.channel == channel,
            alerts.c.event == alert.event,
            alerts.c.environment.is_not_distinct_from(alert.environment),
            alerts.c.subject == alert.subject,
            alerts.c.state == "pending",
            alerts.c.claimed_at.is_(None),
        )
        found = connection.scalar(select(alerts.c.id).where(*like).order_by(alerts.c.id).limit(1).with_for_update())
        if found is None:
            return False
        more = {"count": alerts.c.count + noted.count, "last_at": func.greatest(alerts.c.last_at, noted.last_at)}
        connection.execute(update(alerts).where(alerts.c.id == found).values(more))
        return True

    def _may_send(self, connection: Connection, channel: str, now: datetime) -> bool:
        """Whether the channel's last message is long enough ago."""
        last = connection.scalar(select(func.max(alerts.c.ended_at)).where(alerts.c.channel == channel, alerts.c.state == "sent"))
        return last is None or last + timedelta(seconds=self._channels[channel].min_interval) <= now


def wants(config: AlertsConfig, alert: Alert) -> bool:
    """Whether a channel is told of this. What is in no environment concerns all of them."""
    if alert.event not in config.events:
        return False
    return not config.environments or alert.environment is None or alert.environment in config.environments


def alike(noted: Iterable[Noted]) -> list[Noted]:
    """One for all that are alike, in the order of their first."""
    found: dict[tuple[str, str | None, str], Noted] = {}
    for one in noted:
        key = (one.alert.event, one.alert.environment, one.alert.subject)
        known = found.get(key)
        if known is None:
            found[key] = one
        else:
            found[key] = replace(
                known,
                count=known.count + one.count,
                first_at=min(known.first_at, one.first_at),
                last_at=max(known.last_at, one.last_at),
            )
    return list(found.values())


def message(alerts_: Sequence[Kept], *, urgent: bool = False) -> Message:
    """One message for these. Of many, what is urgent is shown first, then the rarest events: a flood hides no other kind."""
    ids = tuple(alert.id for alert in alerts_)
    if len(alerts_) == 1:
        return Message(ids=ids, title=f"dbshield: {_headline(alerts_[0])}", body=_text(alerts_[0]), urgent=urgent)
    often = Counter(alert.event for alert in alerts_)
    ordered = sorted(alerts_, key=lambda alert: (not alert.urgent, often[alert.event], alert.id))
    parts = [f"{_headline(alert)}\n{_text(alert)}" for alert in ordered[:SHOWN]]
    left = Counter(alert.event for alert in ordered[SHOWN:])
    if left:
        kinds = ", ".join(f"{number} {event}" for event, number in left.most_common())
        parts.append(f"and {sum(left.values())} more ({kinds}): dbshield alerts list")
    kinds = ", ".join(f"{number} {event}" for event, number in often.most_common())
    return Message(ids=ids, title=f"dbshield: {len(alerts_)} alerts: {kinds}", body="\n\n".join(parts), urgent=urgent)


def _headline(alert: Kept) -> str:
    return f"{alert.title} ({alert.count} times)" if alert.count > 1 else alert.title


def _text(alert: Kept) -> str:
    when = alert.first_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if alert.count > 1:
        when += f" to {alert.last_at.strftime('%H:%M:%S')}"
    return f"{alert.body}\nWhen: {when}"


def _noted(rows: Sequence[Any], site: str) -> Iterable[Noted]:
    for row in rows:
        try:
            fields = json.loads(row.entry)
            alert = alert_of(row.kind, fields)
            number = str(fields.get("approval", ""))
            if alert is not None and site and APPROVAL.fullmatch(number):
                alert = replace(alert, body=f"{alert.body}\nOpen: {site}/approvals/{number}")
        except Exception:  # noqa: BLE001  (an entry of no known form shall not keep those behind it from being told)
            alert = unreadable(row.kind, row.id)
        if alert is not None:
            yield Noted(alert=alert, first_at=row.at, last_at=row.at)


def _telling() -> ColumnElement[bool]:
    """Entries that may be worth telling; most of all entries are statements that passed."""
    stopped = audit.c.verdict.in_(("hold", "deny"))
    return and_(audit.c.kind.in_(KINDS), or_(audit.c.kind != "statement", stopped))


def _row(channel: str, noted: Noted, now: datetime, due: datetime) -> dict[str, Any]:
    alert = noted.alert
    return {
        "channel": channel,
        "event": alert.event,
        "environment": alert.environment,
        "subject": alert.subject,
        "title": alert.title,
        "body": alert.body,
        "count": noted.count,
        "first_at": noted.first_at,
        "last_at": noted.last_at,
        "urgent": alert.urgent,
        "state": "pending",
        "created_at": now,
        "due_at": due,
    }


def _these(message: Message) -> ColumnElement[bool]:
    return and_(alerts.c.id.in_(message.ids), alerts.c.state == "pending")


def _kept(row: Any) -> Kept:
    return Kept(**{name: getattr(row, name) for name in Kept.__slots__})


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now
