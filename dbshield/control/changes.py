"""What changes while a proxy runs, for the audit: freezes that begin and end, and what a reload changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
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


def audit_reload(audit: AuditLog, old: Config, new: Config, *, now: float) -> None:
    """Writes down everything that a reload changes."""
    audit_policies(audit, old, new, now=now)
    if changed := setting_changes(old, new):
        audit.event(now, "configuration-changed", changed=changed)


def setting_changes(old: Config, new: Config) -> dict[str, tuple[Any, Any] | None]:
    """The settings that differ and are no policy, by their keys as in `proxy.login_failures`. Numbers and switches with their old
    and new value, None where one is not there; of anything else only that it changed, since it may hold a password."""
    before, after = _settings(old), _settings(new)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return {key: _told(before.get(key), after.get(key)) for key in changed}


def _told(before: Any, after: Any) -> tuple[Any, Any] | None:
    plain = all(value is None or isinstance(value, int | float) for value in (before, after))
    return (before, after) if plain else None


def _settings(config: Config) -> dict[str, Any]:
    policies = {name: set(PolicyConfig.model_fields) for name in config.environments}
    return dict(_leaves(config.model_dump(mode="json", exclude={"environments": policies}), ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
