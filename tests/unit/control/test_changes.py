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
from dbshield.control.changes import FreezeAudit, audit_reload
from dbshield.control.directory import Directory
from dbshield.control.picture import picture_of
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
    audit_reload(log, picture_of(old, b"key"), picture_of(new, b"key"), now=NOW)
    audit_reload(log, picture_of(new, b"key"), picture_of(new, b"key"), now=NOW)
    log.close()
    gone, staging, others = lines(path)
    assert (gone["event"], gone["environment"], gone["changed"]["protected"]) == ("policy-changed", "gone", [["a.*"], None])
    assert list(staging["changed"]) == ["max_rows", "overrides"]
    assert staging["changed"]["max_rows"] == [10, 20]
    assert staging["changed"]["overrides"][1][0]["verdict"] == "deny"
    assert (others["event"], others["changed"]["environments.staging.token_ttl_days"]) == ("configuration-changed", [30, 3])
    assert "hunter2" not in path.read_text(encoding="ascii")


def test_a_reload_says_what_else_it_changed_and_no_secret(path: Path) -> None:
    def config(password: str, needed: int, **more: Any) -> Config:
        upstream = f"postgresql://app:{password}@db.example.com/shop?sslmode=verify-full"
        environment = EnvironmentConfig(upstream=upstream, approvals_needed=needed, max_rows=needed)
        return Config.model_validate({"environments": {"staging": environment}, **more})

    log = AuditLog(path)
    old, new = config("hunter2", 2), config("hunter3", 1, proxy={"login_failures": 5})
    audit_reload(log, picture_of(old, b"key"), picture_of(old, b"key"), now=NOW)
    audit_reload(log, picture_of(old, b"key"), picture_of(new, b"key"), now=NOW)
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
