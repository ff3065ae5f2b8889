"""The watch: reads what the audit says, tells people, freezes agents that are refused again and again, and ends
emergencies.

One runs beside each proxy, and `dbshield alerts run` is one alone. Any number may: what each does is one transaction under an
advisory lock, so nothing is done twice, and where one dies the others go on within a second.

That the control database is away cannot be written down in it: each watch tells that by itself, once an outage, for the machine
that it runs on.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from dbshield.config import Config
from dbshield.config.alerts import AlertsConfig
from dbshield.control.alert_send import send
from dbshield.control.alert_store import AlertStore, Noted, wants
from dbshield.control.alert_wording import Alert
from dbshield.control.audit_store import record
from dbshield.control.refusals import Refusals
from dbshield.errors import StoreError
from dbshield.store.database import Database

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at the audit; a look is one row."""
COUNT_EVERY: Final = 5.0
"""Seconds between two counts of refusals where none has come: a freeze that is over, with what led to it, begins anew."""
AWAY_AFTER: Final = 3.0
"""Seconds without the control database until people are told: a restart is no outage."""
FORGET_EVERY: Final = 3600.0
RETRY_FIRST: Final = 1.0
RETRY_MOST: Final = 60.0
"""Seconds between two attempts to tell of an outage."""


class Outage:
    """A while without the control database, as this machine saw it; `over` is when it was back. The channels' threads share
    it."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self.over: datetime | None = None


class Watch:
    """`settings` are those of the start; `also` is done at each look besides, `clock` gives seconds that only ever grow."""

    def __init__(
        self,
        database: Database,
        settings: Config,
        *,
        also: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._also = also
        self._database = database
        self._channels = settings.alerts
        self._clock = clock
        self._store = AlertStore(database, settings.alerts, site=settings.console.address)
        self._refusals = Refusals(database, settings.environments)
        self._away_since: float | None = None
        self._outage: Outage | None = None
        self._seen = -1
        self._count_again = True
        self._count_at = 0.0
        self._log: Any = structlog.get_logger("dbshield.alerts")

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set."""
        senders = [
            threading.Thread(
                target=_Sender(self, self._store, name, config).run, args=(stop,), name=f"alerts {name}", daemon=True
            )
            for name, config in self._channels.items()
        ]
        for sender in senders:
            sender.start()
        forget_at = 0.0
        while not stop.is_set():
            try:
                self.look()
                if self._clock() >= forget_at:
                    self._store.forget()
                    forget_at = self._clock() + FORGET_EVERY
                self._back()
            except StoreError as error:
                self._away(error)
            except Exception:  # noqa: BLE001  (a bug over one entry shall not leave everything else untold)
                self._log.exception("bug in the watch")
            stop.wait(LOOK_EVERY)
        for sender in senders:
            sender.join(timeout=LOOK_EVERY * 2)

    def look(self) -> None:
        """Does what there is to do now. StoreError where the control database is away."""
        self._also()
        newest, refused = self._refusals.news(self._seen)
        if refused or self._count_again or (newest != self._seen and self._clock() >= self._count_at):
            self._refusals.freeze_offenders()
            # Once more behind a refusal: another watch may have been counting already, without it.
            self._count_again = refused
            self._count_at = self._clock() + COUNT_EVERY
        if newest == self._seen:
            return
        read: int | None = 1 if self._channels else 0
        while read:
            read = self._store.read()
        # Somebody else who reads may die before the end, and then nobody has read the rest: so look again.
        if read is not None:
            self._seen = newest

    @property
    def outage(self) -> Outage | None:
        """The newest outage that lasted long enough to be told of."""
        return self._outage

    def _away(self, error: StoreError) -> None:
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
            self._log.warning("the control database does not answer", why=error.message)
        if now - self._away_since >= AWAY_AFTER and (self._outage is None or self._outage.over is not None):
            self._outage = Outage(datetime.now(UTC))

    def _back(self) -> None:
        if self._away_since is None:
            return
        self._away_since = None
        self._seen = -1
        outage = self._outage
        if outage is not None and outage.over is None:
            record(self._database, kind="control-away", since=outage.since, machine=socket.gethostname())
            outage.over = datetime.now(UTC)
        self._log.info("the control database answers again")


class _Sender:
    """Sends what one channel is told, one message at a time, in a thread of its own."""

    def __init__(self, watch: Watch, store: AlertStore, name: str, config: AlertsConfig) -> None:
        self._watch = watch
        self._store = store
        self._name = name
        self._config = config
        self._told: Outage | None = None
        self._done: Outage | None = None
        self._attempts = 0
        self._try_at = 0.0
        self._log: Any = structlog.get_logger("dbshield.alerts").bind(channel=name)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._tell_outage()
                while not stop.is_set() and self._send_next():
                    pass
            except StoreError:
                pass  # The watch says so.
            except Exception:  # noqa: BLE001  (a bug over one message shall not keep all others from being sent)
                self._log.exception("bug in the watch")
            stop.wait(LOOK_EVERY)

    def _send_next(self) -> bool:
        found = self._store.claim(self._name)
        if found is None:
            return False
        error = send(self._name, self._config, found.title, found.body, urgent=found.urgent)
        if error:
            self._log.warning("an alert was not delivered", alerts=len(found.ids), why=error)
            self._store.failed(found, error)
        else:
            self._store.sent(found)
        return True

    def _tell_outage(self) -> None:
        """Tells that the control database is away, itself, and that it is back, as anything else is told."""
        outage = self._watch.outage
        if outage is None or outage is self._done:
            return
        if outage.over is None:
            if outage is not self._told:
                self._tell_away(outage)
            return
        if wants(self._config, _away()):
            if outage is self._told:
                self._store.add_sent(self._name, _noted(_away(), outage.since), self._attempts)
            self._store.add_for(self._name, _noted(_back_again(outage), outage.over))
        self._done = outage

    def _tell_away(self, outage: Outage) -> None:
        if not wants(self._config, _away()) or time.monotonic() < self._try_at:
            return
        self._attempts += 1
        alert = _away()
        body = f"{alert.body}\nWhen: since {_clock(outage.since)}"
        error = send(self._name, self._config, f"dbshield: {alert.title}", body, urgent=True)
        if not error:
            self._told = outage
            return
        self._log.warning("an alert was not delivered", alerts=1, why=error)
        self._try_at = time.monotonic() + min(RETRY_MOST, RETRY_FIRST * 2 ** min(self._attempts, 10))


def _away() -> Alert:
    machine = socket.gethostname()
    return Alert(
        event="control-away",
        environment=None,
        subject=f"{machine} away",
        title=f"{machine} cannot reach the control database",
        body="Agents cannot write until it is back, unless [audit] when_away says otherwise; approvals and revocations wait.\n"
        "Look: at [control] url, at that server, and at the network between",
        urgent=True,
    )


def _back_again(outage: Outage) -> Alert:
    machine = socket.gethostname()
    return Alert(
        event="control-away",
        environment=None,
        subject=f"{machine} back",
        title=f"{machine} reaches the control database again",
        body=f"It was away since {_clock(outage.since)}.\nLook: dbshield audit verify",
        urgent=True,
    )


def _noted(alert: Alert, at: datetime) -> Noted:
    return Noted(alert=alert, first_at=at, last_at=at)


def _clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
