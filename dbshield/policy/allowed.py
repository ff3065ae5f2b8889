"""The allow-list: which effects pass when no rule speaks, and the least access level that each takes.

What is not named here is stopped (DS902), so a new kind of effect must be thought about before it passes.
"""

from __future__ import annotations

from dbshield.model import AccessLevel, Effect, Flag, ObjectKind, Operation
from dbshield.policy.extension_lists import HARMLESS_EXTENSIONS
from dbshield.policy.rules.objects import ADDITIVE_ALTER, only_tunes, own_temporary
from dbshield.sqltext import bodies

LEVELS = (AccessLevel.READ, AccessLevel.WRITE, AccessLevel.MIGRATE)
"""From least to most."""

READ, WRITE, MIGRATE = LEVELS

SESSION = frozenset({Operation.TRANSACTION, Operation.CURSOR, Operation.NOTIFY, Operation.SET, Operation.READ, Operation.CALL})
"""What touches the session alone, or reads; settings and functions have rules of their own."""

ROWS = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})

CREATED = frozenset(
    {
        ObjectKind.TABLE,
        ObjectKind.INDEX,
        ObjectKind.VIEW,
        ObjectKind.MATERIALIZED_VIEW,
        ObjectKind.SEQUENCE,
        ObjectKind.SCHEMA,
        ObjectKind.TYPE,
        ObjectKind.POLICY,
    }
)
"""What `migrate` may create."""

TEMPORARY = frozenset({ObjectKind.TABLE, ObjectKind.INDEX, ObjectKind.SEQUENCE})
"""What `write` may create in its own temporary schema."""

MAINTENANCE = {"vacuum": WRITE, "analyze": WRITE, "refresh": MIGRATE, "reindex": MIGRATE}


def allowed_access(effect: Effect) -> AccessLevel | None:
    """The least access level at which `effect` passes when no rule speaks; None when it is not on the list."""
    operation, kind = effect.operation, effect.kind
    temporary = Flag.TEMPORARY in effect.flags
    if operation in SESSION or (operation is Operation.EXECUTE and kind is ObjectKind.STATEMENT):
        return READ
    if operation in ROWS or operation is Operation.TRUNCATE:
        return WRITE
    if operation is Operation.LOCK:
        return READ if effect.detail == "access share" else WRITE
    if operation in {Operation.CREATE, Operation.REPLACE}:
        return _created(effect, temporary)
    if operation is Operation.DROP:
        return WRITE if own_temporary(effect) else None
    if operation is Operation.ALTER:
        if effect.detail in ADDITIVE_ALTER or (kind is ObjectKind.TYPE and effect.detail == "enum"):
            return WRITE if temporary else MIGRATE
        if only_tunes(effect) or (kind is ObjectKind.CONSTRAINT and effect.detail == "rename"):
            return MIGRATE
        return WRITE if temporary and kind in {ObjectKind.TABLE, ObjectKind.COLUMN, ObjectKind.CONSTRAINT} else None
    if operation is Operation.MAINTAIN:
        return MAINTENANCE.get(effect.detail)
    return None


def _created(effect: Effect, temporary: bool) -> AccessLevel | None:
    if effect.operation is Operation.REPLACE and effect.kind is not ObjectKind.VIEW:
        return None
    if temporary and effect.kind in TEMPORARY:
        return WRITE
    if effect.kind in CREATED or effect.detail == "statistics":
        return MIGRATE
    if effect.kind is ObjectKind.EXTENSION and effect.name.name in HARMLESS_EXTENSIONS:
        return MIGRATE
    if effect.kind is ObjectKind.FUNCTION and effect.detail in bodies.READ_DETAILS:
        return MIGRATE
    return None


def least_access(effect: Effect) -> AccessLevel:
    """The least access level that may even ask for `effect`."""
    allowed = allowed_access(effect)
    if allowed is not None:
        return allowed
    if effect.operation in {Operation.FILE, Operation.PROGRAM, Operation.EXECUTE, Operation.UNKNOWN}:
        return READ  # Stopped for everybody by rules of their own; the level says nothing.
    upkeep = effect.operation is Operation.MAINTAIN and not effect.detail.startswith("refresh")
    return WRITE if upkeep else MIGRATE
