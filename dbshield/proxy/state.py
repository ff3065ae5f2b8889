"""What the logins of one worker share."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from dbshield.config import Config
from dbshield.control.audit import AuditLog
from dbshield.control.budget import RowBudget
from dbshield.control.directory import Directory
from dbshield.proxy.cancel import CancelKeys
from dbshield.proxy.catalogue import Watchers
from dbshield.proxy.judges import Judges
from dbshield.proxy.sessions import Sessions


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
    log: Any
    warned: set[str] = field(default_factory=set)
    """The agents whose role was found to be a superuser, so that the log says it once."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """What goes on behind the end of a session."""
    mock_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    watchers: Watchers = field(init=False)

    def __post_init__(self) -> None:
        self.watchers = Watchers(self.judges, self.log)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else. The event loop alone would forget it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
