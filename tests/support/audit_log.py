"""A session that writes into the audit's file, and what stands there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dbshield.control.audit import AuditedSession, AuditLog
from dbshield.model import (
    Allow,
    Effect,
    Finding,
    Flag,
    Hold,
    Judgement,
    ObjectKind,
    ObjectName,
    Operation,
)

NOW = 1_777_777_777.123456
READ = Judgement(
    verdict=Allow(),
    normal="select * from orders where id = $1",
    effects=(Effect(operation=Operation.READ, kind=ObjectKind.TABLE, name=ObjectName(name="orders")),),
)
DROP = Judgement(
    verdict=Hold(),
    normal="drop table orders",
    findings=(
        Finding(rule="DS101", name="objects.drop", verdict=Hold(), message="m", hint="h"),
        Finding(rule="DS101", name="objects.drop", verdict=Hold(), message="m", hint="h"),
        Finding(rule="DS102", name="objects.cascade", verdict=Hold(), message="m", hint="h"),
    ),
    effects=(
        Effect(
            operation=Operation.DROP,
            kind=ObjectKind.TABLE,
            name=ObjectName(schema="shop", name="orders"),
            flags=frozenset({Flag.CASCADE}),
        ),
    ),
)


def connect(log: AuditLog, **changes: Any) -> AuditedSession:
    fields: dict[str, Any] = {
        "agent": "claude",
        "environment": "staging",
        "database": "shop",
        "session": 7,
        "client": "10.0.0.1:5000",
        "token_id": "abcdefgh2345",
        "application_name": "psql",
    }
    return log.connected(NOW, **(fields | changes))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
