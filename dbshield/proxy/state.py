"""What the logins of one worker share."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from dbshield.config import Config
from dbshield.config.metrics import TracingConfig
from dbshield.control.audit import AuditLog
from dbshield.control.budget import RowBudget
from dbshield.control.directory import Directory
from dbshield.control.notes import FIRST_USE, Notes
from dbshield.proxy.approvals import WorkerApprovals
from dbshield.proxy.cancel import CancelKeys
from dbshield.proxy.catalogue import Watchers
from dbshield.proxy.identity import Identities
from dbshield.proxy.judges import Judges
from dbshield.proxy.meter import Meter
from dbshield.proxy.serving import Serving
from dbshield.proxy.sessions import Sessions
from dbshield.proxy.throttle import RefusedLines, Throttle
from dbshield.proxy.tracing import Tracing


@dataclass(slots=True, kw_only=True)
class WorkerState:
    """Of these only `config` and `tls` are ever exchanged: at a reload, for logins that come after it.

    `mock_secret` makes the salt of users that do not exist; every worker must have the same, or a client could tell them
    apart by asking twice.
    """

    config: Config
    tls: ssl.SSLContext | None
    directory: Directory
    audit: AuditLog
    budget: RowBudget
    judges: Judges
    sessions: Sessions
    cancel_keys: CancelKeys
    approvals: WorkerApprovals
    notes: Notes
    serving: Serving
    log: Any
    meter: Meter = field(default_factory=Meter)
    tracing: Tracing = field(default_factory=lambda: Tracing(TracingConfig(), statements=False))
    warned: set[str] = field(default_factory=set)
    """The agents whose role was found to be a superuser, so that the log says it once."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """What goes on behind the end of a session."""
    mock_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    watchers: Watchers = field(init=False)
    identities: Identities = field(init=False)
    throttle: Throttle = field(init=False)
    refused: dict[str, RefusedLines] = field(init=False)
    """Refused logins by what they are counted by: a client, a token that was proved, a client that is throttled. Apart, so that a
    guesser drowns neither what is said of a proved token, nor that it was throttled."""

    def __post_init__(self) -> None:
        proxy = self.config.proxy
        self.identities = Identities(lambda: self.directory.pins, self._first_use)
        self.watchers = Watchers(self.judges, self.log, self.directory.find, self.identities.check)
        self.throttle = Throttle(limit=proxy.login_failures, window=proxy.login_failure_window)
        window = proxy.login_failure_window
        self.refused = {
            "client": RefusedLines(window=window),
            "token": RefusedLines(window=window),
            "throttled": RefusedLines(window=window, per_source=1),
        }

    def _first_use(self, environment: str, system_identifier: int) -> None:
        now = time.time()
        self.log.warning(
            "an environment is pinned to the cluster that was found at its address first",
            environment=environment,
            system_identifier=system_identifier,
        )
        # In words: JSON's readers elsewhere cut a number of 64 bits.
        self.audit.event(
            now, "environment-pinned", environment=environment, system_identifier=str(system_identifier), person=FIRST_USE
        )
        self.notes.pin(environment, system_identifier, now)

    def login_refused(
        self, now: float, *, source: str, client: str, user: str, why: str, token_id: str = "", throttled: bool = False
    ) -> None:
        """Write a refused login into the audit, where not too many were; `source` is the client's address without its port, and
        `token_id` the token that was proved, if one was."""
        self.meter.refused("token" if token_id else "throttled" if throttled else "client")
        if token_id:
            if self.refused["token"].take(token_id, now):
                self.audit.event(now, "refused", user=user, client=client, reason=why, token=token_id)
        elif self.refused["throttled" if throttled else "client"].take(source, now):
            self.audit.connection_refused(now, client=client, user=user, why=why)

    def say_left_out(self, now: float, *, everything: bool = False) -> None:
        """Write how many refused logins got no line."""
        for name, lines in self.refused.items():
            for key, count in lines.drain() if everything else lines.left_out(now):
                self.audit.event(now, "refused-left-out", **{name: key or "others", "logins": count})

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else. The event loop alone would forget it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
