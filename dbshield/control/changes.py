"""What changes while a proxy runs, for the audit: freezes that begin and end, and what a reload changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from dbshield.control.audit import AuditLog
from dbshield.control.directory import Directory
from dbshield.control.picture import Picture, policy_changes, setting_changes
from dbshield.store.frozen import Freeze


class FreezeAudit:
    """Writes down what a directory hears of freezes. One for each worker, made before the directory starts."""

    def __init__(self, directory: Directory, audit: AuditLog, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._known: Mapping[str, Freeze] = {}
        directory.on_change(self._look)

    def _look(self) -> None:
        before, self._known = self._known, self._directory.freezes
        if before is self._known:
            return
        now = self._clock()
        for environment in sorted({*before, *self._known}):
            old, new = before.get(environment), self._known.get(environment)
            if old == new:
                continue
            # In this order, so that there is no moment without a freeze between two lines.
            if new is not None:
                self._audit.frozen(now, new)
            if old is not None:
                self._audit.thawed(now, old)


def audit_reload(audit: AuditLog, old: Picture, new: Picture, *, now: float) -> None:
    """Writes down everything that a reload changes: of what agents may do by environment, and of other settings."""
    for environment, changed in policy_changes(old, new).items():
        audit.policy_changed(now, environment=environment, changed=changed)
    if others := setting_changes(old, new):
        audit.event(now, "configuration-changed", changed=others)
