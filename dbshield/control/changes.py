"""What changes for agents while a proxy runs, for the audit: freezes that begin and end, and policies that a reload changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dbshield.config import Config
from dbshield.config.policy import PolicyConfig
from dbshield.control.audit import AuditLog
from dbshield.control.directory import Directory
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


def audit_policies(audit: AuditLog, old: Config, new: Config, *, now: float) -> None:
    """Writes down what a reload changes of what agents may do."""
    for environment, changed in policy_changes(old, new).items():
        audit.policy_changed(now, environment=environment, changed=changed)


def policy_changes(old: Config, new: Config) -> dict[str, dict[str, tuple[Any, Any]]]:
    """By environment, the settings of its policy that differ, each with its old and its new value; a value is None where the
    environment is not there."""
    changes: dict[str, dict[str, tuple[Any, Any]]] = {}
    for environment in sorted({*old.environments, *new.environments}):
        before, after = _policy(old, environment), _policy(new, environment)
        changed = {
            key: (before.get(key), after.get(key)) for key in PolicyConfig.model_fields if before.get(key) != after.get(key)
        }
        if changed:
            changes[environment] = changed
    return changes


def _policy(config: Config, environment: str) -> dict[str, Any]:
    found = config.environments.get(environment)
    return found.model_dump(mode="json", include=set(PolicyConfig.model_fields)) if found is not None else {}
