"""What the audit says of changes while a proxy runs: freezes as a directory hears of them, and policies at a reload."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dbshield.config import Config, EnvironmentConfig
from dbshield.control.audit import AuditLog
from dbshield.control.changes import FreezeAudit, audit_policies, audit_reload, policy_changes
from dbshield.control.directory import Directory
from dbshield.control.vault import Vault
from dbshield.store.frozen import Freeze

NOW = 1_777_777_777.123456


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.jsonl"


def test_a_freeze_that_gives_way_to_another_leaves_no_gap(path: Path, tmp_path: Path) -> None:
    log = AuditLog(path)
    directory = Directory(control_dsn="", environments={}, vault=Vault.create(tmp_path / "key"))
    FreezeAudit(directory, log, clock=lambda: NOW)
    at = datetime.fromtimestamp(NOW, UTC)
    first = Freeze(id=1, environment="staging", reason="r", frozen_by="ann", frozen_at=at, until=None)
    other = dataclasses.replace(first, id=2, environment="production")
    for freezes in ([first], [first, other], [dataclasses.replace(other, environment="staging")], []):
        directory._freeze(freezes)
        directory._freeze(freezes)
    log.close()
    assert [(line["event"], line["freeze"]) for line in lines(path)] == [
        ("frozen", 1),
        ("frozen", 2),
        ("thawed", 2),
        ("frozen", 2),
        ("thawed", 1),
        ("thawed", 2),
    ]


UPSTREAM = "postgresql://app:hunter2@db.example.com/shop?sslmode=verify-full"


def test_a_reload_says_which_policies_it_changed(path: Path) -> None:
    def config(**environments: dict[str, Any]) -> Config:
        return Config(environments={name: EnvironmentConfig(upstream=UPSTREAM, **more) for name, more in environments.items()})

    old = config(staging={"max_rows": 10}, production={}, gone={"protected": ["a.*"]})
    new = config(
        staging={"max_rows": 20, "overrides": [{"rule": "DS201", "verdict": "deny"}], "token_ttl_days": 3},
        production={"token_ttl_days": 2},
    )
    log = AuditLog(path)
    audit_policies(log, old, new, now=NOW)
    audit_policies(log, new, new, now=NOW)
    log.close()
    gone, staging = lines(path)
    assert (gone["event"], gone["environment"], gone["changed"]["protected"]) == ("policy-changed", "gone", [["a.*"], None])
    assert list(staging["changed"]) == ["max_rows", "overrides"]
    assert staging["changed"]["max_rows"] == [10, 20]
    assert staging["changed"]["overrides"][1][0]["verdict"] == "deny"
    assert "hunter2" not in path.read_text(encoding="ascii")
    assert policy_changes(new, new) == {}


def test_a_reload_says_what_else_it_changed_and_no_secret(path: Path) -> None:
    def config(password: str, needed: int, **more: Any) -> Config:
        upstream = f"postgresql://app:{password}@db.example.com/shop?sslmode=verify-full"
        environment = EnvironmentConfig(upstream=upstream, approvals_needed=needed, max_rows=needed)
        return Config.model_validate({"environments": {"staging": environment}, **more})

    log = AuditLog(path)
    old = config("hunter2", 2)
    audit_reload(log, old, old, now=NOW)
    audit_reload(log, old, config("hunter3", 1, proxy={"login_failures": 5}), now=NOW)
    log.close()
    policy, settings = lines(path)
    assert (policy["event"], policy["changed"]) == ("policy-changed", {"max_rows": [2, 1]})
    assert settings["event"] == "configuration-changed"
    assert settings["changed"] == {
        "environments.staging.approvals_needed": [2, 1],
        "environments.staging.upstream": None,
        "proxy.login_failures": [20, 5],
    }
    assert "hunter" not in path.read_text()
